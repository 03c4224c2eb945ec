"""The adapter of an offline request, as vLLM's programs name it."""

from __future__ import annotations

import zlib
from dataclasses import InitVar, dataclass


@dataclass(frozen=True)
class LoRARequest:
    """lora_path: a PEFT folder. lora_int_id: the caller's number for it, at least 1, by default of its name. What is
    served is found by the name and the folder's content. Raises ValueError for an empty name or path, for a name that
    is no Unicode, and for a number below 1."""

    lora_name: str
    lora_int_id: int = None  # type: ignore[assignment]  # always a number once it is made
    lora_path: str = ""
    lora_local_path: InitVar[str | None] = None
    """vLLM's older name for lora_path."""

    def __post_init__(self, lora_local_path: str | None) -> None:
        if lora_local_path and self.lora_path not in ("", lora_local_path):
            raise TypeError("lora_path and lora_local_path are two names of one argument and differ; give one of them")
        object.__setattr__(self, "lora_path", self.lora_path or lora_local_path or "")
        if not self.lora_name:
            raise ValueError("lora_name must not be empty")
        try:
            name = self.lora_name.encode()
        except UnicodeEncodeError:
            raise ValueError(f"lora_name must be without lone surrogates, got {self.lora_name!r}") from None
        if self.lora_int_id is None:
            object.__setattr__(self, "lora_int_id", 1 + zlib.crc32(name))
        if not isinstance(self.lora_int_id, int) or self.lora_int_id < 1:
            raise ValueError(f"lora_int_id must be an integer of at least 1, got {self.lora_int_id!r}")
        if not self.lora_path:
            raise ValueError(f"lora_path of {self.lora_name!r} must be the adapter's folder")
