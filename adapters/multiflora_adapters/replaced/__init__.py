"""Rows of embedding and head that an adapter brings in the place of the base's: in its files, and on the device."""
