"""Floor 5: mixtures of experts: routing, tiles of pairs, grouped products, the weighted sum, LoRA on experts."""
