"""A host's artifacts: which of them some process needs now, and how many bytes of them stay."""
