"""Floor 3: answers as OpenAI's chat and completions APIs write them, whole or as a stream of chunks."""
