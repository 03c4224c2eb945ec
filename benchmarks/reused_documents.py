"""Approximate reuse of documents on a running server, by the share of their tokens that is computed again.

    multiflora serve --no-auth
    python benchmarks/reused_documents.py http://127.0.0.1:8000

Each question of the demo's retrieval eval is asked about some documents, of which one has the answer; each document
has been computed for other questions before, at other places. Answers are greedy. Compared with the exact answer to the
same text: whether it is the same, and how far the log-probabilities of its tokens lie apart.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from statistics import fmean, median
from typing import Any

import httpx

QUESTIONS = Path(__file__).parent.parent / "examples/demo/eval/rag.jsonl"
SHARES = (0.0, 0.1, 0.3)


def questions(count: int, num_documents: int) -> list[tuple[list[str], str, str]]:
    """(documents, question, expected answer), the same in each run."""
    rows = [json.loads(line) for line in QUESTIONS.read_text().splitlines()][:count]
    chance = random.Random(0)
    documents = [row["messages"][0]["content"].partition("\n\n")[2] for row in rows]
    asked = []
    for number, row in enumerate(rows):
        others = chance.sample([d for d in documents if d != documents[number]], num_documents - 1)
        order = [documents[number], *others]
        chance.shuffle(order)
        asked.append((order, row["messages"][1]["content"], row["expected"]))
    return asked


def ask(server: httpx.Client, model: str, documents: list[str], question: str, **fields: Any) -> dict[str, Any]:
    reuse = {"reuse": "approximate"} if "recompute_share" in fields else {}
    parts = [{"type": "document", "text": text, **reuse} for text in documents]
    content = [{"type": "text", "text": "Answer from this context."}, *parts]
    messages = [{"role": "system", "content": content}, {"role": "user", "content": question}]
    options = {"max_tokens": 24, "temperature": 0, "logprobs": True, "top_logprobs": 20}
    body = {"model": model, "messages": messages, **options, **fields}
    answer = server.post("/v1/chat/completions", json=body)
    answer.raise_for_status()
    result: dict[str, Any] = answer.json()
    return result


def tokens(answer: dict[str, Any]) -> list[str]:
    return [one["token"] for one in answer["choices"][0]["logprobs"]["content"]]


def distance(exact: dict[str, Any], reused: dict[str, Any]) -> float:
    """Between the log-probabilities of the exact answer's tokens up to the first that differs: their mean."""
    distances = []
    for one, other in zip(*(answer["choices"][0]["logprobs"]["content"] for answer in (exact, reused)), strict=False):
        shown = {top["token"]: top["logprob"] for top in other["top_logprobs"]}
        distances.append(abs(one["logprob"] - float(shown.get(one["token"], min(shown.values())))))
        if one["token"] != other["token"]:
            break
    return fmean(distances)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("server")
    parser.add_argument("--model", default="multiflora-demo")
    parser.add_argument("--questions", type=int, default=24)
    parser.add_argument("--documents", type=int, default=4)
    arguments = parser.parse_args()
    asked = questions(arguments.questions, arguments.documents)
    with httpx.Client(base_url=arguments.server, timeout=120) as server:
        exact = [ask(server, arguments.model, *one[:2], cache_salt="exact") for one in asked]
        right = sum(
            one[2] in answer["choices"][0]["message"]["content"] for one, answer in zip(asked, exact, strict=True)
        )
        print(f"exact: {right} of {len(asked)} right")
        print("SHARE  NOT_COMPUTED  SAME_ANSWER  RIGHT  DISTANCE(MEDIAN,MOST)")
        for share in SHARES:
            report(server, arguments.model, asked, exact, share)


def report(server: httpx.Client, model: str, asked: Any, exact: list[dict[str, Any]], share: float) -> None:
    fields = {"recompute_share": share, "cache_salt": f"share {share}"}
    for documents, question, _ in asked:
        # As other questions would have left them: each computed behind the beginning alone.
        ask(server, model, [documents[-1], *documents[:-1]], question, **fields, prompt_cache_options={"prewarm": True})
    same = right = cached = total = 0
    distances = []
    for (documents, question, expected), before in zip(asked, exact, strict=True):
        answer = ask(server, model, documents, question, **fields)
        same += tokens(answer) == tokens(before)
        right += expected in answer["choices"][0]["message"]["content"]
        distances.append(distance(before, answer))
        cached += answer["usage"]["prompt_tokens_details"]["cached_tokens"]
        total += answer["usage"]["prompt_tokens"]
    apart = f"{median(distances):.4f} {max(distances):.4f}"
    print(f"{share:<6} {cached / total:<13.2f} {same:>3} of {len(asked):<4} {right:<6} {apart}")


if __name__ == "__main__":
    main()
