"""Floor 3: completions and chat completions as OpenAI writes them, whole or as a stream of chunks."""
