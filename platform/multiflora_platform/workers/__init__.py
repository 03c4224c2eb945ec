"""Floor 1: worker processes that answer each line with a line, and may be ended at any moment: both ends."""
