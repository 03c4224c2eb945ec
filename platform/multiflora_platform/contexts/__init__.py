"""Floor 4: named contexts, beginnings of prompts that the prefix cache holds on purpose: rows, budget, holds."""
