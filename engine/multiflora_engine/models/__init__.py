"""Floor 3: from a checkpoint folder to a decoder: configuration, families, weights, rotary tables, linears."""
