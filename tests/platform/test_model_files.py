"""A model's files as asked for: from a folder or the hub's cache at a revision, with what goes before its own files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from multiflora_engine.models.errors import ModelError
from multiflora_platform.model_files import ModelFiles
from multiflora_platform.text.errors import TokenizerError

DEMO = Path(__file__).parents[2] / "examples" / "demo" / "base"
MAIN, OLDER = "a" * 40, "b" * 40
HELLO = [{"role": "user", "content": "hi"}]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The demo's files without its weights, which are not read here."""
    return copy_of_demo(tmp_path / "model")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A hub's cache with org/tiny at two revisions, which differ in their sampling defaults."""
    root = tmp_path / "cache" / "models--org--tiny"
    for commit, top_k in ((MAIN, 1), (OLDER, 2)):
        folder = copy_of_demo(root / "snapshots" / commit)
        (folder / "generation_config.json").write_text(json.dumps({"top_k": top_k}), encoding="utf-8")
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(MAIN)
    (root / "refs" / "v1").write_text(OLDER)
    return tmp_path / "cache"


def copy_of_demo(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for file in DEMO.glob("*.json"):
        (folder / file.name).write_bytes(file.read_bytes())
    save_file({}, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize(
    ("asked", "top_k"),
    [
        ({"model": "org/tiny"}, 1),
        ({"model": "org/tiny", "revision": "v1"}, 2),
        ({"model": "org/tiny@v1"}, 2),
        ({"model": "org/tiny@v1", "revision": "v1"}, 2),
        ({"model": f"org/tiny@{OLDER}"}, 2),
    ],
)
def test_a_hub_id_is_read_at_its_revision(cache: Path, asked: dict[str, Any], top_k: int) -> None:
    config, _ = ModelFiles(**asked, download_dir=cache).open()
    assert config.generation_defaults["top_k"] == top_k


@pytest.mark.parametrize(
    ("asked", "parts"),
    [
        ({"model": "org/tiny", "revision": "v9"}, ("org/tiny", "local cache")),
        ({"model": "org/tiny@v1", "revision": "main"}, ("org/tiny", "v1", "main", "one of the two")),
        ({"model": "org/none"}, ("org/none", "local cache")),
        ({"model": "a/b/c"}, ("no folder a/b/c",)),
    ],
)
def test_what_the_hub_lacks_is_named(cache: Path, asked: dict[str, Any], parts: tuple[str, ...]) -> None:
    with pytest.raises(ModelError) as caught:
        ModelFiles(**asked, download_dir=cache).open()
    assert all(part in str(caught.value) for part in parts)


@pytest.mark.parametrize("index", [False, True])
def test_a_hub_model_without_safetensors_names_the_command_that_makes_them(cache: Path, index: bool) -> None:
    """Its .bin files have not been downloaded; with an index of safetensors the download is what is damaged."""
    folder = cache / "models--org--tiny" / "snapshots" / MAIN
    (folder / "model.safetensors").unlink()
    (folder / "tokenizer.json").unlink()
    if index:
        content = {"weight_map": {"a": "model-1.safetensors"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ModelError) as caught:
        ModelFiles(model="org/tiny", download_dir=cache).open()
    assert ("`multiflora models convert org/tiny ./tiny-safetensors`" in str(caught.value)) is not index
    assert ("Download or save the model again" in str(caught.value)) is index


def test_the_tokenizer_may_come_from_elsewhere_and_at_another_revision(cache: Path, model: Path) -> None:
    older = cache / "models--org--tiny" / "snapshots" / OLDER
    told = json.loads((older / "tokenizer_config.json").read_text(encoding="utf-8"))
    (older / "tokenizer_config.json").write_text(json.dumps({**told, "chat_template": "old"}), encoding="utf-8")
    for asked in (
        {"model": model, "tokenizer": "org/tiny@v1"},
        {"model": model, "tokenizer": "org/tiny", "tokenizer_revision": "v1"},
        {"model": model, "tokenizer": older},
        {"model": "org/tiny", "tokenizer_revision": "v1"},
    ):
        _, tokenizer = ModelFiles(**asked, download_dir=cache).open()  # type: ignore[arg-type]
        assert tokenizer.apply_chat_template(HELLO) == "old"
    _, tokenizer = ModelFiles(model="org/tiny", download_dir=cache).open()
    assert tokenizer.apply_chat_template(HELLO) != "old"


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(model: Path, tmp_path: Path) -> None:
    other = copy_of_demo(tmp_path / "other")
    content = json.loads((other / "tokenizer.json").read_text(encoding="utf-8"))
    content["added_tokens"] += [
        {**content["added_tokens"][0], "id": 100_000 + number, "content": f"<{number}>"} for number in range(9_000)
    ]
    (other / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(TokenizerError, match="trained with"):
        ModelFiles(model=model, tokenizer=other).open()


def test_quantisation_must_agree_with_the_checkpoint(model: Path) -> None:
    """int8 is done to a dense checkpoint, and to no other."""
    for made_at_load in ("int8", "int8_weight_only"):
        assert ModelFiles(model=model, quantization=made_at_load).open()[0].quantisation is None
    with pytest.raises(ModelError, match=r"awq, but the checkpoint is not quantised\. Leave it out"):
        ModelFiles(model=model, quantization="awq").open()
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4, "group_size": 128}
    (model / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for agreeing in (None, "gptq", "GPTQ_Marlin"):
        read, _ = ModelFiles(model=model, quantization=agreeing).open()
        assert read.quantisation is not None
        assert read.quantisation.method == "gptq"
    for other in ("awq", "int8"):
        with pytest.raises(ModelError, match=rf"{other}, but the checkpoint is quantised by gptq\. Leave it out"):
            ModelFiles(model=model, quantization=other).open()


def test_sampling_defaults_are_the_models_the_operators_or_none(model: Path, tmp_path: Path) -> None:
    (model / "generation_config.json").write_text('{"temperature": 0.5, "top_k": 4}', encoding="utf-8")
    (tmp_path / "generation_config.json").write_text('{"top_p": 0.25}', encoding="utf-8")
    for asked, defaults in (
        ({}, {"temperature": 0.5, "top_k": 4}),
        ({"generation_config": "vllm"}, {}),
        ({"generation_config": str(tmp_path)}, {"top_p": 0.25}),
        ({"override_generation_config": {"top_k": 2}}, {"temperature": 0.5, "top_k": 2}),
        ({"generation_config": "vllm", "override_generation_config": {"top_k": 2}}, {"top_k": 2}),
    ):
        config, _ = ModelFiles(model=model, **asked).open()  # type: ignore[arg-type]
        assert config.generation_defaults == defaults
    for wrong in ({"top_k": "many"}, {"beam": 3}, {"temperature": -1}):
        with pytest.raises(ModelError, match=next(iter(wrong))):
            ModelFiles(model=model, override_generation_config=wrong).open()
    with pytest.raises(ModelError, match=r"generation_config\.json"):
        ModelFiles(model=model, generation_config=str(tmp_path / "none")).open()


def test_a_chat_template_may_be_a_file_or_itself(model: Path, tmp_path: Path) -> None:
    template = "{% for m in messages %}[{{ m.content }}]{% endfor %}{{ mood }}"
    (tmp_path / "mine.jinja").write_text(template, encoding="utf-8")
    for given in (template, str(tmp_path / "mine.jinja")):
        asked = ModelFiles(model=model, chat_template=given, default_chat_template_kwargs={"mood": "!"})
        _, tokenizer = asked.open()
        assert tokenizer.apply_chat_template(HELLO) == "[hi]!"
        assert tokenizer.apply_chat_template(HELLO, chat_template_kwargs={"mood": "?"}) == "[hi]?"
    for wrong, part in (("no/such.jinja", "no/such.jinja"), ("{% for %}", "Jinja")):
        with pytest.raises(TokenizerError, match=part):
            ModelFiles(model=model, chat_template=wrong).open()
    with pytest.raises(TokenizerError, match="messages"):
        ModelFiles(model=model, default_chat_template_kwargs={"messages": []}).open()


@pytest.mark.parametrize(("given", "takes_parts"), [("auto", False), ("string", False), ("openai", True)])
def test_a_template_gets_content_in_the_format_that_the_operator_says(
    model: Path, given: Any, takes_parts: bool
) -> None:
    _, tokenizer = ModelFiles(model=model, chat_template="{{ messages }}", chat_template_content_format=given).open()
    assert tokenizer.templates.pick(None).takes_parts is takes_parts
