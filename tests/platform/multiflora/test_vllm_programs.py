"""Programs as vLLM's users have them, with names and models replaced and nothing else: they run and mean the same."""

from __future__ import annotations

import gc
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from multiflora import LLM, BeamSearchParams, LoRARequest, SamplingParams
from multiflora.offline.metrics import Counter, Gauge
from multiflora_engine.execution.sleep import SleepingWeights
from multiflora_engine.models.errors import ModelError

DEMO = Path(__file__).parents[3] / "examples" / "demo"
ADAPTERS = {name: str(DEMO / "adapters" / name) for name in ("sql", "pirate")}
GREEDY = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True)
PROMPTS = ["Hello, my name is", "The capital of France is", "The future of computing is"]


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM(model=str(DEMO / "base"), kv_cache_memory=64 << 20, max_model_len=512, num_threads=1) as made:
        yield made


def texts(outputs: Any) -> list[str]:
    return [output.outputs[0].text for output in outputs]


def test_a_batch_of_prompts_prints_each_prompt_with_its_text(llm: LLM, capsys: pytest.CaptureFixture[str]) -> None:
    sampling_params = SamplingParams(temperature=0.8, top_p=0.95, max_tokens=20, seed=1)
    outputs = llm.generate(PROMPTS, sampling_params)
    for output in outputs:
        prompt = output.prompt
        generated_text = output.outputs[0].text
        print(f"Prompt: {prompt!r}, Generated text: {generated_text!r}")
    printed = capsys.readouterr()
    assert [line.split(",")[0] for line in printed.out.splitlines()] == [
        f"Prompt: {p!r}".split(",")[0] for p in PROMPTS
    ]
    assert "Generating" in printed.err
    assert all(len(output.outputs[0].token_ids) <= 20 for output in outputs)


def test_without_parameters_an_answer_has_sixteen_tokens_as_in_vllm(llm: LLM) -> None:
    (completion,) = llm.generate(["Once upon a time"], use_tqdm=False)[0].outputs
    assert len(completion.token_ids) == 16 or completion.finish_reason == "stop"
    (long,) = llm.generate(["x"], SamplingParams(max_tokens=None, ignore_eos=True, temperature=0.0), False)[0].outputs
    assert len(long.token_ids) > 16


def test_default_parameters_can_be_changed_and_used(llm: LLM) -> None:
    sampling_params = llm.get_default_sampling_params()
    sampling_params.max_tokens = 3
    sampling_params.temperature = 0.0
    sampling_params.ignore_eos = True
    (output,) = llm.generate(["Hello"], sampling_params, use_tqdm=False)
    assert len(output.outputs[0].token_ids) == 3
    assert llm.get_default_sampling_params().max_tokens == 16


def test_all_nineteen_parameters_of_the_guides_generate(llm: LLM) -> None:
    params = SamplingParams(
        n=1,
        best_of=None,
        presence_penalty=0.0,
        frequency_penalty=0.0,
        repetition_penalty=1.0,
        temperature=1.0,
        top_p=1.0,
        top_k=-1,
        min_p=0.0,
        use_beam_search=False,
        length_penalty=1.0,
        early_stopping=False,
        stop=None,  # type: ignore[arg-type]
        stop_token_ids=None,  # type: ignore[arg-type]
        ignore_eos=False,
        max_tokens=16,
        logprobs=None,
        prompt_logprobs=None,
        skip_special_tokens=True,
    )
    assert len(llm.generate("Hello", params, use_tqdm=False)[0].outputs[0].token_ids) <= 16


def test_the_pieces_of_a_stream_are_the_text(llm: LLM, capsys: pytest.CaptureFixture[str]) -> None:
    (whole,) = llm.generate(["Write a poem"], GREEDY, use_tqdm=False)
    for output in llm.generate_stream(["Write a poem"], GREEDY):
        if output.outputs:
            print(output.outputs[0].text, end="", flush=True)
    assert capsys.readouterr().out == whole.outputs[0].text


def test_a_stream_that_is_not_read_asks_nothing_of_the_engine(llm: LLM) -> None:
    stream = llm.generate_stream(PROMPTS, GREEDY)
    assert not llm._built.engine.has_work
    next(stream)
    assert llm._built.engine.has_work
    del stream
    gc.collect()
    assert not llm._built.engine.has_work


