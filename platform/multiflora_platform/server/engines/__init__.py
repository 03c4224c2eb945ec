"""The engines of a server: started by it, or found elsewhere; and the host of one engine alone."""
