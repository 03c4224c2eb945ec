"""Floor 2: what requests see of the registry: an immutable snapshot, its loader, its store, traffic splits."""
