"""Which products are kept in integers, and in which form. Reads no weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch

from multiflora_adapters.base_model import Site
from multiflora_engine.models.allocation import FormOf
from multiflora_engine.models.configuration.model_config import ModelConfig
from multiflora_engine.models.quantisation.dense_source import DenseSource
from multiflora_engine.models.quantisation.quantised_tensor import QuantisedTensor
from multiflora_engine.models.storage.choice import Storage
from multiflora_kernels.linear.integer import fits_integers
from multiflora_kernels.linear.quantised import INT8, W8A8, IntegerForm


def forms(config: ModelConfig, sources: Mapping[str, DenseSource], storage: Storage) -> FormOf:
    """sources: by the names of the dense tensors, checked."""
    left_out = frozenset(_left_out(config))
    head = config.head_site.name

    def of_stored(sites: Sequence[Site]) -> IntegerForm | None:
        if sites[0].name == head:
            return None
        found = {_form(sources[f"{site.name}.weight"]) for site in sites}
        form = found.pop()
        if found or form is None or not form.suits(sites[0].in_features):
            return None
        # Groups of inputs that do not lie side by side cannot be divided among ranks.
        has_all_inputs = sites[0].part is None or sites[0].part.columns is None
        return form if has_all_inputs or form.order is None else None

    def int8(sites: Sequence[Site]) -> IntegerForm | None:
        return None if sites[0].name in left_out else INT8

    def w8a8(sites: Sequence[Site]) -> IntegerForm | None:
        # The head sees few rows, and what it says of tokens that are nearly as likely decides an answer.
        can_round = sites[0].name != head and fits_integers(sites[0].in_features)
        return W8A8 if can_round and int8(sites) == INT8 else int8(sites)

    def bfloat16(sites: Sequence[Site]) -> torch.dtype | None:
        return None if int8(sites) is None else torch.bfloat16

    def dense(sites: Sequence[Site]) -> None:
        return None

    kinds: Mapping[Storage, FormOf] = {
        "dense": dense, "bfloat16": bfloat16, "as_stored": of_stored, "w8a8": w8a8, "int8_weight_only": int8
    }  # fmt: skip
    return kinds[storage]


def _form(source: DenseSource) -> IntegerForm | None:
    return source.form if isinstance(source, QuantisedTensor) else None


def _left_out(config: ModelConfig) -> Iterator[str]:
    """What is not made narrower: a head whose rows are divided by their lengths, which only dense ones are; and what
    decides between experts: small, and a wrong choice costs more than an inexact product."""
    if config.form.head_is_normalised:
        yield config.head_site.name
    for layer in config.layers:
        if (mixture := config.mixture(layer)) is not None:
            yield config.router_site(layer, mixture).name
            yield config.shared_gate_site(layer, mixture).name
