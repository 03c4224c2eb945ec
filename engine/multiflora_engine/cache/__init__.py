"""Floor 3: the KV blocks and the prefix cache: block pool, block hashes, eviction, content index, administration."""
