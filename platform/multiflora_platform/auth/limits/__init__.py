"""How much a tenant may ask for right now: rates and concurrent requests, of one server or of all on a database."""
