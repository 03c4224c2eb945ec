"""Floor 7: base models that come and go while the server runs: opened, made into groups, started, drained, ended."""
