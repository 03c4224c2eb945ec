"""From a model's name to a local folder: a folder is taken as it is, anything else comes from the Hugging Face hub.

Knows nothing of what the files mean. Torch-free.
"""

from __future__ import annotations

import re
from pathlib import Path

from multiflora_engine.models.errors import ModelError

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_TEXT_FILES = ["*.json", "*.jinja", "merges.txt", "vocab.txt", "*.model", "tokenizer.model.*", "*.tiktoken"]
_MODEL_FILES = [*_TEXT_FILES, "*.safetensors"]
_PICKLE_FILES = [*_TEXT_FILES, "*.md", "LICENSE*", "NOTICE*", "pytorch_model*.bin"]
# Subfolders hold other formats; consolidated.safetensors is Mistral's second copy of the weights.
_UNWANTED = ["*/*", "consolidated*"]


def resolve_model(
    id_or_path: str | Path,
    cache_dir: Path | None = None,
    revision: str | None = None,
    token: str | None = None,
    *,
    weights: bool = True,
    pickles: bool = False,
) -> Path:
    """The folder of a model. A hub id may bring its revision: `org/model@v2`.

    cache_dir: where downloads are kept (default: Hugging Face's cache). token: default HF_TOKEN or the hub's login.
    weights: False fetches the configuration and the tokenizer alone. pickles: fetches the .bin files, which are for
    conversion alone, in place of safetensors. Raises ModelError.
    """
    folder = Path(id_or_path).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise ModelError(
            f"{id_or_path} is a file. Give the folder with config.json and the safetensors files, or a hub id."
        )
    name, revision = _with_revision(str(id_or_path), revision)
    if not _HUB_ID.fullmatch(name) or name.startswith("."):
        raise ModelError(f"There is no folder {id_or_path}. Give a model folder, or a Hugging Face id like org/model.")
    wanted = _PICKLE_FILES if pickles else _MODEL_FILES if weights else _TEXT_FILES
    return _download(name, cache_dir, revision, token, wanted)


def _with_revision(name: str, revision: str | None) -> tuple[str, str | None]:
    name, at, pinned = name.partition("@")
    if at and revision is not None and pinned != revision:
        raise ModelError(f"{name} is asked for at {pinned} and, by its revision, at {revision}. Give one of the two.")
    return name, pinned or revision


def _download(name: str, cache_dir: Path | None, revision: str | None, token: str | None, wanted: list[str]) -> Path:
    # Imported late: serving a local folder needs neither the hub nor its HTTP stack.
    from huggingface_hub import errors, snapshot_download

    try:
        folder = snapshot_download(
            name,
            cache_dir=cache_dir,
            revision=revision,
            token=token,
            allow_patterns=wanted,
            ignore_patterns=_UNWANTED,
        )
    except errors.GatedRepoError as error:
        raise ModelError(
            f"{name} is gated. Accept its terms on huggingface.co and set HF_TOKEN to a token that may read it."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ModelError(
            f"The hub has no model {name}, or it is private. Check the name, or set HF_TOKEN for a private one."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(f"{name} has no revision {revision}. Check its branches and tags on the hub.") from error
    except errors.HFValidationError as error:
        raise ModelError(f"{name} is neither a folder nor a hub id: {error}") from error
    except errors.LocalEntryNotFoundError as error:
        raise ModelError(
            f"{name} is not in the local cache and the hub cannot be reached. "
            "Check the network and HF_HUB_OFFLINE, or give a local folder."
        ) from error
    except (errors.HfHubHTTPError, OSError) as error:
        raise ModelError(f"{name} cannot be downloaded: {_first_line(error)}. Try again, or give a folder.") from error
    return Path(folder)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
