"""`python -m multiflora.entrypoints.openai.api_server …`: `multiflora serve …` by vLLM's older name."""

from __future__ import annotations

import sys

from multiflora_platform.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["serve", *sys.argv[1:]]))
