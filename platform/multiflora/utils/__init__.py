"""Module paths of vLLM's programs: their command lines, and ids of requests."""

from __future__ import annotations

import uuid

from multiflora.utils.argparse_utils import FlexibleArgumentParser

__all__ = ["FlexibleArgumentParser", "random_uuid"]


def random_uuid() -> str:
    return uuid.uuid4().hex
