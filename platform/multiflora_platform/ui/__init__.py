"""Floor 6: the admin UI at /ui/: static files and a browser's sign-in. All it shows comes from the public API."""
