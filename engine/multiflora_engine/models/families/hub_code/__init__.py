"""Families whose code lies on the hub alone: our own reading of their weights."""
