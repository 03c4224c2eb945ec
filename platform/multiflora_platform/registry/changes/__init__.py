"""Floor 6: one change, one transaction: adapters, versions, aliases, rollouts, jobs."""
