"""vLLM's module path of LoRARequest."""
