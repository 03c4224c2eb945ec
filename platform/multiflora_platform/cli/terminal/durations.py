"""Spans of time on the command line: `90d`, `12h`, `30m`, `15s`, or seconds."""

from __future__ import annotations

import argparse
import re

_UNITS = {"d": 86_400, "h": 3600, "m": 60, "s": 1, "": 1}


def seconds(text: str) -> int:
    """For argparse; raises its ArgumentTypeError."""
    found = re.fullmatch(r"(\d{1,9})([dhms]?)", text, re.ASCII)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no span of time; write 90d, 12h, 30m or 15s")
    return int(found[1]) * _UNITS[found[2]]
