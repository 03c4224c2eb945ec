"""Command lines as guides to vLLM give them, with our name and a small model: ready, and an answer by each name."""

from __future__ import annotations

from pathlib import Path

import openai
import pytest

from .conftest import serving

DEMO = Path(__file__).parents[2] / "examples" / "demo"
MODEL = str(DEMO / "base")
FIRST, SECOND = sorted(str(folder) for folder in (DEMO / "adapters").iterdir())[:2]
API_SERVER = ("multiflora.entrypoints.openai.api_server",)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("entry", "line", "names", "notices"),
    [
        pytest.param(
            ("multiflora", "serve", MODEL),
            "--trust-remote-code --host 0.0.0.0 --tensor-parallel-size 1 --pipeline-parallel-size 1 "
            "--gpu-memory-utilization 0.85 --max-model-len 256 --dtype float --quantization None --max-num-seqs 256 "
            "--max-num-batched-tokens 512 --disable-log-requests --served-model-name one two",
            ("one", "two"),
            {"--trust-remote-code"},
            id="every flag of a table",
        ),
        pytest.param(
            API_SERVER,
            f"--model {MODEL} --enable-lora --lora-modules sql_lora={FIRST} chat_lora={SECOND} --enable-prefix-caching",
            (MODEL, "base", "sql_lora", "chat_lora"),
            set(),
            id="two adapters by name",
        ),
        pytest.param(
            API_SERVER,
            f"--model {MODEL} --served-model-name llama3 --trust-remote-code --block-size 128 --swap-space 64 "
            "--gpu_memory_utilization 0.95 --max-num-seqs 1024 --enable-chunked-prefill=True",
            ("llama3",),
            {"--trust-remote-code"},
            id="notes on production",
        ),
    ],
)
def test_a_launch_line_starts_a_server_that_answers(
    tmp_path: Path, entry: tuple[str, ...], line: str, names: tuple[str, ...], notices: set[str]
) -> None:
    with serving(tmp_path, *line.split(), entry=entry) as server:
        for name in names:
            answer = server.openai().completions.create(model=name, prompt="Hello", max_tokens=3, temperature=0)
            assert answer.usage is not None
            assert answer.usage.completion_tokens > 0
            assert answer.model == name
        with pytest.raises(openai.NotFoundError):
            server.openai().completions.create(model="nobody", prompt="Hello")
        told = {text.split()[1] for text in server.output if " has no effect: " in text}
    assert told == notices
