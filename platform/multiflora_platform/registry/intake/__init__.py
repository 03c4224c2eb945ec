"""Floor 7: from files to a ready or rejected version: uploads, imports, evals, recovery."""
