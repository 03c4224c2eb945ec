"""Ray as what starts engines: its processes here, groups as applications of Ray Serve, what a replica of one runs."""
