"""`python -m multiflora`: the command line."""

from __future__ import annotations

import sys

from multiflora_platform.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
