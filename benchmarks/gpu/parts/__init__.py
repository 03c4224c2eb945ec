"""What the first contact finds out, one module for each part of the catalogue."""
