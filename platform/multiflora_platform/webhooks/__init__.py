"""Floor 4: events on their way to other servers: signed, retried, and only to permitted addresses."""
