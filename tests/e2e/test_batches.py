"""A batch survives the server: killed in the middle, it ends after the next start with every line answered once."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import openai
import pytest

pytestmark = pytest.mark.slow

CHAT = "/v1/chat/completions"
LINES = 120


def begin(client: openai.OpenAI) -> Any:
    body = {
        "model": "sql",
        "messages": [{"role": "user", "content": "Show the name of all products."}],
        "max_tokens": 40,
        "ignore_eos": True,
    }
    rows = [{"custom_id": str(i), "method": "POST", "url": CHAT, "body": body} for i in range(LINES)]
    file = client.files.create(file=("work.jsonl", "\n".join(map(json.dumps, rows)).encode()), purpose="batch")
    return client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")


def until(client: openai.OpenAI, batch_id: str, ready: Callable[[Any], bool]) -> Any:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        batch = client.batches.retrieve(batch_id)
        if ready(batch):
            return batch
        time.sleep(0.02)
    raise AssertionError(f"the batch got stuck: {batch}")


def test_a_killed_server_answers_every_line_once(serve: Callable[..., Any]) -> None:
    server = serve("--max-num-seqs", "8")
    with server.openai() as client:
        batch = begin(client)
        before = until(client, batch.id, lambda batch: batch.request_counts.completed >= 4).request_counts.completed
    server.process.kill()
    server.process.wait()
    assert before < LINES
    again = serve("--max-num-seqs", "8")
    with again.openai() as client:
        ended = until(client, batch.id, lambda batch: batch.status in ("completed", "failed"))
        assert (ended.status, ended.request_counts.completed, ended.request_counts.failed) == ("completed", LINES, 0)
        lines = client.files.content(ended.output_file_id).text.splitlines()
        assert sorted(int(json.loads(text)["custom_id"]) for text in lines) == list(range(LINES))
        assert again.metric("vllm:e2e_request_latency_seconds_count") <= LINES - before
        assert not client.batches.list(limit=1, after=batch.id).data
