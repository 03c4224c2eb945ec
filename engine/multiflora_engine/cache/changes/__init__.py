"""What the prefix cache gains and loses, for those who mirror it: the log of changes, and what is held now."""
