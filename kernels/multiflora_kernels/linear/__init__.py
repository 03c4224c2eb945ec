"""Floor 2: products with the base model's weights."""
