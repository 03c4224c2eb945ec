"""PEFT is the oracle: folding our host tensors (and pool rows) into the base's weights gives PEFT's logits."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from multiflora_adapters.base_model import BaseModel
from multiflora_adapters.manifest import read_manifest
from multiflora_adapters.report import AdapterError
from multiflora_adapters.slots import SlotPool
from multiflora_adapters.validation import validate_adapter
from multiflora_adapters.weights import HostAdapter, ReplacedRows, SiteWeights

TOKENS = torch.tensor([[3, 17, 42, 79, 0, 5, 64, 33]])


def test_logits_equal_peft(load, kind, base, load_model, weights, peft_adapter):
    host = load(peft_adapter(kind))
    expected = peft_logits(load_model(), peft_adapter(kind))
    found = folded_logits(load_model(), weights, host.sites, host.replaced)
    plain = folded_logits(load_model(), weights, {})
    assert (expected - plain).abs().max() > 1e-2, "the oracle must differ from the base"
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        *(("plain", {"modules_to_save": value}) for value in ("", {}, [], 0)),
        *(
            ("excluded", {"exclude_modules": r".*layers\.0\.self_attn\.q_proj", name: None})
            for name in ("use_dora", "lora_bias")
        ),
        *(("plain", {"exclude_modules": value, "layers_pattern": value}) for value in ("", {}, False)),
        *(("rslora", {"use_rslora": value, "use_dora": ""}) for value in (0, 1, None)),
        *(("plain", {"init_lora_weights": value, "fan_in_fan_out": None}) for value in ("", 0, None, "Gaussian")),
        ("plain", {"layers_to_transform": [], "ensure_weight_tying": None}),
        ("some_layers", {"layers_to_transform": [1.0], "lora_alpha": 4.0}),
        ("expression", {"target_modules": r".*\.(q|up)_proj"}),
    ],
    ids=repr,
)
def test_what_other_writers_leave_empty_is_read_as_peft_reads_it(kind, config, load, base, load_model, weights, broken):
    folder = broken(kind, config)
    assert validate_adapter(folder, base, 64).ok
    host = load(folder)
    found = folded_logits(load_model(), weights, host.sites, host.replaced)
    torch.testing.assert_close(found, peft_logits(load_model(), folder), atol=2e-5, rtol=2e-5)


def test_several_adapters_share_the_pool(load, kinds, base, load_model, weights, peft_adapter):
    pool = SlotPool(base, num_slots=32, num_rows=160, dtype=torch.float32, device="cpu", own_bytes=1 << 20)
    slots = {}
    for kind in kinds:
        slots[kind] = pool.put(load(peft_adapter(kind)))
        assert slots[kind] is not None
    for kind, slot in slots.items():
        replaced = {name: rows[slot] for name in base.sites if slot in (rows := pool.site(name).replaced_rows)}
        found = folded_logits(load_model(), weights, pool_weights(pool, base, slot), replaced)
        torch.testing.assert_close(found, peft_logits(load_model(), peft_adapter(kind)), atol=2e-5, rtol=2e-5)


def pool_weights(pool: SlotPool, base: BaseModel, slot: int) -> dict[str, SiteWeights]:
    """What kernels see of one slot."""
    found = {}
    for name, site in base.sites.items():
        pooled = pool.site(name)
        rank, offset = int(pooled.ranks[slot]), int(pooled.offsets[slot])
        if rank or (pooled.shift is not None and pooled.shift[slot].any()):
            assert pooled.active
            rows = slice(offset, offset + rank)
            a = pooled.a[:, rows] if site.kind == "embedding" else pooled.a[rows]
            magnitude = None if pooled.magnitude is None else pooled.magnitude[slot]
            shift = None if pooled.shift is None else pooled.shift[slot]
            found[name] = SiteWeights(a, pooled.b[rows], magnitude, shift)
    return found


def peft_logits(model: LlamaForCausalLM, adapter: Path) -> torch.Tensor:
    from peft import PeftModel

    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PeftModel.from_pretrained(model, adapter)(TOKENS).logits


def folded_logits(
    model: LlamaForCausalLM,
    weights: dict[str, torch.Tensor],
    sites: dict[str, SiteWeights],
    replaced: Mapping[str, ReplacedRows] = MappingProxyType({}),
) -> torch.Tensor:
    for name, rows in replaced.items():
        every = torch.arange(len(weights[name])) if rows.token_ids is None else rows.token_ids
        model.get_submodule(name).weight.data = weights[name].index_copy(0, every, rows.values)
    for name, site in sites.items():
        module = model.get_submodule(name)
        token_major = isinstance(module, torch.nn.Embedding)
        delta = site.a @ site.b if token_major else (site.a.t() @ site.b).t()
        adapted = weights[name] + delta
        if site.magnitude is not None:
            adapted = adapted * (site.magnitude if token_major else site.magnitude[:, None])
        module.weight.data = adapted
        if site.shift is not None:
            bias = site.shift if module.bias is None else module.bias + site.shift
            module.bias = torch.nn.Parameter(bias)
    with torch.no_grad():
        return model(TOKENS).logits


def test_dtype_and_scaling(load, peft_adapter):
    single = load(peft_adapter("plain"))
    half = load(peft_adapter("plain"), torch.bfloat16)
    name = "model.layers.1.self_attn.v_proj"
    stored = load_file(peft_adapter("plain") / "adapter_model.safetensors")
    b = stored[f"base_model.model.{name}.lora_B.weight"]
    torch.testing.assert_close(single.sites[name].b, b.t() * 4.0, rtol=0, atol=0)
    assert half.sites[name].a.dtype == half.sites[name].b.dtype == torch.bfloat16
    assert half.num_bytes * 2 == single.num_bytes == 2 * 4 * 4 * (64 + 64 + 64 + 32)
    assert single.rank == 4
    assert single.sites[name].b.is_contiguous()


def test_digest_is_the_manifests(load, peft_adapter):
    folder = peft_adapter("embedding")
    digest = read_manifest(folder).digest
    assert load(folder, digest=digest).digest == digest


def test_damage_on_disk_is_noticed(load, peft_adapter, tmp_path):
    folder = Path(shutil.copytree(peft_adapter("plain"), tmp_path / "copy"))
    digest = read_manifest(folder).digest
    path = folder / "adapter_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(AdapterError, match="damaged"):
        load(folder, digest=digest)


def test_foreign_embedding_copy_is_refused(load, base, broken):
    def change(tensors):
        tensors["base_model.model.model.embed_tokens.base_layer.weight"][7, 3] += 0.5

    with pytest.raises(AdapterError, match=r"embed_tokens.*differs from the base"):
        load(broken("embedding", tensors=change))


def test_rounded_embedding_copy_is_accepted(load, broken):
    def change(tensors):
        for name in tensors:
            tensors[name] = tensors[name].to(torch.bfloat16)

    assert load(broken("embedding", tensors=change)).sites


def test_values_beyond_float16_are_refused(load, broken):
    def change(tensors):
        tensors["base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"][0, 0] = 1e5

    folder = broken(tensors=change)
    assert load(folder, torch.bfloat16).sites
    with pytest.raises(AdapterError, match="float16 cannot express") as refused:
        load(folder, torch.float16)
    assert "--dtype" in (refused.value.row.hint or "")


def test_values_beyond_float32_are_refused_without_asking_for_float32(load, broken):
    def change(tensors):
        name = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"
        tensors[name] = tensors[name].double() + 1e300

    with pytest.raises(AdapterError, match="float32 cannot express") as refused:
        load(broken(tensors=change))
    assert "--dtype" not in (refused.value.row.hint or "")


@pytest.mark.parametrize("change", [{"modules_to_save": ["norm"]}, {"r": 5}, {"bias": "all"}])
def test_what_validation_refuses_is_never_loaded(load, change, broken):
    with pytest.raises(AdapterError):
        load(broken(config=change))


def test_norms_are_computed_in_chunks(monkeypatch, load, weights, peft_adapter):
    whole = load(peft_adapter("embedding_dora"))
    monkeypatch.setattr("multiflora_adapters.dora.norms._CHUNK_ELEMENTS", 7 * 64)
    chunked = load(peft_adapter("embedding_dora"))
    for name, site in whole.sites.items():
        torch.testing.assert_close(chunked.sites[name].magnitude, site.magnitude, rtol=1e-6, atol=0)


def test_names_of_other_versions(load, peft_adapter, tmp_path):
    """Older and newer PEFT, and transformers' own saving, write the same tensors under slightly different names."""
    source = peft_adapter("dora")
    reference = load(source)
    tensors = load_file(source / "adapter_model.safetensors")
    shutil.copy(source / "adapter_config.json", tmp_path)
    renames: list[Callable[[str], str]] = [
        lambda name: name.replace(".weight", ".default.weight").replace("vector", "vector.default.weight"),
        lambda name: name.removeprefix("base_model.model."),
        lambda name: name.replace("magnitude_vector", "magnitude_vector.weight"),
    ]
    for rename in renames:
        save_file({rename(name): tensor for name, tensor in tensors.items()}, tmp_path / "adapter_model.safetensors")
        found = load(tmp_path)
        assert_same(found, reference)


