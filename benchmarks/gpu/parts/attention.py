"""Paged attention beside its floors and beside PyTorch's, and the two numbers that decide when a cascade pays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

import torch

from gpu.case import Case, Setting
from gpu.measure import probe_cases, seconds
from gpu.probes.attention import attention_probes, cascade_costs
from gpu.probes.sdpa import sdpa_probes


def cases(setting: Setting) -> Iterator[Case]:
    device = torch.device(setting.device)
    yield from probe_cases(attention_probes(device), setting)
    yield Case("cascade costs", lambda: asdict(cascade_costs(seconds, device)))
    yield from probe_cases(sdpa_probes(device), setting)
