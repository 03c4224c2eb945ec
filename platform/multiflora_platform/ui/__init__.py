"""The admin UI at /ui/: static files and a browser's sign-in. All it shows comes from the public API."""
