"""Modules that vLLM starts by name."""
