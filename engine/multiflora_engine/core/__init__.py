"""Floor 2: the types that the stages hand on: sequence, step, forward batch, KV cache, transfers, adapter source."""
