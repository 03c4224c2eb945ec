"""Who is calling: keys, tenants, and which role may use which route."""
