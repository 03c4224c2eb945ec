"""What speculation by prompt lookup saves, and what it costs where it cannot save: the same requests with and without.

    python benchmarks/prompt_lookup.py [--threads 1] [--rounds 5] [--streams 1 4 8 16] [--documents quotes]

The model is made for this: a Llama of inputs.SHAPE whose layers add nothing, and whose head names one fixed successor
of each token. All of its products are computed, so that a step takes what it takes with any weights, and what it says
is known: an answer is a chain of successors. A document that holds the chain in pieces makes it an answer that quotes
passages of its document; in one without the chain nothing repeats; in one where every passage of four tokens goes on
otherwise, all drafts are wrong.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
import time
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from inputs import FIRST_PLAIN_TOKEN, SHAPE, VOCABULARY
from multiflora_engine.build import BuiltEngine, build_engine
from multiflora_engine.protocol.config import EngineConfig
from multiflora_engine.protocol.requests import GenerateRequest
from multiflora_engine.protocol.sampling_params import SamplingParams

PASSAGE = 24
"""Tokens that stand in the document as they come in the answer."""
MISLEADING = 4
ANSWER = 96
DOCUMENT = 768


def make_model(folder: Path) -> list[int]:
    """Writes the model; returns its chain: each token's successor stands behind it."""
    torch.manual_seed(1)
    config = LlamaConfig(**SHAPE, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2, pad_token_id=2)
    model = LlamaForCausalLM(config).to(torch.float32)
    chain = random.Random(2).sample(range(FIRST_PLAIN_TOKEN, VOCABULARY), VOCABULARY - FIRST_PLAIN_TOKEN)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.lm_head.weight[chain[1:]] = model.model.embed_tokens.weight[chain[:-1]]
    model.save_pretrained(folder)
    return chain


def quoting(chain: list[int], start: int, rng: random.Random) -> list[int]:
    """A document of the answer's passages in another order, among others."""
    passages = list(range(start, start + DOCUMENT, PASSAGE))
    rng.shuffle(passages)
    return [*(token for at in passages for token in chain[at : at + PASSAGE]), chain[start]]


def unrelated(chain: list[int], start: int, rng: random.Random) -> list[int]:
    """A document that has nothing of the answer."""
    return [*rng.sample(chain[: len(chain) // 4], DOCUMENT), chain[start]]


def misleading(chain: list[int], start: int, rng: random.Random) -> list[int]:
    """A document in which each few tokens of the answer are followed by something else."""
    document: list[int] = []
    for at in range(start, start + DOCUMENT, MISLEADING):
        document += [*chain[at : at + MISLEADING], rng.choice(chain[: len(chain) // 4])]
    return [*document[:DOCUMENT], chain[start]]


DOCUMENTS = {"quotes": quoting, "unrelated": unrelated, "misleading": misleading}


def timed(built: BuiltEngine, prompts: list[list[int]], round: str) -> tuple[float, float, list[list[int]]]:
    """Seconds of decoding by the clock and by the processor, from when all prompts are read; and the answers."""
    params = SamplingParams(temperature=0.0, max_tokens=ANSWER, ignore_eos=True)
    answers: dict[str, list[int]] = {}
    for place, prompt in enumerate(prompts):
        answers[f"{round}-{place}"] = []
        built.engine.add_request(GenerateRequest(id=f"{round}-{place}", prompt_token_ids=prompt, params=params))
    began = (0.0, 0.0)
    while built.engine.has_work:
        if not began[0] and all(answers.values()):
            began = time.perf_counter(), time.process_time()
        for delta in built.engine.step():
            answers[delta.request_id] += delta.token_ids
    return time.perf_counter() - began[0], time.process_time() - began[1], list(answers.values())


def compare(plain: BuiltEngine, drafting: BuiltEngine, kind: str, streams: int, chain: list[int], rounds: int) -> None:
    clocks: list[float] = []
    processors: list[float] = []
    rates: list[float] = []
    for turn in range(rounds):
        rng = random.Random(turn)
        starts = [len(chain) // 4 + rng.randrange(len(chain) // 2) for _ in range(streams)]
        prompts = [DOCUMENTS[kind](chain, start, rng) for start in starts]
        sides = [timed(built, prompts, f"{kind}-{streams}-{turn}") for built in (plain, drafting)]
        assert sides[0][2] == sides[1][2], "answers are equal"
        assert all(answer == chain[start + 1 :][:ANSWER] for start, answer in zip(starts, sides[1][2], strict=True))
        clocks.append(sides[0][0] / sides[1][0])
        processors.append(sides[0][1] / sides[1][1])
        rates.append(streams * (ANSWER - 1) / sides[1][0])
    print(
        f"{kind:11} {streams:3} streams: {statistics.median(clocks):5.2f}x by the clock, "
        f"{statistics.median(processors):5.2f}x by processor time, {statistics.median(rates):6.0f} tokens/s",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 4, 8, 16])
    parser.add_argument("--documents", nargs="+", choices=DOCUMENTS, default=list(DOCUMENTS))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        chain = make_model(Path(folder) / "model")
        plain, drafting = (
            build_engine(
                EngineConfig(
                    model_path=str(Path(folder) / "model"),
                    artifact_root=str(Path(folder) / "artifacts"),
                    device="cpu",
                    kv_cache_memory=512 << 20,
                    num_threads=arguments.threads,
                    enable_prompt_lookup=on,
                )
            )
            for on in (False, True)
        )
        print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors, {arguments.threads} threads")
        for kind in arguments.documents:
            for streams in arguments.streams:
                compare(plain, drafting, kind, streams, chain, arguments.rounds)
        stats = drafting.engine.stats()
        print(f"drafted {stats.draft_tokens}, accepted {stats.accepted_tokens}; load now {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
