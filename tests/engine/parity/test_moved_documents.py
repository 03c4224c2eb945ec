"""Documents whose KV was computed elsewhere: transformers, given the same stitched KV, says the same."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from peft import PeftModel
from tests.engine.conftest import TOLERANCE, tiny
from tests.engine.parity.test_adapters import save_adapter
from transformers import GlmConfig, GPTNeoXConfig, LlamaConfig, PreTrainedModel, Qwen3Config, SmolLM3Config
from transformers.cache_utils import DynamicCache
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from multiflora_engine.core.moved_spans import MovedSpan, moved_spans
from multiflora_engine.protocol.requests import DocumentSpan, GenerateRequest, TokenDelta
from multiflora_engine.protocol.sampling_params import SamplingParams

BLOCK = 16
RECOMPUTED = 3
_chance = torch.Generator().manual_seed(5)


def words(count: int) -> list[int]:
    return torch.randint(0, 300, (count,), generator=_chance).tolist()


BEGINNING, QUESTION = words(21), words(9)
DOCUMENTS = [words(40), words(53), words(37)]
"""The first and the last end within a block; so does the beginning."""
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
MODELS = {
    "llama": lambda: tiny(LlamaConfig),
    "yarn": lambda: tiny(LlamaConfig, rope_parameters={"rope_theta": 10000.0, **YARN}),
    "norms_of_keys": lambda: tiny(Qwen3Config, head_dim=32),
    "part_of_a_head": lambda: tiny(GPTNeoXConfig, rotary_pct=0.5),
    "neighbours": lambda: tiny(GlmConfig, head_dim=32),
    "some_layers_do_not_rotate": lambda: tiny(SmolLM3Config, no_rope_layers=[1, 0]),
}


def prompt_of(documents: Sequence[list[int]]) -> tuple[list[int], list[DocumentSpan]]:
    """Behind each document a token that is no document's."""
    ids, spans = [*BEGINNING], []
    for document in documents:
        spans.append(DocumentSpan(len(ids), len(ids) + len(document), RECOMPUTED))
        ids += [*document, 7]
    return ids + QUESTION, spans


def moved_of(ids: list[int], spans: list[DocumentSpan], block_size: int = BLOCK) -> tuple[MovedSpan, ...]:
    request = GenerateRequest(id="x", prompt_token_ids=ids, params=SamplingParams(), documents=spans)
    return moved_spans(request, block_size)


def ask(built: Any, ids: list[int], spans: list[DocumentSpan], **fields: Any) -> tuple[list[int], list[float], int]:
    """(greedy tokens, their log-probabilities, cached tokens)."""
    params = SamplingParams(temperature=0.0, max_tokens=fields.pop("max_tokens", 6), logprobs=0, ignore_eos=True)
    request = GenerateRequest(id="x", prompt_token_ids=ids, params=params, documents=spans, **fields)
    built.engine.add_request(request)
    deltas: list[TokenDelta] = []
    while built.engine.has_work:
        deltas += built.engine.step()
    assert all(delta.failure is None for delta in deltas)
    logprobs = [position.chosen.logprob for delta in deltas for position in delta.logprobs or []]
    return [token for delta in deltas for token in delta.token_ids], logprobs, deltas[0].cached_tokens


def compute_alone(built: Any, documents: Sequence[list[int]], **fields: Any) -> None:
    for document in documents:
        ask(built, BEGINNING + document, [], max_tokens=1, **fields)


def turned(keys: torch.Tensor, distance: int, inv_freq: torch.Tensor, kind: str) -> torch.Tensor:
    """keys: [1, heads, N, D], of which as many leading dimensions as there are frequencies, twice, turn. kind: of
    model; GLM turns each dimension with its neighbour, all others with the one half of them further on."""
    half = len(inv_freq)
    if kind == "glm":
        pairs = torch.cat([keys[..., 0 : 2 * half : 2], keys[..., 1 : 2 * half : 2], keys[..., 2 * half :]], -1)
        first, second, rest = turned(pairs, distance, inv_freq, "").split_with_sizes(
            [half, half, keys.shape[-1] - 2 * half], -1
        )
        return torch.cat([torch.stack([first, second], -1).flatten(-2), rest], -1)
    cos, sin = (distance * inv_freq).cos(), (distance * inv_freq).sin()
    first, second, rest = keys[..., :half], keys[..., half : 2 * half], keys[..., 2 * half :]
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], -1)


@torch.no_grad()
def stitched_logits(model: Any, ids: list[int], moved: Sequence[MovedSpan]) -> torch.Tensor:
    """[T, V] of the tokens behind the last moved span: all others are computed in order, behind what is there."""
    rotary = next(module for name, module in model.named_modules() if name.endswith("rotary_emb"))
    cache, done = DynamicCache(), 0
    logits = torch.empty(0)
    for span in [*moved, None]:
        end = len(ids) if span is None else span.start
        logits = model(torch.tensor([ids[done:end]]), past_key_values=cache, use_cache=True).logits[0]
        if span is None:
            break
        count = span.stop - span.start
        alone = ids[: span.beginning] + ids[span.document : span.stop]
        source = model(torch.tensor([alone]), use_cache=True).past_key_values
        for number, layer in enumerate(source.layers):
            keys = layer.keys[:, :, span.source : span.source + count]
            values = layer.values[:, :, span.source : span.source + count]
            rotates = getattr(model.config, "no_rope_layers", None) or [1, 1]
            if rotates[number]:
                keys = turned(keys, span.start - span.source, rotary.inv_freq, model.config.model_type)
            cache.update(keys, values, number)
        done = span.stop
    return logits.float()


