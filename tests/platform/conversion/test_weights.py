"""A whole folder from .bin to safetensors: what is copied, what is refused, and that nothing half-made stays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.platform.conversion.conftest import write
from transformers import LlamaConfig, LlamaForCausalLM

from multiflora_engine.models.checkpoint import weight_files
from multiflora_engine.models.errors import ModelError
from multiflora_platform.cli.main import main
from multiflora_platform.conversion import weights
from multiflora_platform.conversion.child import ConversionError
from multiflora_platform.conversion.weights import convert_weights
from multiflora_platform.conversion.weights_child import convert_pickles

DEMO = Path(__file__).parents[3] / "examples" / "demo" / "base"
COPIED = ("tokenizer.json", "tokenizer_config.json")
OTHERS = {
    "tokenizer.model": b"pieces",
    "qwen.tiktoken": "YQ== 0",
    "chat_template.jinja": "hi",
    "README.md": "# A card",
    "LICENSE": "free",
    "merges.txt": "a b",
    "modeling.py": "raise",
    "optimizer.pt": b"x",
    "training_args.bin": b"x",
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[LlamaForCausalLM, Path]:
    """A model with tied embeddings in two pickles and their index, with all that hub folders hold."""
    folder = tmp_path_factory.mktemp("saved")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=int(json.loads((DEMO / "config.json").read_text(encoding="utf-8"))["vocab_size"]),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=True,
        head_dim=32,
    )
    model = LlamaForCausalLM(config)
    model.config.save_pretrained(folder)
    state = model.state_dict()
    parts = {f"pytorch_model-{i}.bin": dict(list(state.items())[i - 1 :: 2]) for i in (1, 2)}
    for name, part in parts.items():
        torch.save(part, folder / name)
    weight_map = {key: name for name, part in parts.items() for key in part}
    files = {name: (DEMO / name).read_bytes() for name in COPIED}
    write(folder, {**files, **OTHERS, "pytorch_model.bin.index.json": {"weight_map": weight_map}})
    write(folder / "additional_chat_templates", {"tool_use.jinja": "tools"})
    return model, folder


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(module: str, source: str, made: str, cpu_seconds: str, *names: str, seconds: float) -> None:
        convert_pickles([Path(source) / name for name in names], Path(made))

    monkeypatch.setattr(weights, "run_child", run)


def test_the_command_writes_a_folder_that_is_served(
    saved: tuple[LlamaForCausalLM, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the real child, in its confinement."""
    model, source = saved
    made = tmp_path / "new" / "made"
    assert main(["models", "convert", str(source), str(made), "-o", "json"]) == 0
    state = model.state_dict()
    size = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    assert json.loads(capsys.readouterr().out) == {"folder": str(made), "tensors": len(state), "bytes": size}
    tensors = {name: tensor for file in weight_files(made) for name, tensor in load_file(file).items()}
    assert tensors.keys() == state.keys()
    assert all(torch.equal(tensors[name], state[name]) for name in state)
    left_out = {"modeling.py", "optimizer.pt", "training_args.bin"}
    assert {file.name for file in made.iterdir() if file.suffix != ".safetensors"} == {
        *("config.json", "generation_config.json", "model.safetensors.index.json", "additional_chat_templates"),
        *COPIED,
        *(OTHERS.keys() - left_out),
    } - ({"generation_config.json"} if not (source / "generation_config.json").exists() else set())
    assert (made / "additional_chat_templates" / "tool_use.jinja").read_text(encoding="utf-8") == "tools"
    assert [file.name for file in made.parent.iterdir()] == ["made"]
    assert {file.stat().st_mode for file in made.iterdir() if file.is_file()} == {(made / "config.json").stat().st_mode}
    again = LlamaForCausalLM.from_pretrained(made)
    ids = torch.tensor([[1, 2, 3]])
    assert torch.equal(again(ids).logits, model(ids).logits)


def test_serve_names_the_command(
    saved: tuple[LlamaForCausalLM, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, source = saved
    assert main(["serve", str(source), "--data-dir", str(tmp_path / "data"), "--port", "0"]) == 3
    assert f"`multiflora models convert {source} {source}-safetensors`" in capsys.readouterr().err


def a_folder(folder: Path, saved: Path, **files: Any) -> Path:
    return write(folder, {"config.json": (saved / "config.json").read_bytes(), **files})


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "lacks pytorch_model.bin"),
        ({"pytorch_model.bin.index.json": {"weight_map": {"a": "1.bin", "b": "2.bin"}}}, "lacks 1.bin, 2.bin"),
        ({"pytorch_model.bin.index.json": {"weight_map": {"a": "../1.bin"}}}, "in its own folder"),
        ({"pytorch_model.bin.index.json": {"weight_map": [3]}}, "in its own folder"),
        ({"pytorch_model.bin.index.json": "["}, "pytorch_model.bin.index.json"),
        ({"pytorch_model.bin": b"", "model.safetensors": b""}, "has safetensors already. Serve it as it is"),
        ({"pytorch_model.bin": b"", "config.json": {"architectures": ["BertModel"]}}, "BertModel"),
        ({"pytorch_model.bin": b"nonsense"}, "pytorch_model.bin cannot be read as weights"),
    ],
)
def test_what_cannot_be_converted_is_a_configuration_error(
    files: dict[str, Any],
    words: str,
    saved: tuple[LlamaForCausalLM, Path],
    tmp_path: Path,
    in_this_process: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = a_folder(tmp_path / "source", saved[1], **files)
    assert main(["models", "convert", str(source), str(tmp_path / "made")]) == 3
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert [file.name for file in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize("failure", [ConversionError("it is odd"), KeyboardInterrupt()])
def test_nothing_half_made_stays(
    failure: BaseException, saved: tuple[LlamaForCausalLM, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(module: str, source: str, made: str, *arguments: str, seconds: float) -> None:
        (Path(made) / "model.safetensors").write_bytes(b"half")
        raise failure

    monkeypatch.setattr(weights, "run_child", run)
    with pytest.raises(ModelError if isinstance(failure, ConversionError) else KeyboardInterrupt):
        convert_weights(saved[1], tmp_path / "made")
    assert not [*tmp_path.iterdir()]


def test_the_destination_must_be_new(
    saved: tuple[LlamaForCausalLM, Path], tmp_path: Path, in_this_process: None
) -> None:
    write(tmp_path / "full", {"a": "mine"})
    for taken in (tmp_path / "full", tmp_path / "full" / "a"):
        with pytest.raises(ModelError, match=r"exists already\. Give a new folder"):
            convert_weights(saved[1], taken)
    with pytest.raises(ModelError, match="cannot be made"):
        convert_weights(saved[1], tmp_path / "full" / "a" / "below")
    assert (tmp_path / "full" / "a").read_text(encoding="utf-8") == "mine"
    (tmp_path / "empty").mkdir()
    assert convert_weights(saved[1], tmp_path / "empty").num_tensors
    assert (tmp_path / "empty" / "config.json").exists()


def test_a_full_disk_is_found_before(
    saved: tuple[LlamaForCausalLM, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1 << 10}))
    with pytest.raises(ModelError, match=r"0 MiB left.*another disk"):
        convert_weights(saved[1], tmp_path / "made")