def test_names_of_vllm_and_ours_mean_one_thing(llm: LLM) -> None:
    llm.add_adapter("sql", ADAPTERS["sql"])
    ours = llm.generate("Show all names", params=GREEDY, adapter="sql", progress=False)
    theirs = llm.generate("Show all names", sampling_params=GREEDY, lora_request="sql", use_tqdm=False)
    assert texts(ours) == texts(theirs)
    assert llm.generate("x", GREEDY, params=GREEDY, use_tqdm=False, progress=False)
    wrong: list[dict[str, Any]] = [
        {"sampling_params": GREEDY, "params": SamplingParams(max_tokens=1)},
        {"lora_request": LoRARequest("sql", 1, ADAPTERS["sql"]), "adapter": "sql"},
        {"use_tqdm": True, "progress": False},
    ]
    for options in wrong:
        with pytest.raises(TypeError, match="two names of one argument"):
            llm.generate("x", **options)
    with pytest.raises(TypeError, match="sampling parameters are SamplingParams, not dict"):
        llm.generate("x", [{"max_tokens": 1}])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="params is one for all prompts"):
        llm.generate("x", {"max_tokens": 1})  # type: ignore[arg-type]


def test_prompts_in_all_of_vllms_forms(llm: LLM) -> None:
    ids = llm.get_tokenizer().encode("Hello there")
    forms: list[Any] = ["Hello there", ids, {"prompt": "Hello there"}, {"prompt_token_ids": ids}]
    alone = [texts(llm.generate(form, GREEDY, use_tqdm=False)) for form in forms]
    assert alone == [alone[0]] * 4
    assert texts(llm.generate(forms, GREEDY, use_tqdm=False)) == alone[0] * 4


def test_an_adapter_by_its_path_for_each_prompt(llm: LLM) -> None:
    requests = {name: LoRARequest(name, number, path) for number, (name, path) in enumerate(ADAPTERS.items(), 1)}
    asked = [requests["sql"], None, requests["pirate"]]
    outputs = llm.generate(["Hello, my friend."] * 3, GREEDY, lora_request=asked, use_tqdm=False)
    assert len(set(texts(outputs))) == 3
    assert [output.lora_request for output in outputs] == asked
    assert [output.adapter for output in outputs] == ["sql", None, "pirate"]
    assert {"sql", "pirate"} <= set(llm.list_adapters())
    assert texts(llm.generate("Hello, my friend.", GREEDY, adapter="pirate", use_tqdm=False)) == texts(outputs[2:])


def test_an_adapters_folder_with_new_content_is_another_version_at_once(llm: LLM, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(ADAPTERS["sql"], tmp_path / "mine"))
    request = LoRARequest("mine", 3, lora_path=str(folder))
    (first,) = llm.generate("Hello, my friend.", GREEDY, lora_request=request, use_tqdm=False)
    shutil.copytree(ADAPTERS["pirate"], folder, dirs_exist_ok=True)
    (second,) = llm.generate("Hello, my friend.", GREEDY, lora_request=request, use_tqdm=False)
    (pirate,) = llm.generate(
        "Hello, my friend.", GREEDY, lora_request=LoRARequest("pirate", 2, ADAPTERS["pirate"]), use_tqdm=False
    )
    assert first.outputs[0].text != second.outputs[0].text == pirate.outputs[0].text


def test_chat_takes_vllms_arguments(llm: LLM) -> None:
    conversation = [{"role": "user", "content": "Hello"}]
    template = (
        "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}{% if add_generation_prompt %}>{% endif %}"
    )
    (output,) = llm.chat(conversation, GREEDY, use_tqdm=False, chat_template=template)
    assert llm.get_tokenizer().decode(output.prompt_token_ids) == "[user] Hello>"
    begun = [*conversation, {"role": "assistant", "content": "I am"}]
    (output,) = llm.chat(
        begun,
        sampling_params=GREEDY,
        chat_template=template,
        add_generation_prompt=False,
        continue_final_message=True,
        lora_request=LoRARequest("pirate", 2, ADAPTERS["pirate"]),
        use_tqdm=False,
    )
    assert llm.get_tokenizer().decode(output.prompt_token_ids) == "[user] Hello[assistant] I am"
    assert output.adapter == "pirate"
    assert len(llm.chat([conversation, begun], GREEDY, use_tqdm=False)) == 2


def test_log_probabilities_are_looked_up_by_token(llm: LLM) -> None:
    params = SamplingParams(temperature=0.0, max_tokens=4, ignore_eos=True, logprobs=2, prompt_logprobs=1)
    (output,) = llm.generate("The capital", params, use_tqdm=False)
    (completion,) = output.outputs
    assert completion.logprobs is not None
    total = 0.0
    for token_id, position in zip(completion.token_ids, completion.logprobs, strict=True):
        assert 2 <= len(position) <= 3
        chosen = position[token_id]
        assert (chosen.rank, chosen.decoded_token) == (1, llm.get_tokenizer().decode([token_id]))
        assert chosen.logprob == max(entry.logprob for entry in position.values())
        total += chosen.logprob
    assert completion.cumulative_logprob == pytest.approx(total)
    assert output.prompt_logprobs is not None
    assert output.prompt_logprobs[0] is None
    for token_id, of_prompt in zip(output.prompt_token_ids[1:], output.prompt_logprobs[1:], strict=True):
        assert of_prompt is not None
        assert of_prompt[token_id].logprob <= 0


