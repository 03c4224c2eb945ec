"""Floor 3: who is calling: keys, tenants, and which role may use which route."""
