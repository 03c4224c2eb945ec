"""How large the tables' integers get. Apart from the tables, so that bodies are checked where no database is."""

from __future__ import annotations

# What an INTEGER column of PostgreSQL holds.
LARGEST_NUMBER = 2**31 - 1