def test_an_output_says_when_what_happened_and_what_the_cache_had(llm: LLM) -> None:
    llm.reset_prefix_cache()
    prompt = "A long context that two prompts share. " * 4
    before = time.time()
    (first,) = llm.generate(prompt, GREEDY, use_tqdm=False)
    after = time.time()
    times = first.metrics
    assert times is not None
    assert times.first_scheduled_time is not None
    assert times.first_token_time is not None
    assert times.last_token_time is not None
    assert times.finished_time is not None
    order = [before, times.arrival_time, times.first_scheduled_time, times.first_token_time, times.last_token_time]
    assert [*order, times.finished_time, after] == sorted([*order, times.finished_time, after])
    assert times.first_token_time < times.last_token_time
    assert first.num_cached_tokens == 0
    (second,) = llm.generate(prompt, GREEDY, use_tqdm=False)
    assert second.num_cached_tokens > 0
    assert second.finished
    assert second.outputs[0].finished


def test_the_cache_can_be_emptied_and_counted(llm: LLM) -> None:
    prompt = "Another long context that is computed twice. " * 4
    llm.generate(prompt, GREEDY, use_tqdm=False)
    assert llm.reset_prefix_cache()
    (output,) = llm.generate(prompt, GREEDY, use_tqdm=False)
    assert output.num_cached_tokens == 0
    before = {metric.name: metric.value for metric in llm.get_metrics() if isinstance(metric, Counter | Gauge)}
    llm.generate(prompt, GREEDY, use_tqdm=False)
    metrics = {metric.name: metric for metric in llm.get_metrics()}
    assert metrics["vllm:generation_tokens"].value - before["vllm:generation_tokens"] == 12
    assert metrics["vllm:prefix_cache_hits"].value > before["vllm:prefix_cache_hits"]
    assert isinstance(metrics["vllm:prompt_tokens"], Counter)
    assert isinstance(metrics["vllm:num_requests_running"], Gauge)
    assert metrics["vllm:num_requests_running"].value == 0


@pytest.mark.parametrize("length_penalty", [1.0, 0.0, 2.0])
def test_beams_are_those_of_transformers(llm: LLM, length_penalty: float) -> None:
    width, prompt = 4, "Hello, my friend."
    reference = AutoModelForCausalLM.from_pretrained(DEMO / "base", dtype=torch.float32).eval()
    ids = llm.get_tokenizer().encode(prompt)
    ends = list(llm._model.config.eos_token_ids)
    config = GenerationConfig(
        num_beams=width,
        num_return_sequences=width,
        max_new_tokens=10,
        length_penalty=length_penalty,
        eos_token_id=ends,
        pad_token_id=ends[0],
        do_sample=False,
    )
    with torch.no_grad():
        expected = reference.generate(torch.tensor([ids]), generation_config=config)[:, len(ids) :].tolist()
    for given in ({"prompt": prompt}, {"prompt_token_ids": ids}):
        params = BeamSearchParams(beam_width=width, max_tokens=10, length_penalty=length_penalty)
        (output,) = llm.beam_search([given], params)  # type: ignore[list-item]
        found = [sequence.tokens[len(ids) :] for sequence in output.sequences]
        assert [row + ends[:1] * (10 - len(row)) for row in found] == expected
        for sequence in output.sequences:
            assert sequence.text == prompt + llm.get_tokenizer().decode(sequence.tokens[len(ids) :], True)
            chosen = [p[t].logprob for p, t in zip(sequence.logprobs, sequence.tokens[len(ids) :], strict=True)]
            assert sequence.cum_logprob == pytest.approx(sum(chosen))
    by_flag = SamplingParams(n=width, use_beam_search=True, temperature=0, max_tokens=10, length_penalty=length_penalty)
    (sampled,) = llm.generate(prompt, by_flag, use_tqdm=False)
    assert [answer.token_ids for answer in sampled.outputs] == found
    one = SamplingParams(best_of=width, use_beam_search=True, max_tokens=10, length_penalty=length_penalty)
    assert llm.generate(prompt, one, use_tqdm=False)[0].outputs[0].token_ids == found[0]