def check(model: PreTrainedModel, ids: list[int], spans: list[DocumentSpan], answer: Any) -> None:
    tokens, logprobs, _ = answer
    moved = moved_of(ids, spans)
    expected = stitched_logits(model, ids + tokens, moved).log_softmax(-1)[-len(tokens) - 1 : -1]
    assert tokens == expected.argmax(-1).tolist()
    assert (torch.tensor(logprobs) - expected.max(-1).values).abs().max() < TOLERANCE


@pytest.mark.parametrize("name", MODELS)
def test_it_is_transformers_with_the_same_kv(name: str, save_model: Any, start_engine: Any) -> None:
    """In chunks of 48 tokens, so that chunks end within documents, too."""
    model, folder = save_model(MODELS[name]())
    built = start_engine(folder)
    compute_alone(built, DOCUMENTS)
    for order in ([0, 1, 2], [2, 0, 1]):
        ids, spans = prompt_of([DOCUMENTS[i] for i in order])
        moved = moved_of(ids, spans)
        answer = ask(built, ids, spans)
        check(model, ids, spans, answer)
        exact = (len(BEGINNING) + len(DOCUMENTS[order[0]])) // BLOCK * BLOCK
        assert answer[2] == exact + sum(span.stop - span.start for span in moved)
        plain = ask(built, ids, [])
        assert plain[2] == moved[0].start // BLOCK * BLOCK, "no exact request finds what is approximate"
        assert max(abs(a - b) for a, b in zip(answer[1], plain[1], strict=True)) > 10 * TOLERANCE


def test_a_document_where_it_was_computed_is_exact(save_model: Any, start_engine: Any) -> None:
    model, folder = save_model(MODELS["llama"]())
    built = start_engine(folder)
    compute_alone(built, DOCUMENTS[:1])
    ids, spans = prompt_of(DOCUMENTS[:1])
    tokens, logprobs, cached = ask(built, ids, spans)
    exact = model(torch.tensor([ids + tokens])).logits[0].log_softmax(-1)[len(ids) - 1 : -1]
    assert tokens == exact.argmax(-1).tolist()
    assert (torch.tensor(logprobs) - exact.max(-1).values).abs().max() < TOLERANCE
    assert cached == (len(BEGINNING) + len(DOCUMENTS[0])) // BLOCK * BLOCK
    assert ask(built, ids, [])[2] == (len(ids) - 1) // BLOCK * BLOCK, "and exact requests find it"


def test_what_is_not_cached_is_computed_where_it_stands(save_model: Any, start_engine: Any) -> None:
    model, folder = save_model(MODELS["llama"]())
    built = start_engine(folder)
    ids, spans = prompt_of(DOCUMENTS)
    answer = ask(built, ids, spans)
    assert answer[2] == 0
    check(model, ids, [], answer)


def test_approximate_blocks_are_found_by_the_same_documents_alone(save_model: Any, start_engine: Any) -> None:
    _, folder = save_model(MODELS["llama"]())
    built = start_engine(folder)
    compute_alone(built, DOCUMENTS)
    ids, spans = prompt_of(DOCUMENTS)
    first = ask(built, ids, spans)
    again = ask(built, ids, spans)
    assert again[2] == (len(ids) - 1) // BLOCK * BLOCK
    assert again[0] == first[0]
    assert ask(built, ids, [])[2] == moved_of(ids, spans)[0].start // BLOCK * BLOCK
    assert ask(built, ids, spans, cache_salt="other")[2] == 0
    further = [DocumentSpan(span.start, span.stop, RECOMPUTED + 1) for span in spans]
    assert ask(built, ids, further)[2] < again[2], "another share is another KV"


def test_adapters_have_documents_of_their_own(tmp_path: Any, save_model: Any, start_engine: Any, store: Any) -> None:
    _, folder = save_model(tiny(LlamaConfig, tie_word_embeddings=False))
    save_adapter(folder, tmp_path / "adapter", {"r": 4, "target_modules": ["k_proj", "v_proj", "down_proj"]})
    digest = store.add(tmp_path / "adapter").digest
    oracle = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), tmp_path / "adapter").eval()
    built = start_engine(folder)
    ids, spans = prompt_of(DOCUMENTS)
    compute_alone(built, DOCUMENTS)
    assert ask(built, ids, spans, adapter_digest=digest, cache_salt="one")[2] == 0
    compute_alone(built, DOCUMENTS, adapter_digest=digest)
    answer = ask(built, ids, spans, adapter_digest=digest)
    check(oracle, ids, spans, answer)
    assert answer[2] > 100


@pytest.mark.parametrize("kv_dtype", ["int8", "fp8"])
def test_caches_of_8_bits_move_as_well(kv_dtype: str, save_model: Any, start_engine: Any) -> None:
    """Keys are rounded once more: near what a cache of floats says."""
    _, folder = save_model(MODELS["llama"]())
    ids, spans = prompt_of(DOCUMENTS)
    logprobs = []
    for dtype in ("auto", kv_dtype):
        built = start_engine(folder, kv_cache_dtype=dtype)
        compute_alone(built, DOCUMENTS)
        answer = ask(built, ids, spans, max_tokens=1)
        assert answer[2] > 100
        logprobs.append(answer[1][0])
    assert abs(logprobs[0] - logprobs[1]) < 0.5


def test_spans_are_apart_and_in_order() -> None:
    """What a prompt of such documents takes from elsewhere is never the first document, and in no document twice."""
    ids, spans = prompt_of(DOCUMENTS * 3)
    moved = moved_of(ids, spans)
    assert len(moved) == len(spans) - 1
    assert all(one.stop <= other.start for one, other in pairwise(moved))
    assert moved_of(ids, spans[:1]) == ()
    assert moved_of(ids, [*spans[:1], DocumentSpan(spans[0].stop, spans[0].stop + 2, 0)], 64) == ()
