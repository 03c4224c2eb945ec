"""Floor 5: the registry's side of the engine: load, probe, warm up, residency."""
