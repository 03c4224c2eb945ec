"""Makes the demo from nothing: tokenizer, base model, adapters, evaluation sets. Owns the command line.

python examples/demo/train.py --stage all
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # spinning threads starve each other on a shared machine

import chat
import corpus
import evaluate
import finetune
import heldout
import pretrain
import torch
from tasks import TASKS
from tokenizers import Tokenizer

HERE = Path(__file__).resolve().parent


def train_tokenizer(args: argparse.Namespace) -> None:
    """Trains the tokenizer on a sample of everything the models will read and write."""

    def texts() -> Iterator[str]:
        rng = Random(f"tokenizer/{args.seed}")
        for _ in range(4000):
            context, turns = corpus.conversation(rng, facts=12)
            yield context or ""
            yield from (text for turn in turns[:3] for text in turn)
            for task in TASKS:
                example = next(task.examples(rng.randrange(10**9), held_out=False))
                yield from (example.prompt, example.answer)

    chat.save_tokenizer(chat.train_tokenizer(texts()), args.out / "base")


def train_base(args: argparse.Namespace) -> None:
    """Trains the base model and writes it in Hugging Face format."""
    model = pretrain.train(load_encoder(args), args.work, args.tokens, args.seed, torch.device(args.device))
    model.save_pretrained(args.out / "base")


def train_adapters(args: argparse.Namespace) -> None:
    """Trains the adapters (all, or those of --only) and writes the list of them."""
    for task in TASKS:
        if task.name in (args.only or [task.name]):
            folder = args.out / "adapters" / task.name
            finetune.train(task, load_encoder(args), args.out / "base", folder, args.seed, torch.device(args.device))
    records = [
        {"name": task.name, "description": task.description, "tags": task.tags, "demo_prompt": task.demo_prompt}
        for task in TASKS
    ]
    (args.out / "adapters.json").write_text(json.dumps(records, indent=2) + "\n")


def write_evaluation(args: argparse.Namespace) -> None:
    """Writes the held-out sets and measures every model on them."""
    heldout.write(load_encoder(args), args.out / "eval")
    answer = evaluate.transformers_answerer(args.out, args.device)
    print(evaluate.table(evaluate.measure(answer, evaluate.load_sets(args.out / "eval"))))


def load_encoder(args: argparse.Namespace) -> chat.ChatEncoder:
    return chat.ChatEncoder(Tokenizer.from_file(str(args.out / "base" / "tokenizer.json")))


STAGES: dict[str, Callable[[argparse.Namespace], None]] = {
    "tokenizer": train_tokenizer,
    "base": train_base,
    "adapters": train_adapters,
    "eval": write_evaluation,
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--stage", choices=[*STAGES, "all"], default="all")
    parser.add_argument("--out", type=Path, default=HERE, help="where base/, adapters/ and eval/ are written")
    parser.add_argument("--work", type=Path, default=HERE / "work", help="checkpoints; delete it to start afresh")
    parser.add_argument("--tokens", type=int, default=4_500_000, help="tokens the base model is trained on")
    parser.add_argument("--only", nargs="*", choices=[task.name for task in TASKS], help="adapters to train")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    for name in STAGES if args.stage == "all" else [args.stage]:
        started = time.monotonic()
        STAGES[name](args)
        print(f"stage {name}: {(time.monotonic() - started) / 60:.1f} min", flush=True)


if __name__ == "__main__":
    main()
