"""The matrix products of Llama 3.1 8B, with weights of 16 bits and of fewer, and those of mixtures of experts."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from gpu.case import Case, Setting
from gpu.measure import probe_cases
from gpu.probes.experts import expert_probes
from gpu.probes.gemm import gemm_probes
from gpu.probes.narrow import narrow_probes


def cases(setting: Setting) -> Iterator[Case]:
    device = torch.device(setting.device)
    yield from probe_cases(gemm_probes(device), setting)
    yield from probe_cases(narrow_probes(device), setting)
    yield from probe_cases(expert_probes(device), setting)
