"""Engines of other hosts: listed in the database, reached by lines that keys protect, joined to the fleet and left."""
