"""No server: a base model and two adapters in this process, their prompts in one batch.

    .venv/bin/python examples/offline.py

Each answer is what the server gives for the same prompt.
"""

from __future__ import annotations

from pathlib import Path

from multiflora import LLM, SamplingParams

DEMO = Path(__file__).parent / "demo"
PROMPTS = {
    "sql": "Show the name and price of all products with a price above 40.",
    "pirate": "Hello, my friend. Where is the money?",
    None: "Hello, my friend. Where is the money?",  # the base model
}


def main() -> None:
    llm = LLM(model=DEMO / "base", adapters={name: DEMO / "adapters" / name for name in PROMPTS if name})
    conversations = [[{"role": "user", "content": text}] for text in PROMPTS.values()]
    params = SamplingParams(temperature=0, max_tokens=48)
    for output in llm.chat(conversations, params, adapter=list(PROMPTS), progress=False):
        print(f"{output.adapter or 'base'}: {output.outputs[0].text}")


if __name__ == "__main__":
    main()
