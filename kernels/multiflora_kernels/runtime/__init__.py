"""Floor 1: what every op needs of Triton and of the compiled CPU library."""
