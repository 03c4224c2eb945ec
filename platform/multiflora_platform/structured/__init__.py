"""Floor 2: structured output, from what a request asks for to a grammar that the engine follows."""
