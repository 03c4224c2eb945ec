"""Engines whose other ranks are threads of the test: the same code on the same lines, without a start of torch each."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from tests.engine.parity.test_adapters import save_adapter

from multiflora_adapters.store import ArtifactStore
from multiflora_engine.process.rank import follow


def start_thread(lines: Sequence[Connection]) -> Callable[[], str]:
    """A `StartProcess`."""
    ended: list[int] = []
    thread = threading.Thread(target=lambda: ended.append(follow(*lines)), daemon=True)
    thread.start()

    def cause_of_end() -> str:
        thread.join(10)
        return f"exit status {ended}"

    return cause_of_end


@pytest.fixture(autouse=True)
def _ranks_are_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("multiflora_engine.build.start_process", start_thread)


@pytest.fixture
def check_adapters(
    tmp_path: Path,
    tiny_config: Any,
    save_model: Any,
    start_engine: Any,
    ask: Any,
    check_answer: Any,
    prompts: Any,
) -> Callable[..., None]:
    """Adapters of these kinds beside the base, each alone and all in one batch, say what transformers and PEFT say.

    divided: the options of the engine that divide the model.
    """

    def check(config_class: Any, values: dict[str, Any], kinds: dict[str, Any], **divided: int) -> None:
        base, folder = save_model(tiny_config(config_class, **values))
        store = ArtifactStore(tmp_path / "artifacts")
        oracles = {None: base}
        for name, kind in kinds.items():
            oracle = save_adapter(folder, tmp_path / name, kind)
            oracles[store.add(tmp_path / name).digest] = oracle
        engine = start_engine(folder, max_model_len=256, **divided)
        rows = [(digest, prompts[3]) for digest in oracles]
        alone = [ask(engine, [prompt], [digest], max_tokens=3)[0] for digest, prompt in rows]
        mixed = ask(engine, [prompt for _, prompt in rows], [digest for digest, _ in rows], prompt_logprobs=0)
        for answers in (alone, mixed):
            for (digest, prompt), answer in zip(rows, answers, strict=True):
                check_answer(oracles[digest], prompt, answer)

    return check
