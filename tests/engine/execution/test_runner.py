"""Batches as the model sees them, what the runner returns for them, how large the KV cache becomes."""

from __future__ import annotations

from array import array
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, Qwen2Config
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from multiflora_adapters.slots import SlotPool
from multiflora_adapters.weights import load_adapter
from multiflora_engine.core import host_memory
from multiflora_engine.core import transfers as staging_module
from multiflora_engine.core.forward_batch import ForwardBatch
from multiflora_engine.core.sequence import make_sequences
from multiflora_engine.core.step import Scheduled, ScheduledBatch
from multiflora_engine.core.transfers import Readback, Staging
from multiflora_engine.execution import device as machine
from multiflora_engine.execution import kv_memory as kv_cache
from multiflora_engine.execution.adapter_probe import probe_adapter
from multiflora_engine.execution.device import choose_device, choose_dtype
from multiflora_engine.execution.device_side import DeviceSide, build_device_side
from multiflora_engine.execution.executor import forward_batch, lora_segments
from multiflora_engine.execution.runner import DeviceRunner
from multiflora_engine.execution.step_arrays import adapter_runs
from multiflora_engine.execution.step_plan import WantedRows, slot_order, step_arrays
from multiflora_engine.execution.token_feedback import TokenFeedback
from multiflora_engine.models.configuration.model_config import ModelConfig
from multiflora_engine.models.configuration.reading import load_model_config
from multiflora_engine.models.errors import ModelError
from multiflora_engine.models.loader import load_weights
from multiflora_engine.protocol.config import SizedConfig
from multiflora_engine.protocol.requests import GenerateRequest
from multiflora_engine.protocol.sampling_params import SamplingParams
from multiflora_engine.sampling.sampler import Sampler

CPU = torch.device("cpu")
MIB = 1 << 20


def scheduled(
    tokens: list[int], start: int, count: int, blocks: list[int], slot: int | None = None, **params: Any
) -> Scheduled:
    request = GenerateRequest(
        id="r", prompt_token_ids=tokens, params=SamplingParams(**({"temperature": 0.0, "max_tokens": 4} | params))
    )
    (sequence,) = make_sequences(request, 0)
    sequence.block_table = array("i", blocks)
    sequence.num_computed_tokens = start
    sequence.adapter_slot = slot
    return Scheduled(sequence, start, count, start + count == len(tokens), 0)


def batch_of(
    entries: list[Scheduled],
    logit_counts: list[int],
    kept: list[Scheduled] | None = None,
    feedback: TokenFeedback | None = None,
) -> ForwardBatch:
    """kept: the entries whose tokens the feedback keeps, in the order of its rows."""
    kept_rows = {entry.sequence: row for row, entry in enumerate(kept or [])}
    arrays = step_arrays(entries, WantedRows(logit_counts), 4, kept_rows)
    return forward_batch(arrays, Staging(CPU), feedback or TokenFeedback(8, CPU))


def test_a_mixed_batch() -> None:
    """Two chunks and a decode: tokens, places and segments, worked out by hand."""
    entries = [
        scheduled([10, 11, 12], 2, 1, [5]),
        scheduled([20, 21, 22, 23, 24, 25], 1, 4, [7, 2], slot=3),
        scheduled([30, 31], 0, 2, [1], slot=3),
    ]
    batch = batch_of(entries, [1, 0, 1])
    assert batch.token_ids.tolist() == [12, 21, 22, 23, 24, 30, 31]
    assert batch.positions.tolist() == [2, 1, 2, 3, 4, 0, 1]
    assert batch.kv_slots.tolist() == [22, 29, 30, 31, 8, 4, 5]
    assert batch.query_starts.tolist() == [0, 1, 5, 7]
    assert batch.context_lens.tolist() == [3, 5, 2]
    assert batch.block_tables.tolist() == [[5, 0], [7, 2], [1, 0]]
    assert batch.lora is not None
    assert (batch.lora.host_starts, batch.lora.host_slots) == ((1, 7), (3,))
    assert batch.logit_rows is not None
    assert batch.logit_rows.tolist() == [0, 6]
    assert batch.logit_lora is not None
    assert (batch.logit_lora.host_starts, batch.logit_lora.host_slots) == ((1, 2), (3,))
    assert (batch.query_starts.dtype, batch.kv_slots.dtype) == (torch.int32, torch.int64)


