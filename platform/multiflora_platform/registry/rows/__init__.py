"""Floor 3: what may become of one row (an alias, a version, a job), and reading rows; begins no transaction."""
