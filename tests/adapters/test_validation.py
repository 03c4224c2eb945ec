"""Everything PEFT saves that can be served passes; everything else is refused with a row that says why."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig

from multiflora_adapters.facts import read_facts
from multiflora_adapters.lora_config import KNOWN_SETTINGS, parse_config
from multiflora_adapters.report import AdapterError
from multiflora_adapters.validation import AdapterReport, validate_adapter

WEIGHTS = "adapter_model.safetensors"
Q0 = "base_model.model.model.layers.0.self_attn.q_proj"


def test_served_kinds_pass(kind, base, peft_adapter):
    report = validate_adapter(peft_adapter(kind), base, 16)
    assert report.ok, report.errors
    assert {row.check for row in report.rows if row.severity == "ok"} == {"config", "file", "rank", "tensors", "values"}
    assert msgspec.json.decode(msgspec.json.encode(report), type=AdapterReport) == report


def refusal(folder, base, max_rank=64):
    report = validate_adapter(folder, base, max_rank)
    assert not report.ok
    assert "internal" not in {row.check for row in report.rows}
    row = report.errors[0]
    assert row.hint or row.expected, "an error says what to do, or what was expected"
    return row


REFUSED_SETTINGS = {
    "modules_to_save": ["norm"],
    "peft_type": "LOHA",
    "layer_replication": [[0, 2], [1, 2]],
    "megatron_config": {"x": 1},
    "target_parameters": ["experts.gate_up_proj"],
    "trainable_token_indices": {"q_proj": [1, 2]},
    "alora_invocation_tokens": [],
    "use_qalora": True,
    "use_bdlora": {"nblocks": 2},
    "arrow_config": {"top_k": 3},
    "kasa_config": {"beta": 1e-4},
    "monteclora_config": {"num_samples": 8},
    "init_lora_weights": "pissa_niter_16",
}


@pytest.mark.parametrize("key", REFUSED_SETTINGS)
def test_settings_that_cannot_be_served(key, base, broken):
    row = refusal(broken(config={key: REFUSED_SETTINGS[key]}), base)
    assert row.check == "config"
    assert row.hint
    assert row.observed is not None


@pytest.mark.parametrize("init", ["olora", "corda", "loftq", "lora_ga", "something_new", 7])
def test_initialisations_that_may_have_changed_the_base(init, base, broken):
    assert "base weights" in refusal(broken(config={"init_lora_weights": init}), base).message


@pytest.mark.parametrize("init", ["eva", "gaussian", "orthogonal", "mica", True, False, None])
def test_initialisations_that_leave_the_base_alone(init, base, broken):
    extra = {"eva_config": {"rho": 2.0}, "corda_config": {}, "loftq_config": {}}
    assert validate_adapter(broken(config={"init_lora_weights": init, **extra}), base, 64).ok


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"r": 0}, "positive"),
        ({"r": -4}, "positive"),
        ({"r": "four"}, "`int`"),
        ({"r": None}, "`int`"),
        ({"r": True}, "`int`"),
        ({"r": 2**80}, "adapter_config.json"),
        ({"lora_alpha": "x"}, "`float`"),
        ({"rank_pattern": {"q_proj": 0}}, "positive"),
        ({"rank_pattern": {"(": 4}}, "is invalid"),
        ({"alpha_pattern": {"q_proj": []}}, "`float`"),
        ({"target_modules": 5}, "target_modules"),
        ({"target_modules": "(.*"}, "is invalid"),
        ({"target_modules": "x" * 5000}, "is invalid"),
        ({"target_modules": ".*q_proj", "layers_to_transform": [1]}, "list"),
        ({"layers_to_transform": ["a"]}, "layers_to_transform"),
    ],
)
def test_wrong_configurations(change, words, base, broken):
    assert words in refusal(broken(config=change), base).message


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"r": 4.0, "rank_pattern": {"q_proj": 4.0}}, {"r": 4, "rank_pattern": {"q_proj": 4}}),
        ({"layers_to_transform": [0.0, 1.0]}, {"layers_to_transform": [0, 1]}),
        ({"layers_to_transform": 1.0}, {"layers_to_transform": 1}),
        ({"trainable_token_indices": [1.0, 5.0]}, {"trainable_token_indices": [1, 5]}),
        ({"trainable_token_indices": {"lm_head": [2.0]}}, {"trainable_token_indices": {"lm_head": [2]}}),
        ({"alora_invocation_tokens": [7.0, 8.0]}, {"alora_invocation_tokens": [7, 8]}),
    ],
    ids=str,
)
def test_floats_without_a_fraction_are_integers(changes, same):
    assert parse_config(changes) == parse_config(same)


@pytest.mark.parametrize("key", ["layers_to_transform", "trainable_token_indices", "alora_invocation_tokens"])
def test_a_fraction_is_no_integer(key):
    with pytest.raises(AdapterError, match=key):
        parse_config({key: [1.5]})


@pytest.mark.parametrize(("content", "words"), [(b"<!DOCTYPE html>", "a web page"), (b" \n", "is empty")])
def test_a_configuration_that_is_another_file(content, words, base, broken):
    folder = broken()
    (folder / "adapter_config.json").write_bytes(content)
    assert words in refusal(folder, base).message


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b"[" * 100_000, b'{"r": NaN}', b'{"a":' * 50_000])
def test_configuration_that_is_no_json_object(content, base, broken):
    folder = broken()
    (folder / "adapter_config.json").write_bytes(content)
    assert refusal(folder, base).check == "config"


@pytest.mark.parametrize("key", ["rank_pattern", "alpha_pattern", "target_modules", "exclude_modules"])
def test_expressions_that_never_end(key, monkeypatch, base, broken):
    monkeypatch.setattr("multiflora_adapters.module_patterns._MATCHING_SECONDS", 0.1)
    endless = r"((.?){50}){50}[!?]"
    folder = broken(config={key: endless if key.endswith("modules") else {endless: 4}})
    assert "too long to match" in refusal(folder, base).message


@pytest.mark.parametrize("key", ["rank_pattern", "target_modules", "layers_to_transform", "layers_pattern"])
def test_endless_lists(key, base, broken):
    value = (
        {f"p{i}": 4 for i in range(5000)}
        if key == "rank_pattern"
        else [i if "to" in key else f"p{i}" for i in range(5000)]
    )
    config = {key: value} | ({"layers_to_transform": [0]} if key == "layers_pattern" else {})
    assert "too many entries" in refusal(broken(config=config), base).message


def test_many_slow_expressions_share_one_limit(monkeypatch, base, broken):
    monkeypatch.setattr("multiflora_adapters.module_patterns._MATCHING_SECONDS", 0.05)
    slow = {rf"((.?){{9}}){{{i}}}[!?]": 4 for i in range(2, 200)}
    started = time.process_time()
    assert "too long to match" in refusal(broken(config={"rank_pattern": slow}), base).message
    assert time.process_time() - started < 3


def test_deeply_nested_settings(base, broken):
    folder = broken()
    for depth in (300, 800, 950, 5000):
        nested = '{"peft_type": "LORA", "modules_to_save": ' + "[" * depth + "1" + "]" * depth + "}"
        (folder / "adapter_config.json").write_text(nested)
        assert refusal(folder, base).check == "config"


def test_too_large_configuration(base, broken):
    assert "larger" in refusal(broken(config={"x": "y" * (1 << 20)}), base).message


def test_every_setting_of_peft_has_a_known_meaning():
    """A field that a new PEFT brings must be read, refused or listed as without effect before it passes here."""
    assert {field.name for field in dataclasses.fields(LoraConfig)} <= KNOWN_SETTINGS


def test_what_peft_calls_a_variant_is_served_or_refused(base, broken):
    """Variants compute something else than B A: none of them may pass as a plain LoRA."""
    variants = [f.name for f in dataclasses.fields(LoraConfig) if f.metadata.get("is_lora_variant")]
    assert {"use_dora", "alora_invocation_tokens"} <= set(variants)
    training_only = {"velora_config"}  # a backward pass
    for name in sorted({*variants} - {"use_dora", "alora_invocation_tokens", *training_only}):
        value = {"x": 1} if "config" in name else True
        assert name in refusal(broken(config={name: value}), base).message


@pytest.mark.parametrize(
    ("init", "words"), [("pissa", "path_initial_model"), ("lora_ga", "initial"), ("loftq", "serve that")]
)
def test_the_next_step_fits_the_initialisation(init, words, base, broken):
    assert words in refusal(broken(config={"init_lora_weights": init}), base).hint


def test_unknown_settings(base, broken):
    quiet = validate_adapter(broken(config={"novel": None, "other": [], "third": False}), base, 64)
    assert not [row for row in quiet.rows if row.severity == "warning"]
    loud = validate_adapter(broken(config={"novel": 3}), base, 64)
    assert loud.ok
    assert "novel" in next(row for row in loud.rows if row.severity == "warning").message


def test_another_base_name_is_a_warning(base, broken):
    report = validate_adapter(broken(config={"base_model_name_or_path": "org/Other-7B"}), base, 64)
    assert report.ok
    assert [row.check for row in report.rows if row.severity == "warning"] == ["base"]
    same = validate_adapter(broken(config={"base_model_name_or_path": f"org/{base.name.upper()}/"}), base, 64)
    assert not [row for row in same.rows if row.severity == "warning"]


def test_rank_limit(base, peft_adapter):
    row = refusal(peft_adapter("patterns"), base, max_rank=8)
    assert row.check == "rank"
    assert "--max-lora-rank 12" in row.hint


def rename(old, new):
    def change(tensors):
        for name in list(tensors):
            if old in name:
                tensors[name.replace(old, new)] = tensors.pop(name)

    return change


def replace(name, tensor):
    return lambda tensors: tensors.__setitem__(name, tensor)


@pytest.mark.parametrize(
    ("change", "check", "words"),
    [
        (lambda t: t.pop(f"{Q0}.lora_B.weight"), "tensors", "q_proj lacks lora_B"),
        (lambda t: t.pop(f"{Q0}.lora_A.weight"), "tensors", "q_proj lacks lora_A"),
        (lambda t: [t.pop(n) for n in list(t) if Q0 in n], "modules", "no tensors: model.layers.0.self_attn.q_proj"),
        (lambda t: t.clear(), "modules", "no tensors"),
        (rename("layers.1.", "layers.7."), "tensors", "does not have: base_model.model.model.layers.7"),
        (rename("q_proj", "w_proj"), "tensors", "w_proj"),
        (rename("lora_A", "lora_C"), "tensors", "lora_C"),
        (rename("lora_A", "lora_embedding_A"), "tensors", "lacks lora_A"),
        (replace(f"{Q0}.lora_magnitude_vector", torch.ones(64)), "tensors", "lora_magnitude_vector"),
        (replace(f"{Q0}.lora_A.other.weight", torch.ones(4, 64)), "tensors", "second one"),
        (
            replace("base_model.model.lm_head.weight", torch.ones(81, 64)),
            "tensors",
            "its shape is [81, 64], the base's",
        ),
        (replace(f"{Q0}.lora_B.bias", torch.ones(64)), "tensors", "does not use: " + f"{Q0}.lora_B.bias"),
        (replace(f"{Q0}.base_layer.bias", torch.ones(64)), "tensors", "does not use: " + f"{Q0}.base_layer.bias"),
        (replace(f"{Q0}.lora_A.weight", torch.ones(4, 128)), "shape", "expected [4, 64], found [4, 128]"),
        (replace(f"{Q0}.lora_B.weight", torch.ones(32, 4)), "shape", "expected [64, 4], found [32, 4]"),
        (replace(f"{Q0}.lora_A.weight", torch.ones(4)), "shape", "found [4]"),
        (replace(f"{Q0}.lora_A.weight", torch.ones(4, 64, dtype=torch.int16)), "tensors", "I16"),
        (replace(f"{Q0}.lora_A.weight", torch.ones(4, 64, dtype=torch.int8)), "tensors", "I8"),
        (replace(f"{Q0}.lora_A.weight", torch.full((4, 64), float("nan"))), "values", f"{Q0}.lora_A.weight"),
        (replace(f"{Q0}.lora_B.weight", torch.full((64, 4), float("-inf"))), "values", "infinity"),
        (replace(f"{Q0}.lora_A.weight", torch.full((4, 64), float("inf")).half()), "values", "infinity"),
        (replace(f"{Q0}.lora_A.weight", torch.full((4, 64), float("nan")).bfloat16()), "values", "NaN"),
    ],
)
def test_tensors_that_do_not_fit(change, check, words, base, broken):
    row = refusal(broken(tensors=change), base)
    assert row.check == check
    assert words in row.message


def test_rank_of_the_tensors_must_be_the_configured(base, broken):
    row = refusal(broken(config={"r": 8}), base)
    assert (row.check, row.observed, row.expected) == ("rank", "4", "8")


Q0_BIAS, UP0_BIAS, K1_BIAS = (
    f"base_model.model.model.layers.{place}"
    for place in ("0.self_attn.q_proj.base_layer.bias", "0.mlp.up_proj.lora_B.bias", "1.self_attn.k_proj.bias")
)


@pytest.mark.parametrize(
    ("kind", "change", "check", "words"),
    [
        ("lora_bias", lambda t: t.pop(UP0_BIAS), "tensors", "0.mlp.up_proj lacks lora_B.bias [96]"),
        ("lora_bias", replace(UP0_BIAS, torch.ones(95)), "shape", f"{UP0_BIAS} has another shape"),
        ("lora_bias", replace(UP0_BIAS, torch.ones(96, 1)), "shape", "expected [96], found [96, 1]"),
        ("lora_bias", replace(UP0_BIAS, torch.full((96,), torch.inf)), "values", UP0_BIAS),
        ("bias_of_targets", lambda t: t.pop(Q0_BIAS), "tensors", "0.self_attn.q_proj lacks bias [64]"),
        ("bias_of_targets", replace(K1_BIAS, torch.ones(32)), "tensors", "1.self_attn.k_proj lacks lora_A [4, 64]"),
        ("bias_of_all", lambda t: t.pop(K1_BIAS), "tensors", "missing, though adapter_config.json says bias='all'"),
        ("bias_of_all", replace(K1_BIAS, torch.ones(64)), "shape", "expected [32], found [64]"),
        ("bias_of_all", rename("1.mlp.down_proj.lora_B", "1.mlp.up_proj"), "tensors", "up_proj.bias"),
        ("bias_of_all", rename("1.self_attn.k_proj.bias", "norm.bias"), "tensors", "are biases of norms"),
    ],
)
def test_biases_that_do_not_fit(kind, change, check, words, base, broken):
    rows = [row for row in validate_adapter(broken(kind, tensors=change), base, 64).errors if row.check == check]
    assert any(words in row.message for row in rows), rows


@pytest.mark.parametrize("change", [{"bias": "some_only"}, {"lora_bias": "yes"}, {"lora_bias": True, "use_dora": True}])
def test_settings_of_biases_that_peft_does_not_have(change, base, broken):
    row = refusal(broken(config=change), base)
    assert "bias" in row.message + str(row.observed)


EMBEDDING, HEAD = "base_model.model.model.embed_tokens.weight", "base_model.model.lm_head.weight"
ROWS = "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"


@pytest.mark.parametrize(
    ("kind", "change", "check", "words"),
    [
        ("own_matrices", lambda t: t.pop(HEAD), "tensors", f"modules_to_save, but {WEIGHTS} lacks {HEAD} [80, 64]"),
        ("own_matrices", replace(HEAD, torch.ones(81, 64)), "shape", "expected [80, 64], found [81, 64]"),
        ("own_matrices", replace(EMBEDDING, torch.ones(64, 80)), "shape", f"{EMBEDDING} has another shape"),
        ("own_matrices", replace(EMBEDDING, torch.ones(80, 64).int()), "tensors", f"{EMBEDDING} is I32"),
        ("own_matrices", replace(HEAD, torch.full((80, 64), torch.nan)), "values", HEAD),
        ("own_matrices", rename("layers.1.self_attn.q_proj", "norm"), "tensors", "does not have"),
        ("token_rows", lambda t: t.pop(ROWS), "tensors", f"lacks {ROWS} [3, 64]"),
        ("token_rows", replace(ROWS, torch.ones(2, 64)), "shape", "expected [3, 64], found [2, 64]"),
        ("token_rows", rename(ROWS, "base_model.model.lm_head.token_adapter.trainable_tokens_delta"), "tensors", ROWS),
        ("token_rows", replace(EMBEDDING, torch.ones(81, 64)), "tensors", "whole weights"),
    ],
)
def test_replaced_rows_that_do_not_fit(kind, change, check, words, base, broken):
    rows = [row for row in validate_adapter(broken(kind, tensors=change), base, 64).errors if row.check == check]
    assert any(words in row.message for row in rows), rows
    assert all(row.hint or row.expected for row in rows)


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("own_matrices", {"modules_to_save": ["lm_head", "embed_tokens", "o_proj"]}, "share: o_proj"),
        ("own_matrices", {"modules_to_save": "lm_head"}, "modules_to_save"),
        ("own_matrices", {"modules_to_save": [1]}, "modules_to_save"),
        ("own_matrices", {"modules_to_save": ["head"] * 5000}, "too many entries"),
        ("own_matrices", {"trainable_token_indices": [1]}, "both replace model.embed_tokens"),
        ("token_rows", {"trainable_token_indices": [42, 3, 80]}, "outside the base's vocabulary of 80: 80"),
        ("token_rows", {"trainable_token_indices": [42, 3, -1]}, "outside the base's vocabulary"),
        ("token_rows", {"trainable_token_indices": [42, 3, 3]}, "twice"),
        ("token_rows", {"trainable_token_indices": []}, "is empty"),
        ("token_rows", {"trainable_token_indices": ["a"]}, "trainable_token_indices"),
        ("token_rows", {"trainable_token_indices": {"embed_tokens": [1], "model.embed_tokens": [2]}}, "other modules"),
        ("token_rows", {"trainable_token_indices": {"embed_tokens": 5}}, "trainable_token_indices"),
        ("token_rows", {"trainable_token_indices": 2**70}, "adapter_config.json"),
        ("embedding", {"trainable_token_indices": {"lm_head": [1]}}, "lacks base_model.model.lm_head"),
    ],
)
def test_settings_of_replaced_rows_that_cannot_be_served(kind, change, words, base, broken):
    rows = validate_adapter(broken(kind, config=change), base, 64).errors
    assert any(words in row.message for row in rows), rows
    assert "internal" not in {row.check for row in rows}


def test_lora_and_rows_of_its_own_on_one_module(base, broken):
    change = replace("base_model.model.lm_head.token_adapter.trainable_tokens_delta", torch.ones(1, 64))
    folder = broken("embedding", config={"trainable_token_indices": {"lm_head": [1]}}, tensors=change)
    assert "lm_head is replaced and has LoRA tensors" in refusal(folder, base).message


def test_the_report_tells_the_memory_of_a_matrix(base, peft_adapter):
    (row,) = [row for row in validate_adapter(peft_adapter("own_matrices"), base, 64).rows if row.check == "memory"]
    assert f"{2 * 80 * 64 * 4} bytes of the device in float32" in row.message
    assert "--adapter-matrix-memory" in row.hint
    facts = read_facts(peft_adapter("own_matrices"), base)
    assert facts.bytes_per_module["lm_head"] == facts.bytes_per_module["embed_tokens"] == 80 * 64 * 4
    plain = read_facts(peft_adapter("plain"), base)
    assert facts.device_bytes == plain.device_bytes + 2 * 80 * 64 * 4


def test_a_target_that_is_replaced_has_no_lora(base, broken):
    """PEFT saves none there, whatever target_modules says."""
    folder = broken("own_matrices", config={"target_modules": ["q_proj", "embed_tokens", "lm_head"]})
    assert validate_adapter(folder, base, 64).ok


def test_a_tied_base_has_both_of_tied_modules(base, broken):
    tied = dataclasses.replace(base, is_head_tied=True)
    config = {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}
    assert validate_adapter(broken("own_matrices", config=config), tied, 64).ok
    without_head = broken("own_matrices", config=config, tensors=lambda tensors: tensors.pop(HEAD))
    assert HEAD in refusal(without_head, tied).message


def test_biases_alone_are_no_adapter(base, broken):
    """It would take no rank row, and so no slot."""

    def change(tensors):
        for name in [name for name in tensors if "lora_" in name]:
            del tensors[name]

    row = refusal(broken("bias_of_all", config={"target_modules": None, "lora_bias": False}, tensors=change), base)
    assert "touches no module" in row.message


def test_a_trained_bias_has_an_effect_without_lora(base, broken):
    def change(tensors):
        for name in tensors:
            if "lora_B" in name:
                tensors[name] = torch.zeros_like(tensors[name])

    report = validate_adapter(broken("bias_of_targets", tensors=change), base, 64)
    assert not [row for row in report.rows if row.severity == "warning"]


def test_dora_without_magnitudes(base, broken):
    assert "lacks lora_magnitude_vector" in refusal(broken(config={"use_dora": True}), base).message


def test_tied_adapters_are_refused(base, broken):
    assert "ensure_weight_tying" in refusal(broken("embedding", config={"ensure_weight_tying": True}), base).message


def test_more_modules_than_configured_is_a_warning(base, broken):
    report = validate_adapter(broken(config={"target_modules": ["q_proj"]}), base, 64)
    assert report.ok
    assert "v_proj" in next(row for row in report.rows if row.severity == "warning").message


def test_zero_b_is_a_warning(base, broken):
    def change(tensors):
        for name in tensors:
            if "lora_B" in name:
                tensors[name] = -torch.zeros_like(tensors[name])

    report = validate_adapter(broken(tensors=change), base, 64)
    assert report.ok
    assert "no effect" in next(row for row in report.rows if row.severity == "warning").message


def test_missing_files_and_pickles(base, broken, tmp_path):
    folder = broken()
    (folder / WEIGHTS).rename(folder / "adapter_model.bin")
    assert "pickle" in refusal(folder, base).message
    (folder / "adapter_model.bin").unlink()
    assert "missing" in refusal(folder, base).message
    (folder / "adapter_config.json").unlink()
    assert "missing" in refusal(folder, base).message
    assert not validate_adapter(folder / "nowhere", base, 64).ok


def test_pipes_do_not_block(base, broken):
    folder = broken()
    (folder / WEIGHTS).unlink()
    os.mkfifo(folder / WEIGHTS)
    assert "missing" in refusal(folder, base).message


def header_bytes(header, size=None):
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(content) if size is None else size).to_bytes(8, "little") + content


F32 = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "Git LFS pointer"),
        (b"[]", "not a JSON object"),
    ],
)
def test_a_config_that_is_none(content, words, base, broken):
    folder = broken()
    (folder / "adapter_config.json").write_bytes(content)
    assert words in refusal(folder, base).message


def test_a_header_as_long_as_a_kinds_first_byte_is_read(base, broken):
    folder = broken()
    header = json.dumps({"a": F32}, separators=(",", ":")).encode().ljust(ord("<"))
    (folder / WEIGHTS).write_bytes(header_bytes(header) + bytes(12))
    assert "truncated" in refusal(folder, base).message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "Git LFS pointer"),
        (b"PK\x03\x04" + bytes(60), "a zip file, as torch.save writes it"),
        (b"\x80\x02}q\x00.", "a pickle"),
        (b"GGUF\x03\0\0\0" + bytes(60), "a GGUF file"),
        (b"<!DOCTYPE html><title>404</title>", "a web page"),
        (b"\x10", "ends before its header"),
        (header_bytes(b"{}", 2**63), "ends before its header"),
        (header_bytes(b"{}", 1 << 20), "ends before its header"),
        (header_bytes(b" " * ((8 << 20) + 1)), "at most"),
        (header_bytes(b"[1]"), "not valid"),
        (header_bytes(b"\xff"), "not valid"),
        (header_bytes(b'{"a":' + b"[" * 60_000), "not valid"),
        (header_bytes({"a": F32 | {"shape": "x"}}), "not valid"),
        (header_bytes({"a": {"dtype": "F32"}}), "not valid"),
        (header_bytes({"a": F32}) + bytes(12), "truncated"),
        (header_bytes({"a": F32}) + bytes(20), "belong to no tensor"),
        (header_bytes({"a": F32, "b": F32}) + bytes(16), "overlap"),
        (header_bytes({"a": F32, "b": F32 | {"data_offsets": [8, 24]}}) + bytes(24), "overlap"),
        (header_bytes({"a": F32, "b": F32 | {"data_offsets": [20, 36]}}) + bytes(36), "gap"),
        (header_bytes({"a": F32 | {"data_offsets": [16, 0]}}) + bytes(16), "overlap"),
        (header_bytes({"a": F32 | {"data_offsets": [0, 8]}}) + bytes(8), "does not fit"),
        (header_bytes({"a": F32 | {"shape": [-2, -2]}}) + bytes(16), "impossible shape"),
        (header_bytes({"a": F32 | {"shape": [2**62, 2**62]}}) + bytes(16), "does not fit"),
        (header_bytes({"a": F32 | {"shape": [1] * 9 + [4]}}) + bytes(16), "impossible shape"),
        (header_bytes({"a": F32 | {"dtype": "F128"}}) + bytes(16), "unknown type"),
    ],
)
def test_corrupt_files(content, words, base, broken):
    folder = broken()
    (folder / WEIGHTS).write_bytes(content)
    row = refusal(folder, base)
    assert row.check == "file"
    assert words in row.message


def test_truncated_file(base, broken):
    folder = broken()
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[:-100])
    assert "truncated" in refusal(folder, base).message


def test_hostile_names_are_shown_harmlessly(base, broken):
    row = refusal(broken(tensors=replace("\x1b[2J" + "x" * 5000, torch.ones(1))), base)
    assert "\x1b" not in row.message
    assert len(row.message) < 1000


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_flipped_bytes_never_raise(data, base, peft_adapter, tmp_path):
    """Damage anywhere gives a report; damage in the header or the configuration never an internal error."""
    name = data.draw(st.sampled_from([WEIGHTS, "adapter_config.json"]))
    shutil.copytree(peft_adapter("patterns"), tmp_path, dirs_exist_ok=True)
    content = bytearray((tmp_path / name).read_bytes())
    header = int.from_bytes(content[:8], "little") if name == WEIGHTS else 0
    reach = data.draw(st.sampled_from([16, 8 + header, len(content)]))
    for position in data.draw(st.lists(st.integers(0, min(reach, len(content)) - 1), min_size=1, max_size=4)):
        content[position] = data.draw(st.integers(0, 255))
    cut = data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))
    (tmp_path / name).write_bytes(content[:cut])
    report = validate_adapter(tmp_path, base, 64)
    assert report.rows
    assert "internal" not in {row.check for row in report.rows}


def test_a_gap_in_the_checks_refuses_the_adapter(monkeypatch, base, peft_adapter):
    def fail(*_):
        raise ZeroDivisionError

    monkeypatch.setattr("multiflora_adapters.validation.plan_layout", fail)
    report = validate_adapter(peft_adapter("plain"), base, 64)
    assert [row.check for row in report.errors] == ["internal"]


def test_checks_import_no_torch():
    code = (
        "import sys, multiflora_adapters.validation, multiflora_adapters.store, multiflora_adapters.archive; "
        "sys.exit('torch' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0


def test_values_are_read_in_pieces(monkeypatch, base, broken):
    monkeypatch.setattr("multiflora_adapters.tensor_file.PIECE_BYTES", 64)
    last = np.nan
    row = refusal(broken(tensors=lambda t: t[f"{Q0}.lora_B.weight"].view(-1).__setitem__(-1, last)), base)
    assert row.check == "values"


def test_what_other_tools_write_is_read_as_peft_reads_it(base, broken):
    folder = broken(config={"fan_in_fan_out": True, "layers_pattern": "", "rank_pattern": {"q_proj": 4.0}, "r": 4.0})
    report = validate_adapter(folder, base, 64)
    warnings = [row.message for row in report.rows if row.severity == "warning"]
    assert (report.ok, len(warnings)) == (True, 1), report.rows
    assert warnings[0].startswith("fan_in_fan_out")
    assert "number" in refusal(broken(config={"rank_pattern": {"q_proj": 4.5}}), base).message.replace("int", "number")


@pytest.mark.parametrize("key", ["layers_pattern", "layers_to_transform", "exclude_modules", "base_model_name_or_path"])
@pytest.mark.parametrize("empty", ["", [], None], ids=repr)
def test_what_peft_takes_as_none_is_none_here(key, empty, base, broken, load_model):
    from peft import PeftModel

    folder = broken(config={key: empty})
    refused = (key, empty) in (("layers_to_transform", ""), ("base_model_name_or_path", []))
    report = validate_adapter(folder, base, 64)
    assert report.ok is not refused, report.rows
    if not refused:
        assert not [row.message for row in report.rows if row.severity == "warning"]
        PeftModel.from_pretrained(load_model(), folder)


@pytest.mark.parametrize(
    "config",
    [
        {"task_type": "x"},
        {"task_type": ""},
        {"eva_config": False},
        {"corda_config": []},
        {"lora_ga_config": "x"},
        {"velora_config": 0},
        {"bias": None},
        {"alpha_pattern": None},
        {"rank_pattern": None},
        {"lora_dropout": None},
        {"lora_dropout": "x"},
        {"lora_dropout": 2.0},
        {"layers_pattern": "layers"},
        {"target_modules": ".*q_proj", "layers_to_transform": []},
        {"target_modules": ".*q_proj", "layers_pattern": ""},
        {"layers_to_transform": -1},
        {"target_modules": "x"},
        {"target_modules": []},
        {"exclude_modules": ".*"},
        {"init_lora_weights": "true"},
        {"lora_bias": True, "use_dora": True},
        {"lora_bias": True, "init_lora_weights": "gaussian"},
    ],
    ids=repr,
)
def test_what_peft_does_not_load_is_refused(config, base, broken, load_model):
    from peft import PeftModel

    folder = broken(config=config)
    with pytest.raises((ValueError, TypeError, AttributeError)):
        PeftModel.from_pretrained(load_model(), folder)
    assert refusal(folder, base).hint


@pytest.mark.parametrize(("kind", "words"), [("LOHA", "peft_type LOHA"), (None, "no peft_type")])
def test_another_kind_of_adapter_is_told_by_name(kind, words, base, broken):
    assert words in refusal(broken(config={"peft_type": kind}), base).message


def test_double_precision_is_converted(base, broken):
    folder = broken(tensors=lambda tensors: tensors.update({name: value.double() for name, value in tensors.items()}))
    assert validate_adapter(folder, base, 64).ok
    nan = broken(
        tensors=lambda tensors: tensors.update({name: value.double() * torch.nan for name, value in tensors.items()})
    )
    assert "NaN" in refusal(nan, base).message


ACTIVATED = {"alora_invocation_tokens": [5, 79], "task_type": "CAUSAL_LM"}


def test_an_activated_lora_is_served(base, broken):
    """By what invokes it, too, a version is another one; the KV before that is not its."""
    folder = broken("all_linear", ACTIVATED)
    report = validate_adapter(folder, base, 64)
    assert report.ok
    facts = read_facts(folder, base)
    assert (facts.alora, facts.invocation_tokens) == (True, (5, 79))


@pytest.mark.parametrize(
    ("kind", "config", "words"),
    [
        ("all_linear", {"task_type": None}, "CAUSAL_LM"),
        ("all_linear", {"alora_invocation_tokens": [5, 80]}, "does not know"),
        ("all_linear", {"alora_invocation_tokens": [-1]}, "does not know"),
        ("all_linear", {"alora_invocation_tokens": "5"}, "alora_invocation_tokens"),
        ("all_linear", {"alora_invocation_tokens": [5.5]}, "alora_invocation_tokens"),
        ("all_linear", {"alora_invocation_tokens": [5] * 5000}, "too many"),
        ("dora", {}, "use_dora"),
        ("bias_of_targets", {}, "bias"),
        ("own_matrices", {}, "modules_to_save"),
        ("token_rows", {}, "trainable_token_indices"),
        ("embedding", {}, "embed_tokens"),
    ],
)
def test_what_peft_would_not_activate_is_refused(kind, config, words, base, broken):
    assert words in refusal(broken(kind, {**ACTIVATED, **config}), base).message
