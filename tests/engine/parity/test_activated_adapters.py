"""Activated LoRA (aLoRA) says what PEFT says: the base until the prompt's last invocation, whose blocks all share, and
the adapter from there on; beside others, in chunks, cached and preempted."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.engine.conftest import tiny
from tests.engine.parity.test_adapters import LINEAR, save_adapter
from transformers import LlamaConfig
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from multiflora_adapters.store import ArtifactStore
from multiflora_engine.protocol.requests import GenerateRequest
from multiflora_engine.protocol.sampling_params import SamplingParams

CALL = [290, 17, 291]
ACTIVATED = {"alora_invocation_tokens": CALL}
KINDS: dict[str, dict[str, Any]] = {
    "plain": {"r": 4, "target_modules": ["q_proj", "v_proj"]},
    "all_linear": {"r": 8, "target_modules": LINEAR, **ACTIVATED},
    "with_head": {"r": 4, "target_modules": ["k_proj", "up_proj", "lm_head"], "lora_bias": True, **ACTIVATED},
    "other_call": {"r": 4, "target_modules": LINEAR, "alora_invocation_tokens": [5]},
}
PREFIX = 96


@dataclass(frozen=True)
class Served:
    """ "base" is the model."""

    digests: dict[str, str | None]
    oracles: dict[str, Any]
    start: Callable[..., Any]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str | None], dict[str, Any]]:
    """(folder of model and artifacts, digests by name, what PEFT has of each)."""
    tmp_path = tmp_path_factory.mktemp("activated")
    torch.manual_seed(7)
    base = AutoModelForCausalLM.from_config(tiny(LlamaConfig, tie_word_embeddings=False, initializer_range=0.2)).eval()
    base.save_pretrained(tmp_path / "model")
    store = ArtifactStore(tmp_path / "artifacts")
    digests: dict[str, str | None] = {"base": None}
    oracles: dict[str, Any] = {"base": base}
    for name, kind in KINDS.items():
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="transformers|peft|huggingface_hub")
            oracles[name] = save_adapter(tmp_path / "model", tmp_path / name, kind)
        digests[name] = store.add(tmp_path / name).digest
    return tmp_path, digests, oracles


@pytest.fixture
def served(stored: Any, start_engine: Any) -> Served:
    folder, digests, oracles = stored
    start = partial(start_engine, folder / "model", artifact_root=str(folder / "artifacts"), max_model_len=256)
    return Served(digests, oracles, start)


def random_ids(count: int, seed: int) -> list[int]:
    """None of them invokes anything."""
    return torch.randint(20, 280, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def invoking(place: int, after: int = 5, call: list[int] = CALL) -> list[int]:
    """All of them begin alike; the invocation stands at the place."""
    return [*random_ids(200, 3)[:place], *call, *random_ids(after, place)]


PROMPTS = {
    "at a border": invoking(PREFIX),
    "within a block": invoking(PREFIX + 7, 30),
    "at the end": invoking(PREFIX + 13, 0),
    "at the beginning": invoking(0, 40),
    "in the first block": invoking(4, 50),
    "twice": [*invoking(20, 60), *CALL, 33, 34],
    "overlapping": [*random_ids(70, 3), 290, 17, 290, 17, 291, 290, 17, 40],
}
BEFORE = {"at a border": 96, "within a block": 96, "at the end": 96, "twice": 80, "overlapping": 64}
"""Tokens of whole blocks before the last invocation."""


def test_alone_it_generates_what_peft_generates(served: Served, ask: Any) -> None:
    """PEFT looks for the invocation in the prompt alone."""
    engine, prompts, peft = (
        served.start(max_num_batched_tokens=256),
        list(PROMPTS.values()),
        served.oracles["with_head"],
    )
    for prompt, answer in zip(prompts, ask(engine, prompts, [served.digests["with_head"]] * len(prompts)), strict=True):
        ids, length = torch.tensor([prompt]), {"max_new_tokens": 6, "min_new_tokens": 6}
        expected = peft.generate(input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, **length)
        assert answer.tokens == expected[0, len(prompt) :].tolist()


def test_beside_others_in_chunks_it_is_pefts(served: Served, ask: Any, check_answer: Any) -> None:
    engine = served.start()
    rows = [(name, prompt) for prompt in PROMPTS.values() for name in ("base", "plain", "all_linear", "with_head")]
    rows += [("other_call", invoking(PREFIX, call=[5]))]
    for prompt_logprobs in (0, None):
        names, prompts = [name for name, _ in rows], [prompt for _, prompt in rows]
        answers = ask(engine, prompts, [served.digests[name] for name in names], prompt_logprobs=prompt_logprobs)
        for (name, prompt), answer in zip(rows, answers, strict=True):
            check_answer(served.oracles[name], prompt, answer)


@pytest.mark.parametrize("place", ["within a block", "at the beginning", "twice", "overlapping"])
@pytest.mark.parametrize("earlier", ["base", "with_head"])
def test_blocks_before_the_invocation_are_the_bases(
    earlier: str, place: str, served: Served, ask: Any, check_answer: Any
) -> None:
    """Another's activated part is never found, though the tokens are the same."""
    engine = served.start()
    prompt = [*PROMPTS[place], *random_ids(40, 9)]
    ask(engine, [prompt], [served.digests[earlier]], max_tokens=1)
    for cached in (BEFORE.get(place, 0), (len(prompt) - 1) // 16 * 16):
        (answer,) = ask(engine, [prompt], [served.digests["all_linear"]], max_tokens=2)
        assert answer.cached_tokens == cached
        check_answer(served.oracles["all_linear"], prompt, answer)


def test_where_it_begins_belongs_to_its_blocks(served: Served, ask: Any, check_answer: Any) -> None:
    """The same tokens invoked later: what stands behind the first invocation was computed by the adapter before."""
    engine = served.start()
    once = [*invoking(20, 60)]
    ask(engine, [once], [served.digests["all_linear"]], max_tokens=1)
    twice = [*once, *CALL, 33, 34]
    (answer,) = ask(engine, [twice], [served.digests["all_linear"]])
    assert answer.cached_tokens == 16
    check_answer(served.oracles["all_linear"], twice, answer)


def test_the_base_and_others_start_on_what_it_computed_before(served: Served, ask: Any, check_answer: Any) -> None:
    engine = served.start()
    prompt = invoking(PREFIX + 7, 60)
    ask(engine, [prompt], [served.digests["all_linear"]], max_tokens=1)
    for name, cached in (("base", PREFIX), ("with_head", PREFIX), ("plain", 0)):
        (answer,) = ask(engine, [prompt], [served.digests[name]])
        assert answer.cached_tokens == cached
        check_answer(served.oracles[name], prompt, answer)


def test_preempted_ones_go_on_with_the_same_text(served: Served, ask: Any, check_answer: Any) -> None:
    block_bytes = 2 * 2 * 32 * 4 * 16
    engine = served.start(kv_cache_memory=20 * block_bytes)
    names = ("base", "plain", "all_linear", "with_head")
    rows = [(name, prompt) for prompt in list(PROMPTS.values())[:4] for name in names]
    answers = ask(engine, [p for _, p in rows], [served.digests[n] for n, _ in rows], max_tokens=30)
    assert engine.engine.stats().preemptions > 0
    for (name, prompt), answer in zip(rows, answers, strict=True):
        check_answer(served.oracles[name], prompt, answer)


def failure_of(engine: Any, prompt: list[int], **fields: Any) -> Any:
    request = GenerateRequest(id="r", prompt_token_ids=prompt, params=SamplingParams(max_tokens=2), **fields)
    engine.engine.add_request(request)
    found = None
    while engine.engine.has_work:
        for delta in engine.engine.step():
            found = delta.failure or found
    return found


def test_a_prompt_that_does_not_invoke_it_is_refused_or_the_bases(served: Served, ask: Any, check_answer: Any) -> None:
    prompt = [*random_ids(PREFIX, 3), *CALL[:2], 9, *CALL[1:]]
    engine = served.start()
    failure = failure_of(engine, prompt, adapter_digest=served.digests["all_linear"])
    assert failure.code == "adapter_not_invoked"
    assert str(CALL) in failure.message
    # How prompts begin that will invoke it.
    assert failure_of(engine, prompt, adapter_digest=served.digests["all_linear"], is_prefix=True) is None
    # Its slot is free again, and the base has what was computed.
    assert all(not row.running for row in engine.residency.snapshot())
    (answer,) = ask(engine, [prompt])
    assert answer.cached_tokens == PREFIX
    lenient = served.start(alora_fallback="base")
    for name in ("all_linear", "base"):
        (answer,) = ask(lenient, [prompt], [served.digests[name]])
        check_answer(served.oracles["base"], prompt, answer)
    assert answer.cached_tokens == PREFIX


def test_what_an_answer_says_invokes_nothing(served: Served, ask: Any) -> None:
    """A beam's next request has the answer so far behind its prompt."""
    engine = served.start()
    prompt, said = invoking(40, 20), [*CALL, 77]
    tokens = []
    for asked in (len(prompt), 0):
        params = SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True)
        engine.engine.add_request(
            GenerateRequest(
                id="r",
                prompt_token_ids=[*prompt, *said],
                params=params,
                adapter_digest=served.digests["all_linear"],
                num_asked_tokens=asked,
            )
        )
        found: list[int] = []
        while engine.engine.has_work:
            found += [token for delta in engine.engine.step() for token in delta.token_ids]
        tokens.append(found)
    with torch.no_grad():
        ids = torch.tensor([[*prompt, *said, *tokens[0]]])
        logits = served.oracles["all_linear"](ids, alora_offsets=[ids.shape[1] - 40]).logits[0]
    assert tokens[0] == logits[len(prompt) + len(said) - 1 : -1].argmax(-1).tolist()
    assert tokens[1] != tokens[0]
