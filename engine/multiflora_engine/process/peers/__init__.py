"""What the engine does for each of several gateways: whom it owes what, and whom it asks for what it lacks."""
