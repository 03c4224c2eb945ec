"""The parts of the first contact in the order of their worth: what is found out first is what all else rests on."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

ENGINE = ("msgspec", "llguidance")
"""What the engine needs and a Python that was made for PyTorch alone lacks."""


@dataclass(frozen=True)
class Part:
    """title: for the table. seconds: what its processes may take together, their start included. needs: modules."""

    name: str
    title: str
    seconds: float
    needs: tuple[str, ...] = ()

    @property
    def module(self) -> str:
        """Has `cases`, see `Cases`."""
        return f"gpu.parts.{self.name}"

    @property
    def missing(self) -> list[str]:
        return [name for name in self.needs if find_spec(name) is None]


PARTS = (
    Part("device", "versions and the card's own limits", 60),
    Part("smoke", "a tiny model: graphs, eager and the CPU say the same", 180, ENGINE),
    Part("decode", "decode steps of Llama 3.1 8B, by kernel", 150, ENGINE),
    Part("gemm", "its matrix products, in 16 bits and fewer; experts", 150),
    Part("prefill", "prompts that are new and prompts that are cached", 90, ENGINE),
    Part("attention", "attention beside PyTorch's", 90),
    Part("taxes", "what adapters add to a decode step", 150, ENGINE),
    Part("lora", "the LoRA kernels", 120),
    Part("rows", "what works row by row, and sampling", 90),
    Part("peers", "whole workloads beside transformers + PEFT", 300, (*ENGINE, "transformers", "peft")),
)
