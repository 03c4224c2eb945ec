"""The exception for a base model that cannot be served as it was asked to, and what stands in place of its files.
Torch-free."""

from __future__ import annotations

from pathlib import Path

from multiflora_adapters.report import POINTER


class ModelError(Exception):
    """The model is missing, damaged, unsupported or too large here; the message names the cause and the next step."""


def mistaken_file(path: Path, beginning: bytes) -> str | None:
    """What is wrong with a file of which no other sense could be made, by its first bytes; None: it is not told."""
    if not beginning:
        return f"{path} is empty. Download or save the model again."
    if beginning.startswith(POINTER):
        return (
            f"{path} is a Git LFS pointer, not the file itself: the repository was cloned without its large files. Run "
            f"`git lfs pull` in {path.parent}, or download the model with `hf download`."
        )
    if beginning.lstrip()[:1] == b"<":
        return f"{path} is a web page. Download the model again."
    return None
