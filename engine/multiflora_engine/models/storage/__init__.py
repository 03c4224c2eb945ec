"""Whether linears are kept in integers: what is asked for, and the form of each product."""
