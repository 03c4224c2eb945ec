"""Adapters that reach no key or value start on the base's blocks, versions that differ only there on one another's, and
say what PEFT says."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tests.engine.conftest import tiny
from tests.engine.parity.test_adapters import save_adapter
from transformers import LlamaConfig
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from multiflora_adapters.mixes.recipe import Combination, Mix, MixPart, mix_digest
from multiflora_adapters.store import ArtifactStore
from multiflora_engine.protocol.messages import CacheRequest

BEHIND = r".*layers\.1\.(self_attn\.(q|o)_proj|mlp\.\w+_proj)"
KINDS: dict[str, dict[str, Any]] = {
    "head": {"r": 4, "target_modules": ["lm_head"]},
    "behind": {"r": 4, "target_modules": BEHIND},
    "last_key": {"r": 4, "target_modules": ["k_proj", "o_proj"], "layers_to_transform": [1]},
    "first_mlp": {"r": 4, "target_modules": r".*layers\.0\.mlp\.down_proj|.*lm_head"},
    "dora_behind": {"r": 4, "target_modules": ["o_proj"], "layers_to_transform": [1], "use_dora": True},
}
PREFIX_BLOCKS = 6


@dataclass(frozen=True)
class Served:
    """ "base" is the model; "first_mlp_2" differs from "first_mlp" in its head alone."""

    folder: Path
    digests: dict[str, str | None]
    oracles: dict[str, Any]
    start: Callable[..., Any]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str | None], dict[str, Any]]:
    """(folder of model and artifacts, digests by name, what PEFT has of each)."""
    tmp_path = tmp_path_factory.mktemp("sharing")
    torch.manual_seed(7)
    base = AutoModelForCausalLM.from_config(tiny(LlamaConfig, tie_word_embeddings=False, initializer_range=0.2)).eval()
    folder = tmp_path / "model"
    base.save_pretrained(folder)
    store = ArtifactStore(tmp_path / "artifacts")
    digests: dict[str, str | None] = {"base": None}
    oracles: dict[str, Any] = {"base": base}
    for name, kind in KINDS.items():
        oracles[name] = save_adapter(folder, tmp_path / name, kind)
        digests[name] = store.add(tmp_path / name).digest
    second = tmp_path / "first_mlp_2"
    shutil.copytree(tmp_path / "first_mlp", second)
    tensors = load_file(second / "adapter_model.safetensors")
    save_file({n: -t if "lm_head" in n else t for n, t in tensors.items()}, second / "adapter_model.safetensors")
    oracles[second.name] = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), second).eval()
    digests[second.name] = store.add(second).digest
    return tmp_path, digests, oracles


@pytest.fixture
def served(stored: Any, start_engine: Any) -> Served:
    folder, digests, oracles = stored
    start = partial(start_engine, folder / "model", artifact_root=str(folder / "artifacts"), max_model_len=256)
    return Served(folder, digests, oracles, start)


def prompts_of(names: list[str]) -> list[list[int]]:
    """A prefix of whole blocks and an end of its own for each."""
    generator = torch.Generator().manual_seed(11)
    prefix = torch.randint(0, 300, (PREFIX_BLOCKS * 16,), generator=generator).tolist()
    return [[*prefix, *torch.randint(0, 300, (5 + i,), generator=generator).tolist()] for i in range(len(names))]


def test_hits_are_the_bases_and_answers_are_pefts(served: Served, ask: Any, check_answer: Any) -> None:
    """Prompts are computed in chunks of 48 tokens, all of them in one batch."""
    digests, oracles = served.digests, served.oracles
    engine = served.start()
    names = list(digests)
    prompts = prompts_of(names)
    ask(engine, prompts[:1])
    answers = dict(zip(names, ask(engine, prompts, list(digests.values())), strict=True))
    for name, prompt in zip(names, prompts, strict=True):
        check_answer(oracles[name], prompt, answers[name])
    whole = PREFIX_BLOCKS * 16
    cached = {name: answer.cached_tokens for name, answer in answers.items()}
    assert cached == dict.fromkeys(("base", "head", "behind"), whole) | {
        "last_key": 0,
        "first_mlp": 0,
        "first_mlp_2": whole,
        "dora_behind": 0,
    }


def test_the_base_starts_on_blocks_of_such_an_adapter(served: Served, ask: Any, check_answer: Any) -> None:
    """What the adapter has said is the base's KV, too, where another turn resends it."""
    digests, oracles = served.digests, served.oracles
    engine = served.start()
    (prompt,) = prompts_of(["behind"])
    (said,) = ask(engine, [prompt], [digests["behind"]], max_tokens=40)
    check_answer(oracles["behind"], prompt, said)
    turn = [*prompt, *said.tokens, 7, 8, 9]
    for name in ("base", "head"):
        (answer,) = ask(engine, [turn], [digests[name]])
        assert answer.cached_tokens == (len(prompt) + len(said.tokens) - 1) // 16 * 16
        check_answer(oracles[name], turn, answer)


