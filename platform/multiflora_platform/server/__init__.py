"""Floor 8: one server process: application, middleware, listener, start and end of all services."""
