"""Floor 7: the engine as a process: its supervisor and client on one side, its socket and step loop on the other."""
