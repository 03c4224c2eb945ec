"""OpenAI's client picks an adapter with `model`.

    make serve                                      # in another terminal
    export MULTIFLORA_API_KEY=mf-...                # what it printed
    .venv/bin/python examples/openai_client.py      # needs `pip install openai`

One prompt through every model that the server has, then an answer as a stream.
"""

from __future__ import annotations

import os

from openai import OpenAI

URL = os.environ.get("MULTIFLORA_URL", "http://127.0.0.1:8000")
PROMPT = "Please send 3 blue lamps to our office in Oslo. Rilo Tamenberg"


def main() -> None:
    client = OpenAI(base_url=f"{URL}/v1", api_key=os.environ["MULTIFLORA_API_KEY"])
    for model in client.models.list():
        answer = client.chat.completions.create(
            model=model.id, temperature=0, max_tokens=48, messages=[{"role": "user", "content": PROMPT}]
        )
        print(f"{model.id}: {answer.choices[0].message.content}")

    stream = client.chat.completions.create(
        model="sql",
        temperature=0,
        stream=True,
        messages=[{"role": "user", "content": "Show the name of all products."}],
    )
    print("streamed: ", end="")
    for chunk in stream:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
    print()


if __name__ == "__main__":
    main()
