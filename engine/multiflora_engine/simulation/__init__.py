"""Floor 4: traces of blocks that requests used, and what policies of eviction find of them in pools of any size."""
