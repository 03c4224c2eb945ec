"""Commands that tell what a running server does: a live view, alerts, events, requests, the cache, usage, profiles."""
