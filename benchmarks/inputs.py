"""Makes what every side of a comparison shares: a random Llama, 32 PEFT adapters, and workloads of token ids.

    python benchmarks/inputs.py FOLDER

The model is random on purpose: its speed is that of any model of its shape, and its tokens come from the seed alone.
W1: 32 requests of 128 prompt + 64 new tokens over 0/1/8/32 adapters.
W2: 16 requests of 1,024 shared + 32 own prompt tokens + 16 new tokens over 0/8 adapters (a RAG backend's traffic).
W3: 64 requests of mixed lengths over 32 adapters of which few are hot, below 4 system prompts: a busy server.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

VOCABULARY = 8192
FIRST_PLAIN_TOKEN = 300
ADAPTERS = 32
SHAPE: dict[str, Any] = {
    "hidden_size": 512,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "intermediate_size": 1408,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 4096,
}
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def make_model(folder: Path) -> Any:
    torch.manual_seed(1234)
    config = LlamaConfig(
        **SHAPE, initializer_range=0.04, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2, pad_token_id=2
    )
    model = LlamaForCausalLM(config).to(torch.float32)
    model.save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    return model


def _tokenizer() -> Any:
    """One token per byte, then placeholders up to the vocabulary: workloads are token ids, text only has to print."""
    pieces = ["<unk>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    pieces += [f"<{number}>" for number in range(VOCABULARY - len(pieces))]
    tokenizer = Tokenizer(models.BPE({piece: index for index, piece in enumerate(pieces)}, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", model_max_length=4096
    )


def make_adapters(model: Any, folder: Path) -> None:
    """a00 … a31: rank 8 (even) and 16 (odd) on all seven linears, with a B that is not zero."""
    for number in range(ADAPTERS):
        rank = 16 if number % 2 else 8
        config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=LINEARS, task_type="CAUSAL_LM")
        wrapped = get_peft_model(model, config)
        generator = torch.Generator().manual_seed(9000 + number)
        with torch.no_grad():
            for name, parameter in wrapped.named_parameters():
                if "lora_A" in name:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter.shape[1] ** 0.5)
                elif "lora_B" in name:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)
        wrapped.save_pretrained(folder / f"a{number:02d}")
        model = wrapped.unload()


def make_workloads(folder: Path) -> None:
    rng = random.Random(7)

    def tokens(count: int) -> list[int]:
        return [rng.randrange(FIRST_PLAIN_TOKEN, VOCABULARY) for _ in range(count)]

    def save(name: str, requests: list[dict[str, Any]]) -> None:
        (folder / f"{name}.json").write_text(json.dumps(requests), encoding="utf-8")

    def write(name: str, prompts: list[list[int]], max_tokens: int, adapters: int) -> None:
        requests = [
            {"prompt": prompt, "max_tokens": max_tokens, "adapter": f"a{i % adapters:02d}" if adapters else None}
            for i, prompt in enumerate(prompts)
        ]
        save(f"{name}-{adapters}", requests)

    w1 = [tokens(128) for _ in range(32)]
    shared = tokens(1024)
    w2 = [shared + tokens(32) for _ in range(16)]
    for adapters in (0, 1, 8, 32):
        write("w1", w1, 64, adapters)
    for adapters in (0, 8):
        write("w2", w2, 16, adapters)
    systems = [tokens(256) for _ in range(4)]
    popularity = [1 / rank for rank in range(1, ADAPTERS + 1)]  # Zipf's law
    hot = rng.choices(range(ADAPTERS), popularity, k=64)
    w3 = [
        {
            "prompt": rng.choice(systems) + tokens(rng.randint(16, 256)),
            "max_tokens": rng.randint(8, 64),
            "adapter": f"a{adapter:02d}",
        }
        for adapter in hot
    ]
    save(f"w3-{ADAPTERS}", w3)


def make(folder: Path) -> None:
    """Make everything below `folder`, once: base/, adapters/a00 …, workloads/w1-0.json …"""
    done = folder / "complete"
    if done.exists():
        return
    (folder / "workloads").mkdir(parents=True, exist_ok=True)
    make_adapters(make_model(folder / "base"), folder / "adapters")
    make_workloads(folder / "workloads")
    done.touch()


if __name__ == "__main__":
    make(Path(sys.argv[1]))
