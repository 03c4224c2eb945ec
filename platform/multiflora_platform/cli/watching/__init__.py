"""Commands that tell what a running server does: a live view, alerts and events, usage, profiles."""
