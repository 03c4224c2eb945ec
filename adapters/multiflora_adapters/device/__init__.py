"""What the pool on the device is made of: the rank rows, and vectors of which each slot has one."""
