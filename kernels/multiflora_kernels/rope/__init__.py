"""Floor 5: rotary positions, QK norm and the write into the KV cache, fused."""
