"""Floor 3, below the configuration: the model families that are served, one file for each, and what they can say."""
