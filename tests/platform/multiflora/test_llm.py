"""Offline generation on a tiny random model: texts, adapters, streams, stops; the engine process answers the same."""

from __future__ import annotations

import asyncio
import gc
import json
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import decoders, models, pre_tokenizers

from multiflora import (
    LLM,
    AdapterRejected,
    BeamSearchParams,
    LoRARequest,
    SamplingParams,
    StructuredOutputsParams,
)
from multiflora_adapters.store import ArtifactStore
from multiflora_engine.core.step import RunningStep, ScheduledBatch
from multiflora_engine.models.errors import ModelError
from multiflora_engine.process.supervisor import EngineSupervisor
from multiflora_engine.protocol.config import EngineConfig
from multiflora_engine.protocol.requests import GenerateRequest
from multiflora_engine.scheduling.config import QueueFull

HIDDEN, INNER, HEADS, KV_HEADS, VOCAB = 64, 96, 4, 2, 259
GREEDY = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True)
USER = {"role": "user", "content": "x"}
# Half of a character's pair, as a text has it that was cut by UTF-16 units.
LONE = "ab\ud83dc"
LONE_CHOICE = StructuredOutputsParams(choice=("x", LONE))
BEST_OF: dict[str, Any] = {"n": 1, "best_of": 4}
NORMS = ("input_layernorm", "post_attention_layernorm")
TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}>{% endif %}"
)


def _write_model(folder: Path) -> None:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * 0.3

    tensors = {"model.embed_tokens.weight": random(VOCAB, HIDDEN), "model.norm.weight": torch.ones(HIDDEN)}
    tensors["lm_head.weight"] = random(VOCAB, HIDDEN)
    kv = HIDDEN // HEADS * KV_HEADS
    shapes = {
        "self_attn.q_proj": (HIDDEN, HIDDEN),
        "self_attn.k_proj": (kv, HIDDEN),
        "self_attn.v_proj": (kv, HIDDEN),
        "self_attn.o_proj": (HIDDEN, HIDDEN),
        "mlp.gate_proj": (INNER, HIDDEN),
        "mlp.up_proj": (INNER, HIDDEN),
        "mlp.down_proj": (HIDDEN, INNER),
    }
    for layer in range(2):
        prefix = f"model.layers.{layer}."
        tensors |= {f"{prefix}{name}.weight": random(*shape) for name, shape in shapes.items()}
        tensors |= {
            f"{prefix}{name}.weight": torch.ones(HIDDEN) for name in ("input_layernorm", "post_attention_layernorm")
        }
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": 2,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "bos_token_id": 256,
        "eos_token_id": 257,
    }
    (folder / "config.json").write_text(json.dumps(config))


def _write_tokenizer(folder: Path) -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    rust = RustTokenizer(models.BPE({char: i for i, char in enumerate(alphabet)}, []))
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    rust.decoder = decoders.ByteLevel()
    rust.add_special_tokens(["<s>", "</s>", "<pad>"])
    rust.save(str(folder / "tokenizer.json"))
    config = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def _write_adapter(folder: Path, seed: int, rank: int = 4, inputs: int = HIDDEN) -> Path:
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(2):
        prefix = f"base_model.model.model.layers.{layer}.self_attn.q_proj.lora_"
        tensors[prefix + "A.weight"] = torch.randn(rank, inputs, generator=generator)
        tensors[prefix + "B.weight"] = torch.randn(HIDDEN, rank, generator=generator)
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 8, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    _write_model(folder)
    _write_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("adapters")
    return {name: str(_write_adapter(root / name, seed)) for seed, name in enumerate(("sql", "triage"))}


@pytest.fixture(scope="module")
def llm(model: Path, adapters: dict[str, str]) -> Iterator[LLM]:
    with LLM(model, adapters, kv_cache_memory=4 << 20, max_loras=2, max_lora_rank=8, num_threads=1) as made:
        yield made


