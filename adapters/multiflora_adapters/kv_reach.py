"""Which part of an adapter the keys and values of a prompt depend on: what its KV blocks are known by; and from which
token on. Torch-free.

Adapters that are equal in that part have equal KV, whatever else they change: the head, and in the last layer all that
comes behind its keys and values. What is not certain counts as part of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from multiflora_adapters.layout import AdapterLayout, SiteTensors
from multiflora_adapters.lora_config import AdapterConfig
from multiflora_adapters.tensor_file import TensorFile, read_pieces


class Activation(NamedTuple):
    """Where in a prompt an activated LoRA begins to change keys and values."""

    token: int  # the first that it computes
    kv_digest: str  # what the KV is known by from there on


@dataclass(frozen=True)
class KvReach:
    """What the KV of an adapter's tokens depends on."""

    digest: str | None  # of the part that it depends on; None: it is the base's
    # Of an activated LoRA: the tokens before the last place where these stand in a prompt are the base's.
    invocation: tuple[int, ...] = ()

    def first_token(self, prompt: Sequence[int]) -> int | None:
        """The first that the adapter computes, as in PEFT's calculate_alora_offsets; None: it is not invoked."""
        wanted = list(self.invocation)
        if not wanted:
            return 0
        starts = (at for at in range(len(prompt) - len(wanted), -1, -1) if prompt[at] == wanted[0])
        return next((at for at in starts if list(prompt[at : at + len(wanted)]) == wanted), None)

    def in_prompt(self, prompt: Sequence[int]) -> tuple[str | None, int]:
        """(what the KV is known by, the first token of which that is so); None: it is the base's."""
        first = self.first_token(prompt)
        return (None, 0) if first is None else (self.digest, first)


BASE_KV = KvReach(None)


def kv_reach(
    config: AdapterConfig,
    layout: AdapterLayout,
    weights: TensorFile,
    digest: str,
    sha256_of: Callable[[str], str],
) -> KvReach:
    """layout: of config and weights. digest: the adapter's, which stands for all of it. sha256_of: of the bytes of a
    tensor, by its name.

    The digest of a part is SHA-256 hex of the canonical JSON of its sites, each with scaling and tensors.
    """

    def content(name: str) -> tuple[str, tuple[int, ...], str]:
        entry = weights.tensors[name]
        return entry.dtype, entry.shape, sha256_of(name)

    invocation = config.alora_invocation_tokens or ()
    if layout.replaced or layout.fused or not all(map(_is_plain, layout.sites)):
        return KvReach(digest, invocation)
    parts = {
        planned.site.name: (planned.scaling, *(content(name) for name in (planned.a, planned.b) if name))
        for planned in layout.sites
        if planned.site.reaches_kv
    }
    if not parts:
        return KvReach(None, invocation)
    canonical = msgspec.json.encode({"kv": parts}, order="deterministic")
    return KvReach(hashlib.sha256(canonical).hexdigest(), invocation)


def sha256_in(weights: TensorFile) -> Callable[[str], str]:
    """Reads the bytes of a tensor of the file. Raises AdapterError when the file has become shorter, OSError."""

    def sha256_of(name: str) -> str:
        hasher = hashlib.sha256()
        with weights.path.open("rb") as file:
            for piece in read_pieces(file, weights, weights.tensors[name]):
                hasher.update(piece.data)
        return hasher.hexdigest()

    return sha256_of


def _is_plain(planned: SiteTensors) -> bool:
    """Whether it is A and B on a linear: they reach no further than its outputs, and differ where their bytes do."""
    others = (planned.magnitude, planned.lora_bias, planned.bias)
    return planned.site.kind == "linear" and not any(others)
