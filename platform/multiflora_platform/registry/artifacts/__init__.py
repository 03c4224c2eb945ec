"""Floor 4: files of versions: scratch folders, model cards, collection of what no version names."""
