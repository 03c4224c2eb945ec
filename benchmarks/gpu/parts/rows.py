"""Norms, RoPE, activations and sampling."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from gpu.case import Case, Setting
from gpu.measure import probe_cases
from gpu.probes.rows import layer_probes, sampling_probes


def cases(setting: Setting) -> Iterator[Case]:
    device = torch.device(setting.device)
    yield from probe_cases(layer_probes(device), setting)
    yield from probe_cases(sampling_probes(device), setting)
