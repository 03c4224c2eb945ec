"""Floor 2: where versions come from besides an upload: local folders, Hugging Face, S3."""
