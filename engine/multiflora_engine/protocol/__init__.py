"""Floor 1: all that may cross the socket between gateway and engine: requests, messages, configuration. No torch."""
