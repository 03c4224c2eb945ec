"""Floor 3: chat completions as OpenAI writes them, whole or as a stream of chunks."""
