"""Floor 1: exact beam search over the engine."""
