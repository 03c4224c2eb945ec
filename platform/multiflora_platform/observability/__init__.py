"""Floor 2: what is told of running requests: observers of a generation, Prometheus metrics, traces."""
