"""Floor 9: the `multiflora` command; one file for each of its commands, and what they share."""
