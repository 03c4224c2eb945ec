"""Floor 2: mixtures of experts: which experts a token goes to, and how their results come together."""
