"""Floor 3: what operators see of a running server: its last day in numbers, its last requests, its cache, its slots."""
