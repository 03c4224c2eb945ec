"""Floor 3: from logits to tokens: sampling batch, token counts, grammars and their masks, sampler."""
