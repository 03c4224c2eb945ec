"""Floor 3: why the prefix cache had no more of a prompt: compared with an earlier one, named, with the fix."""
