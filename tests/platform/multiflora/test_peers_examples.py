"""What peers' example scripts for offline use do, with names and models replaced: command lines that give the engine's
options on, module paths, two models one after another, a multi-LoRA loop with less room than adapters."""

from __future__ import annotations

import gc
import re
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

import multiflora
from multiflora import LLM, EngineArgs, LLMEngine, PoolingParams, SamplingParams
from multiflora.distributed import cleanup_dist_env_and_memory
from multiflora.entrypoints.llm import LLM as OfflineModel
from multiflora.inputs import TextPrompt, TokensPrompt
from multiflora.lora.request import LoRARequest
from multiflora.outputs import EmbeddingRequestOutput
from multiflora.sampling_params import GuidedDecodingParams, StructuredOutputsParams
from multiflora.usage.usage_lib import UsageContext
from multiflora.utils import FlexibleArgumentParser, random_uuid
from multiflora.v1.engine.async_llm import AsyncLLM
from multiflora.v1.engine.llm_engine import LLMEngine as EngineByPath
from multiflora.v1.metrics.reader import Counter, Gauge, Histogram, Vector

DEMO = Path(__file__).parents[3] / "examples" / "demo"
SMALL = ["--kv-cache-memory", str(16 << 20), "--max_model_len", "256", "--num-threads", "1"]
GREEDY = SamplingParams(temperature=0.0, max_tokens=6, ignore_eos=True)


def parser() -> FlexibleArgumentParser:
    made = EngineArgs.add_cli_args(FlexibleArgumentParser(description="a program"))
    made.set_defaults(model=str(DEMO / "base"), task="embed", enforce_eager=True)
    return made


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM(**vars(parser().parse_args(SMALL))) as made:
        yield made


def test_a_programs_command_line_has_every_option_and_its_own_arguments() -> None:
    program = parser()
    group = program.add_argument_group("Sampling parameters")
    group.add_argument("--top-p", type=float)
    args = program.parse_args(
        [*SMALL, "-tp", "1", "--enable_prefix_caching=False", "--top_p", "0.5", "--dtype", "half"]
    )
    assert (args.top_p, args.tensor_parallel_size, args.max_model_len, args.dtype) == (0.5, 1, 256, "half")
    assert (args.enable_prefix_caching, args.enforce_eager, args.seed) == (False, True, None)
    made = EngineArgs.from_cli_args(args)
    assert made.model == str(DEMO / "base")
    chosen = {name: made.engine_options.get(name) for name in ("enable_prefix_caching", "dtype", "seed")}
    assert chosen == {"enable_prefix_caching": False, "dtype": "float16", "seed": None}
    with pytest.raises(ValueError, match="prefill_context_parallel_size 2: ranks divide layers"):
        EngineArgs.from_cli_args(parser().parse_args(["--prefill-context-parallel-size", "2"]))


