"""Numbers of an offline engine by those paths."""
