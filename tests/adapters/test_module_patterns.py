"""The matching rules against PEFT's own functions, on expressions as people write them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key

from multiflora_adapters.lora_config import parse_config
from multiflora_adapters.module_patterns import ModuleMatcher
from multiflora_adapters.report import AdapterError

TARGETS = [
    {"target_modules": ["q_proj", "down_proj"]},
    {"target_modules": ["self_attn.q_proj", "lm_head", "proj"]},
    {"target_modules": ["model.layers.1.self_attn.q_proj", "k_proj"], "layers_to_transform": [0]},
    {"target_modules": ["q_proj"], "layers_to_transform": 1},
    {"target_modules": ["q_proj"], "layers_to_transform": []},
    {"target_modules": ["q_proj", "embed_tokens"], "layers_to_transform": [0, 1], "layers_pattern": ["h", "layers"]},
    {"target_modules": ["q_proj"], "layers_to_transform": [0], "layers_pattern": "blocks"},
    {"target_modules": r".*\.(q|v)_proj"},
    {"target_modules": r"(?!.*layers\.0).*mlp.*"},
    {"target_modules": r"q_proj"},
    {"target_modules": ["q_proj", "v_proj"], "exclude_modules": ["self_attn.v_proj"]},
    {"target_modules": ["q_proj", "v_proj"], "exclude_modules": r".*layers\.1.*"},
    {"target_modules": []},
]
PATTERNS = [
    {"q_proj": 3},
    {"layers.0.self_attn.q_proj": 3, "q_proj": 5},
    {"^model.layers.1.mlp.up_proj": 3},
    {r"layers\.[01]\.mlp\..*": 3, "down_proj": 7},
    {"proj": 3, "_proj": 4},
    {"self.attn.q_proj": 3, "attn.q_proj": 4, "self_attn.q.proj": 5, "0.mlp.up_proj": 6},
    {"model.layers.0": 3},
    {"lm_head": 3, "embed_tokens": 5},
    {"(q|k)_proj": 3, "mlp.(up|gate)_proj": 5},
    {"self_attn.q_proj|mlp.up_proj": 3},
    {"^model.layers.0.mlp.up_proj|self_attn.q_proj$": 3},
    {"(?i:SELF_ATTN.Q_PROJ)": 3},
    {"self_attn.[qk]_proj": 3, "q_proj{e}": 5},
]
NAMES = [
    "model",
    "layers",
    "self_attn",
    "mlp",
    "q_proj",
    "up_proj",
    "_proj",
    "lm_head",
    "0",
    "1",
    "q",
    "q_proj|up_proj",
]
SIGNS = [
    ".",
    "|",
    r"\.",
    ".*",
    "^",
    "$",
    "(",
    ")",
    "(?:",
    "[qk]",
    "[^.]*",
    "?",
    "*",
    "+",
    "{1}",
    "{e}",
    r"\d",
    r"\w+",
    "(?i)",
]
PIECES = st.sampled_from([*NAMES, *SIGNS])
KEYS = st.lists(PIECES, min_size=1, max_size=8).map("".join)


@pytest.mark.parametrize("arguments", TARGETS)
def test_targets_as_in_peft(arguments, base):
    oracle = LoraConfig(**arguments)
    matcher = ModuleMatcher(parse_config(arguments))
    for name, site in base.sites.items():
        assert matcher.is_target(site) == bool(check_target_module_exists(oracle, name)), name


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_as_in_peft(pattern, base):
    matcher = ModuleMatcher(parse_config({"r": 8, "lora_alpha": 8, "rank_pattern": pattern, "alpha_pattern": pattern}))
    for name in base.sites:
        expected = pattern.get(get_pattern_key(pattern, name), 8)
        assert matcher.rank(name) == expected
        assert matcher.scaling(name) == expected / expected


@settings(max_examples=300, deadline=None)
@given(pattern=st.dictionaries(KEYS, st.integers(1, 64), min_size=1, max_size=4))
def test_any_pattern_key_as_in_peft(pattern, base):
    matcher = ModuleMatcher(parse_config({"r": 8, "lora_alpha": 8, "rank_pattern": pattern, "alpha_pattern": {}}))
    for name in base.sites:
        try:
            expected = pattern.get(get_pattern_key(pattern, name), 8)
        except re.error:
            with pytest.raises(AdapterError, match="is invalid"):
                matcher.rank(name)
        else:
            assert matcher.rank(name) == expected, name


def test_all_linear_leaves_out_head_and_embedding(base):
    matcher = ModuleMatcher(parse_config({"target_modules": "ALL-linear"}))
    left_out = {name for name, site in base.sites.items() if not matcher.is_target(site)}
    assert left_out == {"lm_head", "model.embed_tokens"}


def test_paths_are_found_without_an_expression(monkeypatch):
    """An adapter may name thousands of experts: asking each expression about each of them would take minutes."""
    monkeypatch.setattr("multiflora_adapters.module_patterns._MATCHING_SECONDS", 0.0)
    modules = [f"model.layers.{layer}.mlp.experts.{e}.up_proj" for layer in range(3) for e in range(30)]
    matcher = ModuleMatcher(
        parse_config({"r": 7, "rank_pattern": {name: i + 1 for i, name in enumerate(modules[::2])}})
    )
    assert [matcher.rank(name) for name in modules[::2]] == list(range(1, 46))
    assert {matcher.rank(name) for name in modules[1::2]} == {7}
    assert matcher.rank(f"x{modules[0]}") == 7
    with pytest.raises(AdapterError, match="too long"):
        matcher.rank("model.layers.0.mlp.experts.0_up_proj")
