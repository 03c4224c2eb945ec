"""Module paths of vLLM's programs that name its engine's version."""
