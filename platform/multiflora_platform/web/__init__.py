"""Floor 1: what every HTTP route shares: problems, error envelopes, ETags, JSON bodies, pages, names."""
