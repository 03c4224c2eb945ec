"""Measuring: a load generator for any OpenAI-compatible server, and timings of the kernels."""
