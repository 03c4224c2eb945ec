"""Who waits, in which order: turns of owners and of their adapters, deadlines, and what a flood leaves to others."""
