"""Floor 3, below the decoder: decoder layers and what they are made of: linears with adapters, attention, MLP."""
