"""The OpenAI-compatible server, by vLLM's name for it."""
