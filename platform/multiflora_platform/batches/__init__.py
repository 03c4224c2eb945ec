"""Floor 7: batch jobs over files, behind every request that a client waits for."""
