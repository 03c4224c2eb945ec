"""What people and programs talk to: gateway, registry, keys and the command line."""