def test_prompts_come_back_in_order_with_their_parts(llm: LLM, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = llm.generate(["one", "another one"], GREEDY)
    assert [first.prompt, second.prompt] == ["one", "another one"]
    assert first.prompt_token_ids == llm.tokenizer.encode("one")
    (completion,) = first.outputs
    assert (len(completion.token_ids), completion.finish_reason) == (12, "length")
    assert completion.text == llm.tokenizer.decode(completion.token_ids, skip_special_tokens=True)
    assert first.finished
    assert "Generating" in capsys.readouterr().err
    (again,) = llm.generate(first.prompt_token_ids, GREEDY, progress=False)
    assert again.outputs == first.outputs
    assert again.prompt is None
    assert llm.generate([], GREEDY) == []
    assert capsys.readouterr().err.count("Generating") <= 1


def test_adapters_answer_differently_in_one_batch_and_as_they_do_alone(llm: LLM) -> None:
    together = llm.generate(["same"] * 3, GREEDY, adapter=["sql", None, "triage"], progress=False)
    texts = [output.outputs[0].token_ids for output in together]
    assert len({tuple(ids) for ids in texts}) == 3
    assert [output.adapter for output in together] == ["sql", None, "triage"]
    for name, ids in zip(["sql", None, "triage"], texts, strict=True):
        assert llm.generate("same", GREEDY, adapter=name, progress=False)[0].outputs[0].token_ids == ids


def test_an_adapter_outlives_its_folder_and_its_name_may_move(llm: LLM, tmp_path: Path) -> None:
    folder = _write_adapter(tmp_path / "new", seed=7)
    llm.add_adapter("new", folder)
    for file in folder.iterdir():
        file.unlink()
    (seven,) = llm.generate("same", GREEDY, adapter="new", progress=False)
    llm.add_adapter("new", _write_adapter(tmp_path / "newer", seed=8))
    (eight,) = llm.generate("same", GREEDY, adapter="new", progress=False)
    assert seven.outputs[0].token_ids != eight.outputs[0].token_ids
    assert llm.adapters == ["new", "sql", "triage"]


def test_what_cannot_be_served_is_refused_before_anything_runs(llm: LLM, tmp_path: Path) -> None:
    with pytest.raises(AdapterRejected, match="'odd' cannot be served") as caught:
        llm.add_adapter("odd", _write_adapter(tmp_path / "odd", seed=1, inputs=HIDDEN + 1))
    assert caught.value.rows[0].severity == "error"
    wrong: list[tuple[Any, Any, dict[str, Any], str]] = [
        ("x", GREEDY, {"adapter": "odd"}, "There is no adapter 'odd'; added are: .*sql"),
        ("x", SamplingParams(stop_token_ids=(VOCAB,)), {}, "stop_token_ids must be"),
        (["x", [VOCAB]], GREEDY, {}, f"from 0 to {VOCAB - 1}"),
        (["x", "y" * 300], GREEDY, {}, "prompt 1: .*256"),
        (["x", ""], GREEDY, {}, "prompt 1: "),
        (["x", "y"], [GREEDY], {}, "params has 1 entries for 2 prompts"),
        ("x", SamplingParams(best_of=3), {"stream": True}, "best_of cannot be streamed"),
    ]
    for prompts, params, options, message in wrong:
        with pytest.raises(ValueError, match=message):
            llm.generate(prompts, params, progress=False, **options)
    assert not llm._built.engine.has_work


def test_a_stream_yields_the_same_tokens_piece_by_piece(llm: LLM) -> None:
    whole = llm.generate(["one", "two"], GREEDY, adapter="sql", progress=False)
    pieces = list(llm.generate(["one", "two"], GREEDY, adapter="sql", stream=True))
    assert len(pieces) > 12
    for output in whole:
        mine = [piece.outputs[0] for piece in pieces if piece.prompt == output.prompt]
        assert [token for piece in mine for token in piece.token_ids] == output.outputs[0].token_ids
        assert "".join(piece.text for piece in mine) == output.outputs[0].text
        assert mine[-1].finish_reason == "length"


def test_streams_may_be_interleaved_and_left(llm: LLM) -> None:
    long = SamplingParams(temperature=0.0, max_tokens=200, ignore_eos=True)
    left = llm.generate("left", long, stream=True)
    next(left)
    (beside,) = llm.generate("one", GREEDY, progress=False)
    assert len(beside.outputs[0].token_ids) == 12
    assert next(left).outputs[0].token_ids
    del left
    gc.collect()
    assert not llm._built.engine.has_work


def test_a_stop_string_ends_the_text_where_it_begins(llm: LLM) -> None:
    bias = {llm.tokenizer.encode(character)[0]: 30.0 for character in "ab"}
    (free,) = llm.generate("zz", SamplingParams(temperature=0.0, max_tokens=40, logit_bias=bias), progress=False)
    text = free.outputs[0].text
    assert set(text) == {"a", "b"}
    stop = text[5:8]
    for kept in (False, True):
        params = SamplingParams(temperature=0.0, stop=(stop,), include_stop_str_in_output=kept, logit_bias=bias)
        (output,) = llm.generate("zz", params, progress=False)
        (completion,) = output.outputs
        assert completion.text == text[: text.index(stop) + len(stop) * kept]
        assert (completion.finish_reason, completion.stop_reason) == ("stop", stop)
    assert not llm._built.engine.has_work


def test_a_stopped_answer_costs_no_more_tokens_while_its_siblings_go_on(llm: LLM) -> None:
    bias = {llm.tokenizer.encode(character)[0]: 60.0 for character in "abc"}
    params = SamplingParams(n=6, max_tokens=30, seed=2, stop=("ab",), logit_bias=bias)
    before = llm._built.engine.stats().generation_tokens
    (output,) = llm.generate("zz", params, progress=False)
    lengths = [len(completion.token_ids) for completion in output.outputs]
    assert len(set(lengths)) > 1
    assert llm._built.engine.stats().generation_tokens - before == sum(lengths)


def test_a_refused_prompt_withdraws_those_before_it_whatever_the_reason(
    llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = llm._built.engine.add_request

    def full(request: GenerateRequest) -> None:
        if request.prompt_token_ids == [5]:
            raise QueueFull("full")
        add(request)

    monkeypatch.setattr(llm._built.engine, "add_request", full)
    with pytest.raises(QueueFull):
        llm.generate([[1], [5]], GREEDY, progress=False)
    assert not llm._built.engine.has_work


@pytest.mark.parametrize(
    "prompts",
    [None, 5, {"text": "x"}, [{"prompt": 5}], {"prompt_token_ids": "x"}, [["x"]], [1, "x"], [None], b"ab", [b"ab"]],
)
def test_what_is_no_prompt_is_named(llm: LLM, prompts: Any) -> None:
    with pytest.raises(TypeError, match="a prompt is a string or a list of token ids, or"):
        llm.generate(prompts, GREEDY, progress=False)
    assert not llm._built.engine.has_work


@pytest.mark.parametrize(
    ("ask", "named"),
    [
        (
            lambda llm: llm.generate(["x", LONE], GREEDY),
            "prompt 1: character 2 of the text is .* U.D83D",
        ),
        (lambda llm: llm.generate({"prompt": LONE}, GREEDY, stream=True), "prompt 0: character 2"),
        (lambda llm: llm.chat([[USER], [{**USER, "content": LONE}]], GREEDY), "conversation 1: character"),
        (lambda llm: llm.embed(["x", "y", LONE]), "prompt 2: character 2"),
        (lambda llm: llm.encode(LONE), "prompt 0: character 2"),
        (lambda llm: llm.score("x", ["y", LONE]), r"text_2\[1\]: character 2"),
        (lambda llm: llm.beam_search([LONE], BeamSearchParams(beam_width=2, max_tokens=2)), "prompt 0: character 2"),
        (lambda llm: llm.get_tokenizer()(LONE), "character 2"),
        (lambda llm: SamplingParams(stop=["x", LONE]), "stop must be without lone surrogates"),
        (lambda llm: SamplingParams(bad_words=[LONE]), "bad_words must be without lone surrogates"),
        (lambda llm: LoRARequest(LONE, 1, "/x"), "lora_name must be without lone surrogates"),
        (
            lambda llm: llm.generate("x", SamplingParams(structured_outputs=LONE_CHOICE)),
            "structured_outputs holds",
        ),
    ],
)
def test_a_lone_surrogate_is_named_wherever_a_text_is_given(llm: LLM, ask: Callable[[LLM], Any], named: str) -> None:
    with pytest.raises(ValueError, match=named) as refusal:
        ask(llm)
    assert not isinstance(refusal.value, UnicodeEncodeError), "Python's own words name no prompt"
    assert not llm._built.engine.has_work


@pytest.mark.parametrize("messages", ["Hi", {"role": "user", "content": "Hi"}])
def test_what_is_no_conversation_is_named(llm: LLM, messages: Any) -> None:
    with pytest.raises(TypeError, match="messages is a list of messages"):
        llm.chat(messages, GREEDY)


def test_which_of_several_texts_is_too_long_is_told(llm: LLM) -> None:
    long = "one two " * 2000
    asked: list[tuple[Callable[[], Any], str]] = [
        (lambda: llm.generate(["x", long], GREEDY), "prompt 1: the prompt has"),
        (lambda: llm.chat([[USER], [{**USER, "content": long}]], GREEDY), "conversation 1: the prompt has"),
        (lambda: llm.embed(["x", long]), "prompt 1: the prompt has"),
    ]
    for ask, named in asked:
        with pytest.raises(ValueError, match=named):
            ask()


def test_a_prompt_may_stand_under_its_key(llm: LLM) -> None:
    ids = llm.tokenizer.encode("one")
    (plain,) = llm.generate("one", GREEDY, progress=False)
    keyed = [*llm.generate({"prompt": "one"}, GREEDY, progress=False)]
    both = {"prompt": "one", "prompt_token_ids": ids}
    keyed += llm.generate([both, {"prompt_token_ids": ids}], GREEDY, progress=False)
    assert [output.outputs for output in keyed] == [plain.outputs] * 3
    assert [output.prompt for output in keyed] == ["one", "one", None]


def test_token_ids_may_be_an_array(llm: LLM) -> None:
    ids = [1, 2, 3]
    answers = [llm.generate(each, GREEDY, progress=False) for each in (ids, tuple(ids), np.array(ids), [np.array(ids)])]
    assert {tuple(answer[0].outputs[0].token_ids) for answer in answers} == {tuple(answers[0][0].outputs[0].token_ids)}
    assert all(len(answer) == 1 for answer in answers)


def test_a_folder_without_a_model_is_called_that(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"config\.json"):
        LLM(tmp_path)


def test_closing_twice_is_fine_and_then_nothing_runs(model: Path) -> None:
    made = LLM(model, kv_cache_memory=1 << 20, num_threads=1)
    made.close()
    made.close()
    with pytest.raises(RuntimeError, match="closed"):
        made.generate("x", GREEDY, progress=False)


def test_two_live_side_by_side_and_answer_to_any_thread(llm: LLM, model: Path, adapters: dict[str, str]) -> None:
    (expected,) = llm.generate("one", GREEDY, adapter="sql", progress=False)
    with LLM(model, {"other": adapters["sql"]}, kv_cache_memory=1 << 20, num_threads=1) as second:
        with ThreadPoolExecutor(1) as pool:
            (found,) = pool.submit(second.generate, "one", GREEDY, adapter="other", progress=False).result()
        (again,) = llm.generate("one", GREEDY, adapter="sql", progress=False)
    for output in (found, again):
        assert output.outputs[0].token_ids == expected.outputs[0].token_ids


def test_an_interrupt_leaves_other_streams_as_they_were(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    (expected,) = llm.generate("one", GREEDY, progress=False)
    stream = llm.generate("one", GREEDY, stream=True)
    tokens = list(next(stream).outputs[0].token_ids)

    def interrupted(batch: ScheduledBatch) -> RunningStep:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(llm._built.engine._runner, "launch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            llm.generate("another", GREEDY, progress=False)
    tokens += [token for output in stream for token in output.outputs[0].token_ids]
    assert tokens == expected.outputs[0].token_ids
    assert not llm._built.engine.has_work


def test_a_stop_token_counts_as_a_token_but_not_as_text(llm: LLM) -> None:
    token = llm.tokenizer.encode("q")[0]
    params = SamplingParams(temperature=0.0, stop_token_ids=(token,), logit_bias={token: 100.0}, min_tokens=2)
    (output,) = llm.generate("zz", params, progress=False)
    (completion,) = output.outputs
    assert (completion.finish_reason, completion.stop_reason, completion.token_ids[-1]) == ("stop", token, token)
    assert len(completion.token_ids) == 3
    assert not completion.text.endswith("q")


def test_logprobs_best_of_and_seeds(llm: LLM) -> None:
    params = SamplingParams(n=2, best_of=4, seed=3, max_tokens=6, ignore_eos=True)
    every = SamplingParams(n=4, seed=3, max_tokens=6, ignore_eos=True, logprobs=1)
    (plain,), (ranked,) = (llm.generate("one", each, progress=False) for each in (params, every))
    best = sorted(ranked.outputs, key=lambda output: -(output.cumulative_logprob or 0))[:2]
    assert [output.token_ids for output in plain.outputs] == [output.token_ids for output in best]
    assert [(output.index, output.logprobs) for output in plain.outputs] == [(0, None), (1, None)]
    assert all(len(output.logprobs or []) == 6 for output in ranked.outputs)
    (scored,) = llm.generate("one", SamplingParams(max_tokens=1, prompt_logprobs=1), progress=False)
    assert scored.prompt_logprobs is not None
    assert len(scored.prompt_logprobs) == len(scored.prompt_token_ids)
    assert scored.prompt_logprobs[0] is None


def test_best_of_sums_log_probabilities(llm: LLM) -> None:
    """As over HTTP: a short answer may be likelier as a whole than a long one of likelier tokens."""
    token = llm.tokenizer.encode("q")[0]
    fields: dict[str, Any] = {"stop_token_ids": (token,), "logit_bias": {token: 9.0}, "max_tokens": 12}
    differs = 0
    for seed in range(12):
        every, params = (SamplingParams(seed=seed, **counts, **fields) for counts in ({"n": 4, "logprobs": 0}, BEST_OF))
        (all_of_them,), (chosen,) = (llm.generate("one", each, progress=False) for each in (every, params))
        sums = {tuple(c.token_ids): c.cumulative_logprob or 0.0 for c in all_of_them.outputs}
        likeliest = max(sums, key=lambda ids: sums[ids])
        assert chosen.outputs[0].token_ids == list(likeliest)
        differs += likeliest != max(sums, key=lambda ids: sums[ids] / len(ids))
    assert differs, "in no case would the mean have chosen another one"


def test_a_repeated_context_is_served_from_the_cache(llm: LLM) -> None:
    context = "A long shared context, of more than two blocks. "
    llm.generate(context + "first", GREEDY, progress=False)
    (second,) = llm.generate(context + "second", GREEDY, progress=False)
    assert second.num_cached_tokens == len(context) // 16 * 16
    (other,) = llm.generate(context + "second", GREEDY, adapter="sql", progress=False)
    assert other.num_cached_tokens == 0


def test_chat_goes_through_the_models_template(llm: LLM) -> None:
    messages = [{"role": "user", "content": "hello"}]
    (one,) = llm.chat(messages, GREEDY, progress=False)
    assert llm.tokenizer.decode(one.prompt_token_ids) == "user: hello\n>"
    assert len(llm.chat([messages, messages], GREEDY, adapter=["sql", "triage"], progress=False)) == 2


async def test_the_engine_process_gives_the_same_answers(
    model: Path, adapters: dict[str, str], llm: LLM, tmp_path: Path
) -> None:
    """The real engine behind its supervisor: load, probe, generate, and an adapter that is not there."""
    store = ArtifactStore(tmp_path)
    digest = store.add(Path(adapters["sql"])).digest
    stages: list[str] = []
    supervisor = EngineSupervisor(
        EngineConfig(
            model_path=str(model), artifact_root=str(tmp_path), kv_cache_memory=4 << 20, max_lora_rank=8, num_threads=1
        ),
        on_progress=lambda progress: stages.append(progress.stage),
    )
    prompt = llm.tokenizer.encode("same")
    expected = llm.generate(["same", "same"], GREEDY, adapter=["sql", None], progress=False)

    async def ask(name: str, adapter: str | None) -> list[int]:
        request = GenerateRequest(id=name, prompt_token_ids=prompt, params=GREEDY, adapter_digest=adapter)
        return [token async for delta in supervisor.client.generate(request) for token in delta.token_ids]

    await supervisor.start()
    try:
        ready = await supervisor.wait_ready()
        assert (ready.device, ready.dtype, ready.max_model_len) == ("cpu", "float32", 256)
        assert list(dict.fromkeys(stages)) == ["weights", "kv_cache", "warmup"]
        probe = await supervisor.client.adapter("probe", digest)
        assert probe.error is None
        assert (probe.logit_distance or 0) > 0.01
        answers = await asyncio.gather(ask("a", digest), ask("b", None))
        assert answers == [output.outputs[0].token_ids for output in expected]
        missing = await supervisor.client.adapter("load", "0" * 64)
        assert missing.error is not None
        failed = [
            d
            async for d in supervisor.client.generate(
                GenerateRequest(id="c", prompt_token_ids=prompt, params=GREEDY, adapter_digest="0" * 64)
            )
        ]
        assert [d.failure.code for d in failed if d.failure] == ["adapter_unavailable"]
        status = await supervisor.client.status()
        assert digest in [row.digest for row in status.adapters]
    finally:
        await supervisor.stop()


def _copied(model: Path, folder: Path, **config: Any) -> Path:
    shutil.copytree(model, folder)
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    return folder


@pytest.mark.parametrize("own_ends", [[], [11]])
def test_the_tokenizers_eos_ends_an_answer_beside_the_models(model: Path, tmp_path: Path, own_ends: list[int]) -> None:
    folder = _copied(model, tmp_path / "model", eos_token_id=None)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": own_ends or None}))
    with LLM(folder, kv_cache_memory=4 << 20, num_threads=1) as llm:
        eos = llm.tokenizer.eos_token_id
        assert eos is not None
        for end in (eos, *own_ends):
            only_end = SamplingParams(max_tokens=9, logit_bias={end: 100.0}, temperature=0.0)
            (completion,) = llm.generate("x", only_end, progress=False)[0].outputs
            assert (completion.finish_reason, len(completion.token_ids)) == ("stop", 1)
        choice = SamplingParams(max_tokens=20, structured_outputs=StructuredOutputsParams(choice=["yes", "no"]))
        (completion,) = llm.generate("x", choice, progress=False)[0].outputs
        assert (completion.text in ("yes", "no"), completion.finish_reason) == (True, "stop")


def test_structured_output_with_tokens_that_only_other_files_name_and_the_model_has_no_rows_for(
    model: Path, tmp_path: Path
) -> None:
    folder = _copied(model, tmp_path / "model")
    extra = {"extra_special_tokens": [f"<|extra_{n}|>" for n in range(40)]}
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **extra}))
    with LLM(folder, kv_cache_memory=4 << 20, num_threads=1) as llm:
        assert llm.tokenizer.vocab_size == VOCAB + 40
        told = rf"prompt holds '<\|extra_0\|>', token {VOCAB} of the tokenizer.* the model has {VOCAB} rows"
        with pytest.raises(ValueError, match=told):
            llm.generate("a<|extra_0|>b", progress=False)
        with pytest.raises(ValueError, match=told):
            llm.chat([{"role": "user", "content": "<|extra_0|>"}], progress=False)
        for wrong in (1 << 40, -1):
            with pytest.raises(ValueError, match=f"prompt token ids must be from 0 to {VOCAB - 1}"):
                llm.generate({"prompt": "x", "prompt_token_ids": [wrong]}, progress=False)
        params = SamplingParams(max_tokens=20, structured_outputs=StructuredOutputsParams(regex="[a-c]{4}"))
        (completion,) = llm.generate("x", params, progress=False)[0].outputs
        assert re.fullmatch("[a-c]{4}", completion.text)
        spelled = StructuredOutputsParams(choice=["<|extra_0|>"])
        params = SamplingParams(max_tokens=20, structured_outputs=spelled, bad_words=["<|extra_1|>", "z"])
        (completion,) = llm.generate("x", params, progress=False)[0].outputs
        assert (completion.text, completion.finish_reason) == ("<|extra_0|>", "stop")


def test_structured_output_without_any_end_says_how_to_name_one(model: Path, tmp_path: Path) -> None:
    folder = _copied(model, tmp_path / "model", eos_token_id=None)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token": None}))
    choice = SamplingParams(structured_outputs=StructuredOutputsParams(choice=["yes"]))
    with (
        LLM(folder, kv_cache_memory=4 << 20, num_threads=1) as llm,
        pytest.raises(ValueError, match="add eos_token_id"),
    ):
        llm.generate("x", choice, progress=False)


def test_generation_config_says_how_long_an_answer_becomes(model: Path, tmp_path: Path) -> None:
    folder = _copied(model, tmp_path / "model", eos_token_id=None)
    advice = {"max_new_tokens": 5, "temperature": 0.0, "repetition_penalty": -1}
    (folder / "generation_config.json").write_text(json.dumps(advice))
    with LLM(folder, kv_cache_memory=4 << 20, num_threads=1) as llm:
        (completion,) = llm.generate("x", progress=False)[0].outputs
        assert len(completion.token_ids) == 5


def test_a_second_thread_is_refused_at_once(llm: LLM) -> None:
    """While a stream of the first one runs; afterwards any thread may use it."""
    params = SamplingParams(max_tokens=8, temperature=0.0, ignore_eos=True)
    outcomes: list[Any] = []

    def use() -> None:
        try:
            outcomes.append(llm.generate("Hi", params, progress=False))
        except RuntimeError as error:
            outcomes.append(str(error))

    stream = llm.generate("Hi", params, stream=True)
    next(stream)
    for _ in range(2):
        thread = threading.Thread(target=use)
        thread.start()
        thread.join(60)
        assert not thread.is_alive()
        list(stream)
        assert llm.generate("Hi", params, progress=False), "the first thread goes on"
    refused, served = outcomes
    assert "multiflora serve" in refused
    assert len(served) == 1
