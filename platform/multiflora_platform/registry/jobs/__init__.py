"""Floor 4: runs the jobs of the database, with a heartbeat."""
