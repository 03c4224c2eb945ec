"""Commands that tell what a running server does: alerts and events, usage, profiles."""
