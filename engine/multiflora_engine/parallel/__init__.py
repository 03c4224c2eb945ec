"""Ranks that compute one model together: their processes, what the first tells the others, adapters on all of them."""
