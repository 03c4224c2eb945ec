"""Floor 7: the routes of insight: series, alerts, requests, cache tree, slots, what would fit."""
