"""Adapters, versions and aliases: what exists, what is ready, and what a name means right now."""
