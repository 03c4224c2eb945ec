"""Mixes: several adapters served as one, known by their recipe and made from their parts' weights."""
