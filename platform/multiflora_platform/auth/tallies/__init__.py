"""What tenants had of their limits at most, and were refused, by day: summed over all servers on a database."""
