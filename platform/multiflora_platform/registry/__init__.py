"""Floor 4: adapters, versions and aliases: what exists, what is ready, and what a name means right now."""
