"""Floor 2: what a process is doing, recorded beside its work: operations, stacks, memory that grows. Torch-free."""
