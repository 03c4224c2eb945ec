"""Floor 6: the OpenAI-compatible face of the server: requests checked and admitted, tokens turned into answers."""