def test_beams_run_beside_each_other_with_their_adapters(llm: LLM) -> None:
    params = BeamSearchParams(beam_width=3, max_tokens=6)
    asked = [LoRARequest("sql", 1, ADAPTERS["sql"]), None]
    together = llm.beam_search([{"prompt": "Hello, my friend."}] * 2, params, lora_request=asked)
    alone = [llm.beam_search("Hello, my friend.", params, lora_request=each)[0] for each in asked]
    assert [[s.tokens for s in o.sequences] for o in together] == [[s.tokens for s in o.sequences] for o in alone]
    assert together[0].sequences[0].tokens != together[1].sequences[0].tokens
    assert together[0].sequences[0].lora_request == asked[0]
    assert not llm._built.engine.has_work


def test_a_search_ends_where_the_models_length_does(llm: LLM) -> None:
    prompt = [5] * 508
    params = SamplingParams(n=2, use_beam_search=True, max_tokens=None, ignore_eos=True)
    (output,) = llm.generate(prompt, params, use_tqdm=False)
    assert [len(answer.token_ids) for answer in output.outputs] == [4, 4]
    (output,) = llm.generate(prompt, SamplingParams(n=2, use_beam_search=True, max_tokens=50, ignore_eos=True))
    assert [len(answer.token_ids) for answer in output.outputs] == [4, 4]


def test_a_search_that_is_left_leaves_nothing_behind(llm: LLM) -> None:
    params = SamplingParams(n=3, use_beam_search=True, max_tokens=30, ignore_eos=True)
    beams = llm.generate_stream("Hello", params)
    beside = llm.generate_stream("Hello", GREEDY)
    next(beside)
    del beams
    rest = list(beside)
    assert rest[-1].finished
    pieces = list(llm.generate_stream("Hello", params))
    assert len(pieces) == 1, "beams are known at the end"
    assert len(pieces[0].outputs) == 3
    assert not llm._built.engine.has_work


def test_what_a_beam_search_cannot_do_is_refused(llm: LLM) -> None:
    with pytest.raises(ValueError, match="temperature must be left out with use_beam_search"):
        BeamSearchParams(beam_width=2, max_tokens=5, temperature=0.5)
    with pytest.raises(ValueError, match="n must be an integer >= 1"):
        BeamSearchParams(beam_width=0, max_tokens=5)
    with pytest.raises(ValueError, match="n must be at most"):
        llm.beam_search("x", BeamSearchParams(beam_width=50, max_tokens=5))
    with pytest.raises(ValueError, match="max_tokens must be at least 1"):
        llm.beam_search("x", BeamSearchParams(beam_width=2, max_tokens=0))
    assert not llm._built.engine.has_work


def test_embeddings_are_the_last_hidden_state_and_scores_their_cosine(llm: LLM) -> None:
    reference = AutoModelForCausalLM.from_pretrained(DEMO / "base", dtype=torch.float32).eval()
    first, second = "What is the price?", "How much is it?"
    hidden = []
    for text in (first, second):
        ids = torch.tensor([llm.get_tokenizer().encode(text)])
        with torch.no_grad():
            hidden.append(reference(ids, output_hidden_states=True).hidden_states[-1][0, -1])
    raw = llm.embed([first, second], normalize=False, use_tqdm=False)
    for output, expected in zip(raw, hidden, strict=True):
        torch.testing.assert_close(torch.tensor(output.outputs.embedding), expected, atol=2e-3, rtol=2e-3)
        assert output.outputs.hidden_size == len(expected)
    (unit,) = llm.embed(first, use_tqdm=False)
    assert torch.tensor(unit.outputs.embedding).norm() == pytest.approx(1.0, abs=1e-5)
    (pooled,) = llm.encode(first, pooling_task="embed", use_tqdm=False)
    assert pooled.outputs.data.tolist() == unit.outputs.embedding
    scores = llm.score(first, [second, first], use_tqdm=False)
    expected_score = torch.cosine_similarity(hidden[0], hidden[1], dim=0).item()
    assert scores[0].outputs.score == pytest.approx(expected_score, abs=2e-3)
    assert scores[1].outputs.score == pytest.approx(1.0, abs=1e-5)
    (adapted,) = llm.embed(first, lora_request=LoRARequest("sql", 1, ADAPTERS["sql"]), use_tqdm=False)
    assert adapted.outputs.embedding != unit.outputs.embedding
    with pytest.raises(ValueError, match="'classify' needs a model with a head"):
        llm.encode(first, pooling_task="classify")
    with pytest.raises(ValueError, match="text_1 has 2 texts for 3"):
        llm.score([first, second], [first, second, first])
    assert llm.score([], []) == []


