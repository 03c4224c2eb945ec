"""What commands show: tables and JSON, details, progress, lengths of time."""
