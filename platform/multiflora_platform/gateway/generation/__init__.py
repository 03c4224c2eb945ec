"""Floor 2: one admitted generation: model resolution, quota, stream of tokens, answer, event stream."""