def test_a_small_priority_is_served_first(llm: LLM) -> None:
    with LLM(str(DEMO / "base"), kv_cache_memory=16 << 20, max_model_len=256, max_num_seqs=1, num_threads=1) as narrow:
        outputs = narrow.generate(["a", "b", "c"], GREEDY, priority=[2, 1, 0], use_tqdm=False)
    finished = [output.metrics.finished_time for output in outputs if output.metrics is not None]
    assert finished == sorted(finished, reverse=True)


def test_a_sleeping_model_generates_nothing_until_it_wakes(
    llm: LLM, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = texts(llm.generate("Hello", GREEDY, use_tqdm=False))
    stream = llm.generate_stream("Hello", GREEDY)
    next(stream)
    with pytest.raises(RuntimeError, match="Requests run"):
        llm.sleep()
    del stream
    gc.collect()
    with caplog.at_level("INFO"):
        llm.sleep(level=1)
        llm.sleep()
    assert [record.getMessage() for record in caplog.records] == ["Asleep: on a CPU the weights stay where they are."]
    assert llm.is_sleeping
    for call in (
        lambda: llm.generate("Hello", GREEDY),
        lambda: llm.embed("Hello"),
        lambda: next(llm.generate_stream("x", GREEDY)),
    ):
        with pytest.raises(RuntimeError, match="asleep"):
            call()
    llm.wake_up()
    llm.wake_up()
    assert texts(llm.generate("Hello", GREEDY, use_tqdm=False)) == expected
    with pytest.raises(ValueError, match="level must be 1"):
        llm.sleep(level=2)
    # As on a GPU: the weights are gone meanwhile, and are the same afterwards.
    monkeypatch.setattr(
        type(llm._built),
        "put_to_sleep",
        lambda built: SleepingWeights(part for t in built.weights.targets().values() for part in t.tensors),
    )
    llm.reset_prefix_cache()
    llm.sleep()
    assert llm._built.weights.ends.norm.weight.untyped_storage().nbytes() == 0
    llm.wake_up()
    assert texts(llm.generate("Hello", GREEDY, use_tqdm=False)) == expected


def test_every_option_of_the_guides_is_accepted_at_the_values_shown(caplog: pytest.LogCaptureFixture) -> None:
    model = str(DEMO / "base")
    options: dict[str, Any] = {
        "tokenizer": model,
        "tokenizer_mode": "auto",
        "trust_remote_code": True,
        "tensor_parallel_size": 1,
        "pipeline_parallel_size": 1,
        "dtype": "auto",
        "quantization": None,
        "gpu_memory_utilization": 0.9,
        "max_model_len": 256,
        "seed": 0,
        "download_dir": None,
        "load_format": "auto",
        "revision": None,
        "swap_space": 4,
        "enable_lora": True,
        "max_lora_rank": 16,
        "max_loras": 2,
        "enable_prefix_caching": True,
        "disable_log_stats": True,
        "enforce_eager": True,
        "served_model_name": "demo",
    }
    with LLM(model=model, **options, kv_cache_memory=4 << 20, num_threads=1) as made:
        assert made._built.ready.max_model_len == 256
        assert [tier.name for tier in made._built.engine.stats().tiers] == ["host"]
        assert len(made.generate("Hello", GREEDY, use_tqdm=False)[0].outputs[0].token_ids) == 12
    told = [record.getMessage() for record in caplog.records]
    assert [line.split()[0] for line in told] == ["trust_remote_code", "disable_log_stats"]
    assert all(" has no effect: " in line for line in told)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"gpu_memory_utilisation": 0.9},
            TypeError,
            "no option 'gpu_memory_utilisation'; did you mean 'gpu_mem",
        ),
        ({"decode_context_parallel_size": 2}, ValueError, "decode_context_parallel_size 2: ranks divide layers"),
        ({"gpu_memory_utilization": 1.5}, ValueError, "gpu_memory_utilization: .*1.5"),
        ({"dtype": "int3"}, ValueError, "dtype: .*int3"),
        ({"max_model_len": "long"}, ValueError, "max_model_len: .*long"),
        ({"load_format": "pt"}, ValueError, "load_format pt: only safetensors"),
        ({"tokenizer": "nowhere/at/all"}, ModelError, "nowhere/at/all"),
    ],
)
def test_an_option_that_cannot_be_is_refused_by_name(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        LLM(str(DEMO / "base"), **options)


def test_half_is_float16() -> None:
    with LLM(str(DEMO / "base"), dtype="half", kv_cache_memory=4 << 20, num_threads=1) as made:
        assert made._built.ready.dtype == "float16"
