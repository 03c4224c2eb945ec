"""Floor 4: files of versions: scratch folders, leases, model cards, collection of what no version names."""
