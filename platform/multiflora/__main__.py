"""`python -m multiflora`: the command line."""

from __future__ import annotations

from multiflora_platform.cli import main

if __name__ == "__main__":
    main()
