"""Floor 1: bodies and answers of the registry, and what people may say about adapters and versions."""
