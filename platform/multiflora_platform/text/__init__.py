"""Floor 1: between text and token ids: tokenizer, chat template, detokenizer, stop strings. No torch."""
