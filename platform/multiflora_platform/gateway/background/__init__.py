"""Floor 3: generations that no client waits for: warm-up of prefixes and evaluation of adapters."""
