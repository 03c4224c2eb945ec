"""vLLM's names for options, present and past, and what each does here (floor 2)."""
