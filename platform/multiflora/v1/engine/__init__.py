"""Engines by those paths."""
