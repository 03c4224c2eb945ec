"""Work that can wait: a file of requests, one batch, a file of answers.

    make serve                                 # in another terminal
    export MULTIFLORA_API_KEY=mf-...           # what it printed
    .venv/bin/python examples/batch.py         # needs `pip install openai`

The lines of a batch run behind interactive requests, and a restart of the server loses none.
"""

from __future__ import annotations

import json
import os
import time

from openai import OpenAI

URL = os.environ.get("MULTIFLORA_URL", "http://127.0.0.1:8000")
TICKETS = [
    "The VPN drops every few minutes and nobody in Lisbon can work.",
    "Please tell me the address of the office in Porto.",
    "I was charged twice for invoice 4471.",
    "The printer on the second floor is out of paper.",
]


def line(number: int, ticket: str) -> str:
    body = {"model": "triage", "temperature": 0, "max_tokens": 40, "messages": [{"role": "user", "content": ticket}]}
    return json.dumps({"custom_id": f"ticket-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body})


def main() -> None:
    client = OpenAI(base_url=f"{URL}/v1", api_key=os.environ["MULTIFLORA_API_KEY"])
    lines = "\n".join(line(number, ticket) for number, ticket in enumerate(TICKETS))
    file = client.files.create(file=("tickets.jsonl", lines.encode()), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    while batch.status not in ("completed", "failed", "expired", "cancelled"):
        time.sleep(0.2)
        batch = client.batches.retrieve(batch.id)
    assert batch.request_counts is not None
    print(f"{batch.status}: {batch.request_counts.completed} answered, {batch.request_counts.failed} failed")
    if batch.output_file_id is None:
        return
    answers = map(json.loads, client.files.content(batch.output_file_id).text.splitlines())
    for answer in sorted(answers, key=lambda answer: answer["custom_id"]):
        content = answer["response"]["body"]["choices"][0]["message"]["content"]
        print(f"{answer['custom_id']}: {content}")
    for file_id in (file.id, batch.output_file_id):  # files are kept until they are deleted
        client.files.delete(file_id)


if __name__ == "__main__":
    main()
