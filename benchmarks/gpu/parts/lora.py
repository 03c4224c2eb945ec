"""The LoRA kernels on all linears of Llama 3.1 8B."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from gpu.case import Case, Setting
from gpu.measure import probe_cases
from gpu.probes.lora import lora_probes


def cases(setting: Setting) -> Iterator[Case]:
    return probe_cases(lora_probes(torch.device(setting.device)), setting)