def test_a_context_extended_by_hf_overrides_says_what_transformers_says() -> None:
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    length = {"max_position_embeddings": 64}
    config = AutoConfig.from_pretrained(DEMO / "base", **length)
    theta = config.rope_parameters["rope_theta"]
    config.rope_parameters = {**yarn, "rope_theta": theta}
    oracle = AutoModelForCausalLM.from_pretrained(DEMO / "base", config=config, dtype=torch.float32).eval()
    with LLM(str(DEMO / "base"), hf_overrides=length | {"rope_scaling": yarn}, max_model_len=200, num_threads=1) as llm:
        prompt = [3 + 7 * i % 900 for i in range(150)]
        (output,) = llm.generate([prompt], GREEDY, use_tqdm=False)
    answer = output.outputs[0].token_ids
    with torch.no_grad():
        logits = oracle(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
    assert logits.argmax(-1).tolist() == answer


def test_a_program_that_asks_for_sleep_may_sleep(caplog: pytest.LogCaptureFixture) -> None:
    with LLM(str(DEMO / "base"), enable_sleep_mode=True, max_model_len=64, num_threads=1) as llm:
        llm.sleep(level=1)
        llm.wake_up()
        assert llm.generate("Hello", GREEDY, use_tqdm=False)[0].finished
    assert "enable_sleep_mode has no effect: LLM.sleep() works without it" in caplog.text


def test_the_options_may_stand_in_a_group_of_the_parser() -> None:
    program = FlexibleArgumentParser()
    group = program.add_argument_group("Engine arguments")
    EngineArgs.add_cli_args(group)
    group.set_defaults(model="some/model")
    args = vars(
        program.parse_args(["--max-num-seqs", "4", "--gpu-memory-utilization", "0.4", "--max-model-len", "32k"])
    )
    given = {name: value for name, value in args.items() if value is not None}
    assert given == {
        "model": "some/model", "max_num_seqs": 4, "gpu_memory_utilization": 0.4, "max_model_len": "32k"
    }  # fmt: skip


def test_a_program_without_a_model_is_told() -> None:
    for make in (LLM, EngineArgs, multiflora.AsyncEngineArgs):
        with pytest.raises(TypeError, match=f"{make.__name__} needs a model: a folder, or a Hugging Face id"):
            make(model=None)  # type: ignore[arg-type]


def test_prompts_by_vllms_types_and_its_older_name_for_ids(llm: LLM) -> None:
    (by_text,) = llm.generate(TextPrompt(prompt="Hello"), GREEDY, use_tqdm=False)
    ids = by_text.prompt_token_ids
    for outputs in (
        llm.generate(TokensPrompt(prompt_token_ids=ids), GREEDY, use_tqdm=False),
        llm.generate(prompt_token_ids=ids, sampling_params=GREEDY, use_tqdm=False),
        llm.generate(prompts=None, prompt_token_ids=[ids], sampling_params=GREEDY, use_tqdm=False),
    ):
        assert [output.outputs[0].text for output in outputs] == [by_text.outputs[0].text]
    with pytest.raises(TypeError, match="prompts and prompt_token_ids are two names of one argument and differ"):
        llm.generate("Hello", prompt_token_ids=ids)


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ({"choice": ["Positive", "Negative"]}, "Positive|Negative"),
        ({"regex": "[ab]{3}"}, "[ab]{3}"),
        ({"grammar": 'root ::= "SELECT " ("one" | "two")'}, "SELECT (one|two)"),
    ],
)
def test_guided_decoding_is_structured_outputs_by_its_older_name(llm: LLM, form: dict[str, Any], expected: str) -> None:
    old = SamplingParams(temperature=0.0, guided_decoding=GuidedDecodingParams(**form, backend="xgrammar"))
    new = SamplingParams(temperature=0.0, structured_outputs=StructuredOutputsParams(**form))
    texts = [output.outputs[0].text for output in llm.generate(["Classify"] * 2, [old, new], use_tqdm=False)]
    assert re.fullmatch(expected, texts[0])
    assert texts[0] == texts[1]
    with pytest.raises(TypeError, match="guided_decoding is the older name of structured_outputs; give one of them"):
        SamplingParams(guided_decoding=GuidedDecodingParams(**form), structured_outputs=StructuredOutputsParams(**form))


def test_what_has_no_place_here_says_why(llm: LLM) -> None:
    for name in ("logits_processors", "extra_args", "truncate_prompt_tokens"):
        with pytest.raises(TypeError, match=f"SamplingParams has no parameter '{name}': .*; "):
            SamplingParams(**{name: [1]})
        assert SamplingParams(**{name: None}) == SamplingParams()
    with pytest.raises(AttributeError, match="'LLM' object has no attribute 'classify': a causal model has no head"):
        llm.classify(["text"])
    assert not hasattr(llm, "start_profile")
    with pytest.raises(AttributeError, match=r"'LLM' object has no attribute 'nothing'\Z"):
        _ = llm.nothing
    for given in ({"dimensions": 32}, {"task": "classify"}):
        with pytest.raises(ValueError, match=r"not supported|needs a model with a head"):
            PoolingParams(**given)  # type: ignore[arg-type]


def test_vectors_as_they_are_or_of_length_one(llm: LLM) -> None:
    unit, raw = (
        llm.embed("Hello", pooling_params=PoolingParams(task="embed", use_activation=each), use_tqdm=False)[0]
        for each in (True, False)
    )
    assert isinstance(unit, EmbeddingRequestOutput)
    length = sum(x * x for x in raw.outputs.embedding) ** 0.5
    assert length > 2
    assert unit.outputs.embedding == pytest.approx([x / length for x in raw.outputs.embedding], abs=1e-6)
    (encoded,) = llm.encode("Hello", PoolingParams(normalize=False), use_tqdm=False)
    assert encoded.outputs.data.tolist() == raw.outputs.embedding


