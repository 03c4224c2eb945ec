"""Floor 6: one request, one transaction that applies the rules of rows/ and swaps the snapshot with its commit."""
