"""Events on their way to other servers: signed, retried, and never to an address that was not meant to be reached."""
