"""Floor 7: prompts with checks, asked of versions again and again: sets, runs, scores, comparisons."""