def assert_same(found: HostAdapter, expected: HostAdapter) -> None:
    assert found.sites.keys() == expected.sites.keys()
    for name, site in expected.sites.items():
        torch.testing.assert_close(found.sites[name].a, site.a, rtol=0, atol=0)
        torch.testing.assert_close(found.sites[name].b, site.b, rtol=0, atol=0)
        torch.testing.assert_close(found.sites[name].magnitude, site.magnitude, rtol=0, atol=0)


def test_missing_lora_alpha_means_pefts_default(load, peft_adapter, tmp_path):
    source = peft_adapter("plain")
    shutil.copytree(source, tmp_path, dirs_exist_ok=True)
    config = json.loads((source / "adapter_config.json").read_text())
    del config["lora_alpha"]
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    default = load(tmp_path)
    sixteen = load(source)
    for name, site in default.sites.items():
        torch.testing.assert_close(site.b * 2, sixteen.sites[name].b)


@pytest.mark.parametrize("name", ["model.embed_tokens", "lm_head"])
def test_a_whole_copy_beside_the_lora_must_be_the_bases(load, name, base, weights, broken):
    """PEFT's save_embedding_layers; an equal copy changes nothing, another one is a trained embedding."""
    tensor, site = f"base_model.model.{name}.weight", base.sites[name]
    equal = broken(tensors=lambda tensors: tensors.update({tensor: weights[name].clone()}))
    assert site.name not in load(equal).sites
    assert validate_adapter(equal, base, 64).ok
    other = broken(tensors=lambda tensors: tensors.update({tensor: weights[name] + 0.5}))
    with pytest.raises(AdapterError, match="differs from the base"):
        load(other)


def test_a_copy_of_a_base_that_is_kept_in_integers_may_be_half_a_step_off(load, weights, broken):
    step = weights["lm_head"].abs().amax(1, keepdim=True) / 127

    def copied(change):
        added = {"base_model.model.lm_head.weight": weights["lm_head"] + change * step}
        return broken(tensors=lambda tensors: tensors.update(added))

    def keeps_the_head_in_integers(site):
        return site != "lm_head"

    load(copied(0.5), is_base_exact=keeps_the_head_in_integers)
    with pytest.raises(AdapterError, match=r"lm_head.* differs from the base"):
        load(copied(5), is_base_exact=keeps_the_head_in_integers)


def test_double_precision_loads_as_single(load, broken):
    plain = load(broken())
    doubled = broken(tensors=lambda tensors: tensors.update({n: t.double() for n, t in tensors.items()}))
    double = load(doubled)
    assert all(torch.equal(double.sites[n].b, plain.sites[n].b) for n in plain.sites)
