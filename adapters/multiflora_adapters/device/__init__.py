"""What the pool on the device is made of: rank rows, vectors of which each slot has one, adapters' own tensors."""
