"""Floor 3: the rules of single rows: adapters, versions, aliases, rollouts, jobs, idempotency."""
