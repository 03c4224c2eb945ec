"""vLLM's options: what each becomes here, what is said about it, what is refused and with which next step."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from multiflora_platform.settings import ConfigurationError, Settings, flag
from multiflora_platform.vllm_options.accept import OPTIONS, accept
from multiflora_platform.vllm_options.rules import Option


@pytest.mark.parametrize(
    ("given", "settings"),
    [
        ({"dtype": "half"}, {"dtype": "float16"}),
        ({"dtype": "float"}, {"dtype": "float32"}),
        ({"dtype": torch.bfloat16}, {"dtype": "bfloat16"}),
        ({"model": Path("/models/m")}, {"model": "/models/m"}),
        ({"max-model-len": "32k"}, {"max_model_len": 32_000}),
        ({"max_model_len": "32K"}, {"max_model_len": 32_768}),
        ({"max_model_len": "1.5k"}, {"max_model_len": 1_500}),
        ({"max_model_len": 4096}, {"max_model_len": 4096}),
        ({"max_model_len": "auto"}, {}),
        ({"max_model_len": -1}, {}),
        ({"kv_cache_memory_bytes": "2G"}, {"kv_cache_memory": 2 << 30}),
        ({"quantization": "AWQ"}, {"quantization": "awq"}),
        ({"kv_cache_dtype": "FP8"}, {"kv_cache_dtype": "fp8"}),
        ({"quantization": "None"}, {}),
        ({"quantization": None}, {}),
        ({"enable_lora": True}, {"enable_lora": True}),
        ({"enable_lora": "0"}, {"enable_lora": False}),
        ({"disable_log_requests": True}, {"enable_log_requests": False}),
        ({"disable_log_requests": False}, {"enable_log_requests": True}),
        ({"allowed_origins": '["https://a.org"]'}, {"allowed_origins": ["https://a.org"]}),
        ({"allowed_origins": ['["https://a.org"]', "*"]}, {"allowed_origins": ["https://a.org", "*"]}),
        ({"override_generation_config": '{"top_k": 3}'}, {"override_generation_config": {"top_k": 3}}),
        (
            {"hf_overrides": '{"vocab_size": 9}', "rope_theta": "1e6", "rope_scaling": {"type": "yarn"}},
            {"hf_overrides": {"vocab_size": 9, "rope_theta": 1e6, "rope_scaling": {"type": "yarn"}}},
        ),
        ({"served_model_name": ["a", "b"]}, {"served_model_name": ["a", "b"]}),
        (
            {
                "speculative_config": '{"method": "ngram", "num_speculative_tokens": 5, "prompt_lookup_max": 4,'
                ' "prompt_lookup_min": 2, "disable_by_batch_size": 6}'
            },
            {
                "enable_prompt_lookup": True,
                "num_speculative_tokens": 5,
                "prompt_lookup_max": 4,
                "prompt_lookup_min": 2,
                "speculative_disable_by_batch_size": 6,
            },
        ),
        (
            {"kv_events_config": '{"enable_kv_cache_events": true, "replay_endpoint": "tcp://*:5558", "hwm": 5}'},
            {"cache_events_zmq": "tcp://*:5557", "cache_events_replay_zmq": "tcp://*:5558"},
        ),
        (
            {"kv_events_config": {"enable_kv_cache_events": True, "endpoint": "tcp://*:9", "topic": "kv"}},
            {"cache_events_zmq": "tcp://*:9", "cache_events_topic": "kv"},
        ),
        ({"kv_events_config": {"enable_kv_cache_events": True, "publisher": "null"}}, {}),
        ({"kv_events_config": '{"publisher": "zmq"}'}, {}),
        (
            {"speculative_config": {"model": "[ngram]", "prompt_lookup_max": 3}},
            {"enable_prompt_lookup": True, "prompt_lookup_max": 3, "prompt_lookup_min": 3},
        ),
        (
            {"speculative_model": "[ngram]", "num_speculative_tokens": "5", "ngram_prompt_lookup_max": 4},
            {"enable_prompt_lookup": True, "num_speculative_tokens": 5, "prompt_lookup_max": 4},
        ),
        ({"speculative_config": "{}", "speculative_model": None, "num_speculative_tokens": 0}, {}),
        (
            {"lora_modules": ["a=/a", '{"name": "b", "path": "/b", "base_model_name": "m"}']},
            {"lora_modules": ["a=/a", "b=/b"]},
        ),
        ({"lora_modules": '[{"name": "a", "path": "hf://o/r"}]'}, {"lora_modules": ["a=hf://o/r"]}),
        ({"lora_modules": [{"name": "a", "path": "/a"}]}, {"lora_modules": ["a=/a"]}),
        ({"lora_modules": "a=/a,b=/b"}, {"lora_modules": "a=/a,b=/b"}),
        ({"swap_space": 4}, {"kv_offload_bytes": 4 << 30}),
        ({"swap_space": "0.5"}, {"kv_offload_bytes": 1 << 29}),
        ({"kv_offloading_size": 2.0}, {"kv_offload_bytes": 2 << 30}),
        ({"shutdown_timeout": 5}, {"drain_timeout": 5}),
        ({"block_size": 128, "gpu_memory_utilization": 0.95}, {"block_size": 128, "gpu_memory_utilization": 0.95}),
        ({"max-num-seqs": "256"}, {"max_num_seqs": 256}),
        ({"data_dir": "/d", "no_auth": True}, {"data_dir": "/d", "no_auth": True}),
    ],
)
def test_what_has_a_meaning_acts_without_a_word(given: dict[str, object], settings: dict[str, object]) -> None:
    assert accept(given) == (settings, [])


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"trust_remote_code": True}, "never run"),
        ({"preemption_mode": "swap"}, "what is cached"),
        ({"tokenizer_mode": "slow"}, "same ids"),
        ({"enable_chunked_prefill": False}, "in chunks"),
        ({"compilation_config": {"level": 3}}, "torch.compile"),
        ({"worker_use_ray": True}, "by itself"),
        ({"lora_dtype": "bfloat16"}, "the base's dtype"),
        ({"enable_prompt_tokens_details": False}, "always so"),
        ({"task": "embed"}, "embeddings"),
        ({"enable_sleep_mode": True}, "works without it"),
    ],
)
def test_what_is_harmless_is_told_in_one_line_and_changes_nothing(given: dict[str, object], reason: str) -> None:
    settings, (notice,) = accept(given)
    assert settings == {}
    assert notice.startswith(f"{next(iter(given))} has no effect: ")
    assert reason in notice
    assert "\n" not in notice


@pytest.mark.parametrize(
    "given",
    [
        {"trust_remote_code": False},
        {"tokenizer_mode": "auto", "load_format": "auto", "task": "generate"},
        {"prefill_context_parallel_size": "1"},
        {"cpu_offload_gb": 0.0, "swap_space": 0},
        {"revision": None, "download_dir": None, "tokenizer": None, "trust_remote_code": None},
        {"enable_chunked_prefill": True, "disable_log_stats": False, "enforce_eager": None},
        {"compilation_config": {}, "middleware": []},
    ],
)
def test_what_happens_anyway_is_accepted_in_silence(given: dict[str, object]) -> None:
    assert accept(given) == ({}, [])


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ({"prefill_context_parallel_size": 2}, ("prefill_context_parallel_size 2", "not contexts", "leave it at 1")),
        ({"data_parallel_rank": "4"}, ("data_parallel_rank 4", "--replicas", "--database-url")),
        ({"load_format": "pt"}, ("load_format pt", "safetensors", "save the model")),
        ({"load_format": "dummy"}, ("load_format dummy", "safetensors")),
        ({"tokenizer_mode": "mistral"}, ("tokenizer_mode mistral", "tokenizer.json", "auto")),
        ({"speculative_model": "facebook/opt-125m"}, ("speculative_model", "prompt lookup alone", "opt-125m")),
        ({"speculative_config": '{"method": "eagle", "model": "m"}'}, ("speculative_config", "'eagle'", "give ngram")),
        ({"speculative_config": '{"num_speculative_tokens": 3}'}, ("speculative_config", "no method")),
        ({"speculative_config": '{"method": "ngram", "depth": 3}'}, ("'depth'", "prompt_lookup_max")),
        ({"kv_events_config": '{"enable_kv_cache_events": true, "publisher": "kafka"}'}, ("'kafka'", "give zmq")),
        (
            {"kv_events_config": '{"enable_kv_cache_events": true, "endpoint": "tcp://a:1"}'},
            ("listens", "tcp://*:PORT"),
        ),
        ({"kv_events_config": '{"port": 5557}'}, ("kv_events_config", "'port'", "endpoint")),
        ({"speculative_config": '["ngram"]'}, ("speculative_config", "JSON object")),
        ({"speculative_config": "{"}, ("speculative_config", "not valid JSON")),
        ({"speculative_config": '{"method": ["ngram"]}'}, ("speculative_config", "give ngram")),
        ({"cpu_offload_gb": 4}, ("cpu_offload_gb 4", "smaller dtype")),
        ({"max_logprobs": 50}, ("max_logprobs 50", "up to 20")),
        ({"hf_overrides": "[1]"}, ("hf_overrides", "JSON object")),
        ({"hf_overrides": {"rope_theta": object()}}, ("hf_overrides", "JSON object")),
        ({"hf_overrides": {"rope_theta": float("nan")}}, ("hf_overrides", "JSON object")),
        ({"hf_overrides": lambda config: config}, ("hf_overrides", "JSON object")),
        ({"rope_theta": "inf"}, ("rope_theta", "give a number")),
        ({"rope_theta": True}, ("rope_theta", "give a number")),
        ({"logits_processors": ["my.code"]}, ("logits_processors", "never run")),
        ({"override_generation_config": "{"}, ("override_generation_config", "not valid JSON")),
        ({"override_generation_config": "[1]"}, ("override_generation_config", "JSON object")),
        ({"lora_modules": ['{"name": "a"}']}, ("lora_modules", "name=path")),
        ({"lora_modules": ["{"]}, ("lora_modules", "not valid JSON")),
        ({"lora_modules": [3]}, ("lora_modules", "name=path")),
        ({"enable_lora": "perhaps"}, ("enable_lora", "true or false", "perhaps")),
    ],
)
def test_what_cannot_be_is_refused_with_cause_and_next_step(given: dict[str, object], parts: tuple[str, ...]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        accept(given)
    assert all(part in str(caught.value) for part in parts)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("max_modl_len", "max_model_len"),
        ("tensor_paralel_size", "tensor_parallel_size"),
        ("gpu-memory-utilisation", "gpu_memory_utilization"),
        ("no_such_thing_at_all", "config show"),
    ],
)
@pytest.mark.parametrize("value", [1, None])
def test_an_unknown_name_is_an_error_with_the_nearest(name: str, meant: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=f"unknown option .*{meant}"):
        accept({name: value})


def test_names_are_told_as_their_user_wrote_them() -> None:
    _, (notice,) = accept({"preemption_mode": "swap"}, flag)
    assert notice.startswith("--preemption-mode has no effect")
    with pytest.raises(ConfigurationError, match=r"--decode-context-parallel-size 2: .*"):
        accept({"decode-context-parallel-size": "2"}, flag)
    with pytest.raises(ConfigurationError, match="--max-modl-len; did you mean --max-model-len"):
        accept({"max-modl-len": "2"}, flag)


@pytest.mark.parametrize("value", ["many", -1, "nan", "inf", True, [4], "4GiB", 1e30])
def test_a_number_of_gibibytes_is_one(value: object) -> None:
    with pytest.raises(ConfigurationError, match="--swap-space: give a number of GiB"):
        accept({"swap_space": value}, flag)


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_known(name: str) -> None:
    accept({name: None})


def test_what_acts_is_a_setting() -> None:
    assert {option.setting for option in OPTIONS.values()} - {None} <= set(Settings.model_fields)


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_is_documented(name: str) -> None:
    page = (Path(__file__).parents[3] / "docs" / "vllm.md").read_text(encoding="utf-8")
    assert f"| `{flag(name)}` | {told(OPTIONS[name])} |" in page


def told(option: Option) -> str:
    """What the page says of an option."""
    if option.setting:
        return f"acts: `{flag(option.setting)}`"
    if not option.refused:
        return f"no effect: {option.why}"
    same = ", ".join(f"`{value}`" for value in sorted(option.same))
    noted = ", ".join(f"`{value}`" for value in sorted(option.noted, key=lambda value: (len(value), value)))
    parts = [f"{same}: accepted" if same else "", f"{noted}: no effect, {option.why}" if noted else ""]
    return "; ".join(
        [*filter(None, parts), f"else refused: {option.refused}" if same else f"refused: {option.refused}"]
    )


@pytest.mark.parametrize("name", OPTIONS)
def test_every_rule_does_one_thing_and_says_why(name: str) -> None:
    option = OPTIONS[name]
    assert option.setting or option.why or option.refused
    assert not (option.setting and (option.why or option.refused))
    if option.refused:
        assert ";" in option.refused, "a cause and a next step"
    assert (option.noted != frozenset()) == bool(option.why and option.refused)


def test_a_token_for_the_hub_is_given_or_looked_up_as_always() -> None:
    assert accept({"hf_token": "hf_secret"}) == ({"hf_token": "hf_secret"}, [])
    assert accept({"hf_token": True}) == ({}, [])
