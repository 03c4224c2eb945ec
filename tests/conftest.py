"""What every test shares: the Hugging Face libraries stay offline, and torch leaves cores to the other workers."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