def test_a_running_prefill_goes_on_with_what_others_publish(served: Served, ask: Any, check_answer: Any) -> None:
    """Without patience two prompts that begin alike share a step: the second has 8 tokens of it, half a block."""
    digests, oracles = served.digests, served.oracles
    engine = served.start()
    admission = engine.engine._scheduler._admission
    admission._config = replace(admission._config, prefix_wait_steps=0)
    prefix = prompts_of(["base"])[0][:40]
    prompts = [prefix, [*prefix, *range(30, 50)], [*prefix[:20], *range(60, 80)]]
    names = ["base", "head", "first_mlp"]
    ask(engine, [[1]] * 3, [digests[name] for name in names])  # the adapters are in their slots from here on
    answers = ask(engine, prompts, [digests[name] for name in names])
    # Two whole blocks, less the 8 tokens; the third has other keys and values.
    assert [answer.cached_tokens for answer in answers] == [0, 24, 0]
    for name, prompt, answer in zip(names, prompts, answers, strict=True):
        check_answer(oracles[name], prompt, answer)


def test_preempted_ones_go_on_with_the_same_text(served: Served, ask: Any, check_answer: Any) -> None:
    digests, oracles = served.digests, served.oracles
    block_bytes = 2 * 2 * 32 * 4 * 16
    engine = served.start(kv_cache_memory=20 * block_bytes)
    names = [name for name in digests for _ in range(2)]
    prompts = prompts_of(names)
    answers = ask(engine, prompts, [digests[name] for name in names], max_tokens=30)
    assert engine.engine.stats().preemptions > 0
    assert engine.engine.stats().cache_hits > 0
    for name, prompt, answer in zip(names, prompts, answers, strict=True):
        check_answer(oracles[name], prompt, answer)


@pytest.mark.parametrize(
    ("parts", "combination", "shares_with"),
    [
        (("head", "behind"), "cat", "base"),
        (("head", "behind"), "svd", "base"),
        (("head", "first_mlp"), "cat", "first_mlp"),
        (("behind", "last_key"), "cat", "last_key"),
        (("behind", "last_key"), "svd", None),
    ],
)
def test_mixes_share_what_their_parts_do(
    parts: tuple[str, ...], combination: Combination, shares_with: str | None, served: Served, ask: Any
) -> None:
    """An engine that computes everything says the same."""
    digests = served.digests
    recipe = Mix(tuple(MixPart(digests[name], 1.0) for name in parts), combination)
    (prompt,) = prompts_of(["mix"])
    sharing, computing = (served.start(enable_prefix_caching=is_on) for is_on in (True, False))
    for name in ("base", "first_mlp", "last_key"):
        ask(sharing, [prompt], [digests[name]], max_tokens=1)
    (one,), (other,) = (ask(engine, [prompt], [mix_digest(recipe)]) for engine in (sharing, computing))
    assert one.tokens == other.tokens
    assert one.cached_tokens == (0 if shares_with is None else PREFIX_BLOCKS * 16)


def test_the_tree_names_the_base_where_the_kv_is_its(served: Served, ask: Any) -> None:
    digests = served.digests
    engine = served.start()
    prompts = prompts_of(["head", "first_mlp"])
    ask(engine, [prompts[0][::-1], prompts[1]], [digests["head"], digests["first_mlp"]], max_tokens=1)
    admin = engine.engine.cache_admin
    admin.submit(CacheRequest(1, "report"))
    replies: list[Any] = []
    while not replies:
        replies = admin.advance()
    assert {node.adapter for node in replies[0].nodes} == {None, digests["first_mlp"]}
