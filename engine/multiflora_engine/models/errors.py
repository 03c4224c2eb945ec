"""The exception for a base model that cannot be served as it was asked to. Torch-free."""

from __future__ import annotations


class ModelError(Exception):
    """The model is missing, damaged, unsupported or too large here; the message names the cause and the next step."""
