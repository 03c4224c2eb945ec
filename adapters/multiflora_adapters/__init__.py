"""The LoRA adapter format: manifest, validation, artifact store, and the way from files to device slots."""
