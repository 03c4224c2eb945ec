"""A second base model beside the demo: loaded from the command line, asked, and unloaded while it answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

from multiflora_platform.cli.main import main

LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet(), reverse=True)


@dataclass(frozen=True)
class Tiny:
    """A base model of two layers and its adapter, as folders and in transformers and PEFT."""

    base: Path
    adapter: Path
    tokenizer: Tokenizer
    model: Any

    def answer(self, prompt: str, length: int, *, adapted: bool) -> str:
        """Greedy, of the base or with the adapter; what it gives alone."""
        ids = self.tokenizer.encode(prompt).ids
        options = {"max_new_tokens": length, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        with torch.no_grad(), self.model.disable_adapter() if not adapted else torch.enable_grad():
            out = self.model.generate(input_ids=torch.tensor([ids]), **options)
        return str(self.tokenizer.decode(out[0, len(ids) :].tolist()))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """Its vocabulary is the demo's in no place, and its size another."""
    folder = tmp_path_factory.mktemp("tiny")
    tokenizer = Tokenizer(models.BPE(vocab={letter: id for id, letter in enumerate(LETTERS)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    base, adapter = folder / "tiny-base", folder / "poet"
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=len(LETTERS),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    model = LlamaForCausalLM(config).eval()
    model.save_pretrained(base)
    tokenizer.save(str(base / "tokenizer.json"))
    (base / "tokenizer_config.json").write_text("{}", encoding="utf-8")
    lora = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    adapted = get_peft_model(model, lora).eval()
    adapted.save_pretrained(adapter)
    settings = adapter / "adapter_config.json"
    named = json.loads(settings.read_text(encoding="utf-8")) | {"base_model_name_or_path": "someone/tiny-base"}
    settings.write_text(json.dumps(named), encoding="utf-8")
    return Tiny(base, adapter, tokenizer, adapted)


@pytest.fixture
def loaded(demo: Any, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., int]]:
    """`tiny` is loaded, asleep; what is left of it in the end is gone."""
    monkeypatch.setenv("MULTIFLORA_URL", demo.url)
    monkeypatch.setenv("MULTIFLORA_API_KEY", demo.key)
    options = ["--option", "kv_cache_memory=4000000", "--option", "num_threads=1"]
    asleep = ["--min-replicas", "0", "--idle-seconds", "300"]
    assert main(["models", "add", "tiny", str(tiny.base), *options, *asleep]) == 0
    yield lambda *arguments: main(list(arguments))
    with demo.http() as http:
        http.delete("/api/v1/models/tiny")
        http.delete("/api/v1/adapters/poet")


def test_two_bases_answer_each_as_alone_and_one_leaves_under_load(
    demo: Any, tiny: Tiny, loaded: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with demo.http() as http:
        before = _complete(http, "sql", "SELECT", 12)
        assert _row(http)["state"] == "idle"
        # Registered while no engine of its base runs; it names that base, not the demo.
        assert loaded("adapters", "add", "poet", str(tiny.adapter)) == 0
        assert http.get("/v1/models/poet").json()["parent"] == "tiny"

        # The first request starts the engine and waits for it.
        prompt = "the quick brown fox jumps over the lazy dog"
        for model, adapted in (("tiny", False), ("poet", True)):
            assert _complete(http, model, prompt, 16)["text"] == tiny.answer(prompt, 16, adapted=adapted)
        row = _row(http)
        assert (row["state"], row["adapters"], row["is_default"]) == ("ready", 1, False)
        assert _complete(http, "sql", "SELECT", 12)["text"] == before["text"]

        # Caches do not mix: the demo has never seen the prompt that tiny has, whatever both are asked.
        cached = [_cached(http, model, prompt) for model in ("tiny", "multiflora-demo", "multiflora-demo")]
        assert cached[0] > 0
        assert cached[1] == 0
        assert cached[2] > 0
        runs = http.get("/api/v1/cache", params={"model": "tiny"}).json()["nodes"]
        assert {run["replica"] for run in runs} == {"tiny-0"}
        texts = [http.get(f"/api/v1/cache/{run['hash']}/text", params={"model": "poet"}).json()["text"] for run in runs]
        assert any(prompt.startswith(text) for text in texts)
        _assert_held(http, loaded, tmp_path)
        assert 'multiflora_replica_ready{model_name="tiny",replica="tiny-0"} 1.0' in http.get("/metrics").text
        groups = {replica["id"]: replica["group"] for replica in http.get("/api/v1/replicas").json()["items"]}
        assert groups == {"0": "multiflora-demo", "tiny-0": "tiny"}

        assert http.post("/api/v1/models", json={"name": "tiny", "source": str(tiny.base)}).status_code == 409
        same = http.post("/api/v1/models", json={"name": "again", "source": str(tiny.base)})
        assert "the same base model" in same.json()["detail"]
        capsys.readouterr()
        assert loaded("models", "ls") == 0
        assert "tiny" in capsys.readouterr().out

        _unload_under_load(demo, loaded)
        for model in ("tiny", "poet"):
            gone = http.post("/v1/completions", json={"model": model, "prompt": "x"})
            assert (gone.status_code, gone.json()["error"]["code"]) == (404, "model_not_found")
        assert "another base model" in gone.json()["error"]["message"]
        assert http.get("/api/v1/adapters/poet").status_code == 200
        assert _complete(http, "sql", "SELECT", 12)["text"] == before["text"]


def _assert_held(http: httpx.Client, cli: Callable[..., int], folder: Path) -> None:
    """A context is computed and held by the engines of each of its models, and requests find it there."""
    text = folder / "rules.txt"
    text.write_text("A verse of four lines, each with a dog in it. " * 3, encoding="utf-8")
    models = ["--adapter", "poet", "--adapter", "multiflora-demo"]
    assert cli("contexts", "put", "rules", "--prompt-file", str(text), *models, "--wait") == 0
    shown = http.get("/api/v1/contexts/rules").json()
    assert shown["held"], shown
    for model, context in shown["adapters"].items():
        assert _cached(http, model, " And one more.", context="rules") >= context["cached_tokens"] > 0
    assert http.delete("/api/v1/contexts/rules").status_code == 204


def _unload_under_load(demo: Any, cli: Callable[..., int]) -> None:
    """What runs on both ends well: tiny's request within the drain, the demo's as if nothing had been."""
    with ThreadPoolExecutor(2) as pool, demo.http() as http:
        streams = [pool.submit(_stream, demo, model) for model in ("tiny", "multiflora-demo")]
        while _row(http)["in_flight"] == 0 and not streams[0].done():
            pass
        assert cli("models", "rm", "tiny") == 0
        texts = [stream.result() for stream in streams]
    assert all(events[-1] == "[DONE]" for events in texts), texts


def _stream(demo: Any, model: str) -> list[str]:
    body = {"model": model, "prompt": "once", "max_tokens": 200, "ignore_eos": True, "stream": True}
    with demo.http() as http, http.stream("POST", "/v1/completions", json=body) as answer:
        return [line.removeprefix("data: ") for line in answer.iter_lines() if line]


def _row(http: httpx.Client) -> Any:
    return http.get("/api/v1/models/tiny").json()


def _complete(http: httpx.Client, model: str, prompt: str, length: int) -> Any:
    body = {"model": model, "prompt": prompt, "max_tokens": length, "temperature": 0, "ignore_eos": True}
    answer = http.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]


def _cached(http: httpx.Client, model: str, prompt: str, **more: str) -> int:
    body = {"model": model, "prompt": prompt, "max_tokens": 1, "temperature": 0, **more}
    usage = http.post("/v1/completions", json=body).json()["usage"]
    return int(usage["prompt_tokens_details"]["cached_tokens"])