def test_on_a_device_everything_goes_through_pinned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segment tables, too; and a step's copies fit into the stages, or each step would wait for the one before."""
    monkeypatch.setattr(Staging, "is_on_host", False)
    sent: list[int] = []
    upload = Staging.upload

    def counted(staging: Staging, arrays: Any, *target: Any) -> list[torch.Tensor]:
        sent.extend(id(array) for array in arrays[:1])
        return upload(staging, arrays, *target)

    monkeypatch.setattr(Staging, "upload", counted)
    batch = batch_of([scheduled([10, 11, 12], 2, 1, [5]), scheduled([20, 21, 22], 0, 2, [7], slot=3)], [1, 1])
    assert batch.lora is not None
    assert batch.logit_lora is not None
    assert batch.lora.tiles is not None
    assert batch.lora.tiles.row_slots.tolist() == [-1, 3, 3]
    assert batch.logit_lora.tiles is not None
    assert len(sent) == 3 <= staging_module._STAGES


def test_only_decodes_of_the_base_need_no_selection() -> None:
    entries = [scheduled([1, 2, 3], 2, 1, [0]), scheduled([4, 5], 1, 1, [9])]
    batch = batch_of(entries, [1, 1])
    assert (batch.logit_rows, batch.lora, batch.logit_lora) == (None, None, None)
    assert batch.kv_slots.tolist() == [2, 37]


def test_tokens_that_only_the_device_knows_are_put_in_there() -> None:
    ahead, known, chunk = (
        scheduled([1, 2, 3], 2, 1, [0]),
        scheduled([4, 5], 1, 1, [9]),
        scheduled([6, 7, 8], 1, 2, [3]),
    )
    feedback = TokenFeedback(8, CPU)
    feedback.keep(torch.tensor([70, 71, -1]))
    entries = [known, *(Scheduled(entry.sequence, 3, 1, True, 0) for entry in (ahead, chunk)), chunk]
    batch = batch_of(entries, [1, 1, 1, 1], [known, ahead, chunk], feedback)
    assert batch.token_ids.tolist() == [5, 71, 0, 7, 8], "a token that could not be chosen becomes any other"
    assert batch.positions.tolist() == [1, 3, 3, 1, 2]


def test_each_adapter_is_one_segment_behind_the_base() -> None:
    entries = [scheduled([1], 0, 1, [0], slot=slot) for slot in (2, None, 0, 2, None)]
    order = slot_order(entries)
    assert order == [1, 4, 2, 0, 3]
    runs = adapter_runs([entries[i].sequence.adapter_slot for i in order], [3, 1, 2, 1, 4])
    segments = lora_segments(runs, Staging(CPU))
    assert segments is not None
    assert (segments.host_starts, segments.host_slots) == ((4, 6, 11), (0, 2))
    assert lora_segments(adapter_runs([None, 1], [3, 0]), Staging(CPU)) is None


@pytest.fixture
def saved(tiny_config: Any, save_model: Any) -> tuple[Any, Path, ModelConfig]:
    model, folder = save_model(tiny_config(LlamaConfig))
    return model, folder, load_model_config(folder)


def make_device_side(folder: Path, config: ModelConfig, **overrides: Any) -> tuple[DeviceSide, SlotPool]:
    values: dict[str, Any] = {"model_path": "", "artifact_root": "", "kv_cache_memory": MIB, "num_threads": 1}
    weights = load_weights(folder, config, torch.float32, CPU)
    pool = SlotPool(config.base_model("x"), 4, 32, torch.float32, CPU)
    sampler = Sampler(config.vocab_size, config.eos_token_ids)
    return build_device_side(SizedConfig(**(values | overrides)), config, weights, pool, sampler), pool


def make_runner(folder: Path, config: ModelConfig, **overrides: Any) -> tuple[DeviceRunner, SlotPool]:
    side, pool = make_device_side(folder, config, **overrides)
    return side.runner, pool


def adapter(folder: Path, target: Path, config: ModelConfig, scale: float) -> Any:
    torch.manual_seed(5)
    lora = LoraConfig(r=4, target_modules=["q_proj", "down_proj", "lm_head"], task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(folder), lora)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=scale) if scale else torch.nn.init.zeros_(parameter)
    model.save_pretrained(target, save_embedding_layers=False)
    weights = load_weights(folder, config, torch.float32, CPU)
    return load_adapter(target, config.base_model("x"), torch.float32, weights.base_weight)


