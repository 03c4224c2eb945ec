"""Floor 2: measuring: a load generator for any OpenAI-compatible server, and timings of the kernels."""
