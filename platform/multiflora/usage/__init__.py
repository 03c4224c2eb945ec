"""Module path of vLLM's programs: where an engine is used."""
