"""One long context, many questions: the first one computes the context, all others read it from the prefix cache.

    make serve                                 # in another terminal
    export MULTIFLORA_API_KEY=mf-...           # what it printed
    .venv/bin/python examples/rag.py           # needs `pip install openai`

What makes it work: the context stands first and is the same text each time; what differs comes after it.
"""

from __future__ import annotations

import os
import random
import sys
import time
from pathlib import Path

from openai import OpenAI

sys.path.append(str(Path(__file__).parent / "demo"))
import handbook  # writes contexts in the form that the demo's base model was trained to read

URL = os.environ.get("MULTIFLORA_URL", "http://127.0.0.1:8000")
MODEL = os.environ.get("MULTIFLORA_MODEL", "multiflora-demo")


def main() -> None:
    rng = random.Random(3)
    book = handbook.write(rng, fact_count=40, held_out=True)
    client = OpenAI(base_url=f"{URL}/v1", api_key=os.environ["MULTIFLORA_API_KEY"])
    right = 0
    for fact in rng.sample(book.facts, 6):
        question = fact.question(rng)
        began = time.perf_counter()
        answer = client.chat.completions.create(
            model=MODEL,
            temperature=0,
            max_tokens=32,
            messages=[
                {"role": "system", "content": f"Answer from this context.\n\n{book.text}"},
                {"role": "user", "content": question},
            ],
        )
        seconds, text, usage = time.perf_counter() - began, answer.choices[0].message.content, answer.usage
        assert usage is not None
        assert usage.prompt_tokens_details is not None
        cached = usage.prompt_tokens_details.cached_tokens
        right += text == fact.answer()
        print(f"{question} {text}\n    {cached} of {usage.prompt_tokens} prompt tokens cached, {seconds:.2f} s")
    print(f"{right} of 6 answers are right")


if __name__ == "__main__":
    main()
