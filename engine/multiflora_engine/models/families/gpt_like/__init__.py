"""Families of the GPT kind: layer norms with biases, an MLP without a gate; positions of every sort."""
