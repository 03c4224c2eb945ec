"""What the pool on the device is made of (rank rows, vectors, adapters' own tensors), and copies to it."""
