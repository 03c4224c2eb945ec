"""Traffic whose prompts part over and over at the same place, by a value that changes or an order that does."""
