"""The one exception for a base model that cannot be served. Torch-free."""

from __future__ import annotations


class ModelError(Exception):
    """The model is missing, damaged, unsupported or too large here; the message names the cause and the next step."""
