"""Floor 3: where adapters are (disk, host memory, device slot), and how they move between the three."""
