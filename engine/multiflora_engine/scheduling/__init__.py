"""Floor 4: which tokens of which sequences are computed next: queue, admission, fairness, budgets, deadlines."""
