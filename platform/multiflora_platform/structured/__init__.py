"""Structured output: what a text must look like, from a request's words to a grammar that the engine follows."""