def test_outputs_follow_the_entries_order(saved: Any, tmp_path: Path) -> None:
    """Although adapters are sorted inside; a chunk that ends early samples nothing."""
    model, folder, config = saved
    runner, pool = make_runner(folder, config)
    slot = pool.put(adapter(folder, tmp_path / "a", config, 0.3))
    tokens = [5, 6, 7, 8]
    entries = [
        scheduled(tokens, 0, 4, [0], slot=slot),
        scheduled(tokens, 0, 3, [1]),
        scheduled(tokens, 0, 4, [2]),
    ]
    outputs = runner.launch(ScheduledBatch(entries, [])).collect()
    base = int(model(torch.tensor([tokens])).logits[0, -1].argmax())
    assert not outputs[1].sampled
    (adapted,), (plain,) = outputs[0].sampled, outputs[2].sampled
    assert plain.token_id == base != adapted.token_id
    assert all(output.prompt_logprobs is None for output in outputs)


def test_prompt_logprobs_of_chunks_and_slices(saved: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, folder, config = saved
    monkeypatch.setattr("multiflora_engine.execution.step_plan._LOGIT_BYTES", 3 * 4 * config.vocab_size)
    runner, _ = make_runner(folder, config)
    tokens = list(range(40, 60))
    expected = model(torch.tensor([tokens])).logits[0].log_softmax(-1)
    found = []
    for start, count in ((0, 9), (9, 1), (10, 10)):
        entry = scheduled(tokens, start, count, [3, 4], prompt_logprobs=2)
        other = scheduled(tokens, 0, 2, [6, 7])
        (output, _) = runner.launch(ScheduledBatch([entry, other], [])).collect()
        assert output.prompt_logprobs is not None
        assert len(output.prompt_logprobs) == (count if start + count < 20 else count - 1)
        assert bool(output.sampled) == (start + count == 20)
        found += output.prompt_logprobs
    for position, item in enumerate(found):
        assert item.chosen.token_id == tokens[position + 1]
        assert item.chosen.logprob == pytest.approx(float(expected[position, tokens[position + 1]].detach()), abs=2e-3)
        assert [top.token_id for top in item.top] == expected[position].topk(2).indices.tolist()


def test_nothing_is_read_back_before_the_step_is_collected(saved: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The device would be waited for, and then wait for the next batch."""
    _, folder, config = saved
    runner, _ = make_runner(folder, config)
    waited: list[int] = []
    wait = Readback.wait
    monkeypatch.setattr(Readback, "wait", lambda readback: waited.append(1) or wait(readback))
    entry = scheduled(list(range(40, 50)), 0, 10, [3], prompt_logprobs=1, logprobs=1)
    step = runner.launch(ScheduledBatch([entry], []))
    assert not waited
    (output,) = step.collect()
    assert len(waited) == 2, "prompt and sampled token"
    assert output.prompt_logprobs is not None
    assert len(output.prompt_logprobs) == 9


def test_the_last_chunk_of_one_token_predicts_no_prompt_token(saved: Any) -> None:
    _, folder, config = saved
    runner, _ = make_runner(folder, config)
    entry = scheduled([9], 0, 1, [0], prompt_logprobs=0)
    (output,) = runner.launch(ScheduledBatch([entry], [])).collect()
    assert output.prompt_logprobs == []
    assert len(output.sampled) == 1


def test_the_probe_tells_an_adapter_from_the_base(saved: Any, tmp_path: Path) -> None:
    _, folder, config = saved
    side, pool = make_device_side(folder, config)
    runner = side.runner
    entry = scheduled([5, 6, 7, 8], 0, 3, [0])
    runner.launch(ScheduledBatch([entry], [])).collect()
    after = scheduled([5, 6, 7, 8], 3, 1, [0], logprobs=0)
    expected = runner.launch(ScheduledBatch([after], [])).collect()
    slots = [pool.put(adapter(folder, tmp_path / str(s), config, s)) for s in (0.0, 0.01, 0.3)]
    distances = [probe_adapter(side.dummy, slot) for slot in slots if slot is not None]
    assert distances[0] == 0
    assert 0 < distances[1] < distances[2]
    assert runner.launch(ScheduledBatch([after], [])).collect() == expected


def test_it_says_between_layers_that_it_goes_on(saved: Any, start_engine: Any, ask: Any) -> None:
    _, folder, _ = saved
    built = start_engine(folder)
    signs: list[int] = []
    built.call_between_layers(lambda: signs.append(built.engine.stats().running))
    ask(built, [[1, 2, 3]], max_tokens=2)
    assert signs == [1] * 4, "two layers in each of two steps"


def test_base_weights_of_stacked_sites(tiny_config: Any, save_model: Any) -> None:
    model, folder = save_model(tiny_config(Qwen2Config))
    weights = load_weights(folder, load_model_config(folder), torch.float32, CPU)
    attention = model.model.layers[1].self_attn
    assert torch.equal(weights.base_weight("model.layers.1.self_attn.v_proj"), attention.v_proj.weight)
    assert torch.equal(weights.base_weight("model.embed_tokens"), model.model.embed_tokens.weight)


def test_a_low_precision_engine_stays_close(saved: Any, start_engine: Any, ask: Any) -> None:
    model, folder, _ = saved
    prompt = list(range(100, 120))
    for dtype, tolerance in (("bfloat16", 0.2), ("float16", 0.03)):
        (answer,) = ask(start_engine(folder, dtype=dtype), [prompt], max_tokens=1)
        expected = model(torch.tensor([prompt])).logits[0, -1].log_softmax(-1)
        assert abs(float(expected[answer.tokens[0]].detach()) - answer.logprobs[0]) < tolerance


def sizes(config: ModelConfig, **overrides: Any) -> tuple[int, int]:
    values = SizedConfig(**({"model_path": "", "artifact_root": ""} | overrides))
    size = kv_cache.size_kv_cache(values, config, torch.float32, CPU)
    return size.num_blocks, size.max_model_len


def test_the_cache_is_as_large_as_it_was_told(saved: Any) -> None:
    *_, config = saved
    block_bytes = 2 * 2 * 1 * 32 * 16 * 4
    assert kv_cache.bytes_per_block(config, 16, torch.float32) == block_bytes
    assert sizes(config, kv_cache_memory=100 * block_bytes + 5) == (100, 512)
    side, _ = make_device_side(config.folder, config, kv_cache_memory=100 * block_bytes)
    assert (side.cache.num_blocks, side.cache.num_bytes) == (100, 100 * block_bytes)


def test_without_a_wish_the_length_is_what_fits(saved: Any) -> None:
    *_, config = saved
    block_bytes = kv_cache.bytes_per_block(config, 16, torch.float32)
    assert sizes(config, kv_cache_memory=10 * block_bytes) == (10, 160)
    with pytest.raises(ModelError, match="--kv-cache-memory"):
        sizes(config, kv_cache_memory=block_bytes - 1)


def test_a_wish_that_does_not_fit_says_what_to_change(saved: Any) -> None:
    *_, config = saved
    block_bytes = kv_cache.bytes_per_block(config, 16, torch.float32)
    assert sizes(config, kv_cache_memory=10 * block_bytes, max_model_len=160) == (10, 160)
    with pytest.raises(ModelError, match=r"161 tokens.*lower --max-model-len, or raise --kv-cache-memory"):
        sizes(config, kv_cache_memory=10 * block_bytes, max_model_len=161)
    with pytest.raises(ModelError, match=r"--max-model-len 513 is more than the model's 512"):
        sizes(config, max_model_len=513)


def test_the_cpu_default_is_modest(saved: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more than is useful, a quarter of what is free, or the cap; but one whole sequence that was asked for."""
    *_, config = saved
    block_bytes = kv_cache.bytes_per_block(config, 16, torch.float32)
    monkeypatch.setattr(kv_cache, "available_host_memory", lambda: 1 << 30)
    assert sizes(config, max_num_seqs=2) == (128, 512)
    monkeypatch.setattr(kv_cache, "available_host_memory", lambda: 39 * block_bytes)
    assert sizes(config) == (9, 144)
    assert sizes(config, max_model_len=320) == (20, 320)
    with pytest.raises(ModelError, match="lower --max-model-len"):
        sizes(config, max_model_len=512)
    monkeypatch.setattr(kv_cache, "available_host_memory", lambda: 1 << 30)
    monkeypatch.setattr(kv_cache, "_CPU_CAP", 50 * block_bytes)
    assert sizes(config) == (50, 512)


def test_the_machine_is_read_within_the_containers_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_memory, "_CGROUP", tmp_path)
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda pid: set(range(8)))
    assert machine.available_cores() == 8
    assert host_memory.available_host_memory() > MIB
    (tmp_path / "cpu.max").write_text("250000 100000\n")
    (tmp_path / "memory.max").write_text("1048576\n")
    (tmp_path / "memory.current").write_text("48576\n")
    assert machine.available_cores() == 3
    assert host_memory.available_host_memory() == 1_000_000
    (tmp_path / "cpu.max").write_text("max 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.available_cores() == 8
    assert host_memory.available_host_memory() > MIB


def test_devices_and_types_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == CPU
    assert choose_dtype("auto", "bfloat16", CPU) == torch.float32
    assert choose_dtype("auto", "bfloat16", torch.device("cuda")) == torch.bfloat16
    assert choose_dtype("half", None, CPU) == torch.float16
    for call in (lambda: choose_device("cuda"), lambda: choose_device("tpu"), lambda: choose_dtype("int8", None, CPU)):
        with pytest.raises(ModelError, match="--d"):
            call()