def test_a_prompt_rendered_by_the_program_is_the_one_of_chat(llm: LLM) -> None:
    conversation = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    tokenizer = llm.get_tokenizer()
    text = tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
    assert isinstance(text, str)
    (chat,) = llm.chat(conversation, GREEDY, use_tqdm=False)
    assert chat.prompt == text
    assert chat.prompt_token_ids == tokenizer.apply_chat_template(conversation, add_generation_prompt=True)


def test_a_huge_text_is_refused_before_it_is_tokenized(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    class Untouched:
        def encode_batch_fast(self, *args: Any, **options: Any) -> Any:
            raise AssertionError("it was tokenized")

    llm.generate("a", GREEDY, use_tqdm=False)  # the longest token is known from now on
    monkeypatch.setattr(llm.tokenizer, "_rust", Untouched())
    huge = "a" * 1_000_000
    for ask in (
        lambda: llm.generate(huge),
        lambda: llm.embed({"prompt": huge}),
        lambda: llm.chat([{"role": "user", "content": huge}]),
    ):
        with pytest.raises(ValueError, match=r"the prompt has at least .* tokens; the model's length is 256"):
            ask()


def test_metrics_are_told_apart_by_class(llm: LLM) -> None:
    llm.generate("Hello", GREEDY, use_tqdm=False)
    metrics = {metric.name: metric for metric in llm.get_metrics()}
    assert isinstance(metrics["vllm:generation_tokens"], Counter)
    assert isinstance(metrics["vllm:kv_cache_usage_perc"], Gauge)
    steps = metrics["vllm:iteration_tokens_total"]
    assert isinstance(steps, Histogram)
    assert 0 < steps.buckets["1.0"] < steps.buckets["+Inf"] == steps.count < steps.sum
    assert not any(isinstance(metric, Vector) for metric in metrics.values())


def test_a_multi_lora_loop_with_room_for_one_adapter_finishes_all() -> None:
    sql, pirate = (str(DEMO / "adapters" / name) for name in ("sql", "pirate"))
    requests = [
        ("A robot may not injure", SamplingParams(temperature=0.0, logprobs=1, prompt_logprobs=1, max_tokens=4), None),
        ("To be or not to be,", SamplingParams(temperature=0.8, top_k=5, presence_penalty=0.2, max_tokens=4), None),
        ("Show all", GREEDY, LoRARequest("one", 1, sql)),
        ("Show all", GREEDY, LoRARequest("two", 2, sql)),
        ("Show all", GREEDY, LoRARequest(lora_name="three", lora_path=pirate)),
    ]
    args = EngineArgs.from_cli_args(parser().parse_args([*SMALL, "--enable-lora", "--max-loras", "1"]))
    finished: dict[str, Any] = {}
    number = 0
    with LLMEngine.from_engine_args(args, usage_context=UsageContext.API_SERVER) as engine:
        while requests or engine.has_unfinished_requests():
            if requests:
                prompt, params, lora = requests.pop(0)
                engine.add_request(str(number), prompt, params, lora_request=lora)
                number += 1
            if number == 5:
                engine.reset_prefix_cache(reset_running_requests=True)
            finished |= {output.request_id: output for output in engine.step() if output.finished}
    assert sorted(finished) == ["0", "1", "2", "3", "4"]
    assert len(finished["0"].prompt_logprobs) == len(finished["0"].prompt_token_ids)
    texts = [finished[id].outputs[0].text for id in "234"]
    assert texts[0] == texts[1] != texts[2]


def test_a_request_of_an_adapter_needs_no_number() -> None:
    one, same, other = (LoRARequest(lora_name=name, lora_path="folder") for name in ("a", "a", "b"))
    assert one == same
    assert one.lora_int_id >= 1
    assert one.lora_int_id != other.lora_int_id
    with pytest.raises(ValueError, match="must be an integer of at least 1, got 0"):
        LoRARequest("a", 0, "folder")


def test_a_model_that_is_let_go_makes_room_for_the_next() -> None:
    first = LLM(**vars(parser().parse_args(SMALL)))
    gone = weakref.ref(first)
    gc.disable()
    try:
        del first
        cleanup_dist_env_and_memory()
        assert gone() is None
    finally:
        gc.enable()


def test_names_and_paths_are_those_of_vllms_programs() -> None:
    assert (OfflineModel, EngineByPath, AsyncLLM) == (LLM, LLMEngine, multiflora.AsyncLLMEngine)
    assert random_uuid() != random_uuid()
