"""Floor 4: the routes of /v1."""
