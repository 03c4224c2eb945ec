"""Floor 4: a fleet whose engines are simulated: the real router and block pools, in seconds that do not pass."""
