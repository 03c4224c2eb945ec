"""Floor 9: the routes of /api/v1 about adapters."""
