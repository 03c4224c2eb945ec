"""Families of the Llama kind: rotary positions, a gated MLP."""
