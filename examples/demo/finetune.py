"""Owns the training of one LoRA adapter with PEFT on the frozen base model."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from batches import collate
from chat import ChatEncoder
from peft import LoraConfig, get_peft_model
from pretrain import answer_scores, weighted_loss
from tasks import Task
from transformers import AutoModelForCausalLM

BASE_NAME = "multiflora-demo"
LEARNING_RATE = 4e-3
BATCH = 32
WARMUP_STEPS = 20
LOG_EVERY = 25


def train(task: Task, encoder: ChatEncoder, base: Path, folder: Path, seed: int, device: torch.device) -> None:
    """Trains the adapter of `task` and writes adapter_config.json and adapter_model.safetensors into `folder`."""
    torch.manual_seed(seed)
    shape = {"r": task.rank, "lora_alpha": 2 * task.rank, "target_modules": list(task.target_modules), **task.lora}
    config = LoraConfig(task_type="CAUSAL_LM", **shape)
    frozen: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = get_peft_model(frozen.to(device), config)
    trained = [param for param in model.parameters() if param.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / WARMUP_STEPS, 2 * (1 - step / task.steps))
    )
    examples = task.examples(seed, held_out=False)
    for step in range(1, task.steps + 1):
        rows = [encoder.example(e.messages, e.tools, e.answer) for e in islice(examples, BATCH)]
        batch = collate(rows, encoder.pad, 0.0, device)
        logits = model(input_ids=batch.ids, use_cache=False).logits
        loss = weighted_loss(logits, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % LOG_EVERY == 0:
            tokens, answers = answer_scores(logits, batch)
            scores = f"loss {loss.item():.4f} tokens right {tokens:.3f} answers right {answers:.3f}"
            print(f"{task.name} step {step} of {task.steps} {scores}", flush=True)
    model.save_pretrained(str(folder))
    _tidy(folder)


def _tidy(folder: Path) -> None:
    """Removes what varies from run to run: PEFT's model card, the order of sets, where the base model lay."""
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    config["base_model_name_or_path"] = BASE_NAME
    config["target_modules"].sort()
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
