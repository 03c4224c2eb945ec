"""What `multiflora serve` prints when it is ready: addresses, device, memory, the key and a first request to copy."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.metadata import version
from typing import Literal

from multiflora_engine.protocol.messages import Ready
from multiflora_platform.settings import Settings

MIB = 1 << 20
KeySource = Literal["none", "given", "stored"]
_KEY_LINES = {
    "none": "none is needed, any is accepted (--no-auth)",
    "given": "the one you gave; clients send it, the curl below reads it from MULTIFLORA_API_KEY",
    "stored": "the one that the first start printed, in MULTIFLORA_API_KEY for the curl below; lost: --api-key NEW",
}
ADAPTERS_OFF = "off (--no-enable-lora)"
NO_ADAPTERS = "none yet; `multiflora adapters add NAME FOLDER` registers one"


def key_source_of(settings: Settings) -> KeySource:
    return "none" if settings.no_auth else "given" if settings.api_key else "stored"


@dataclass(frozen=True)
class Banner:
    """What an operator sees once the server is ready; `serve` fills it."""

    url: str
    base: str
    adapters: tuple[str, ...] | None
    """None: they are off."""
    ready: Ready
    """Of one engine; all are alike."""
    engines: int
    quantization: str | None
    """What `--quantization` says."""
    key: str | None
    """The admin key to show, once, when this start made it."""
    key_source: KeySource
    """Where the key is otherwise."""
    model: str
    """The one that the example asks."""
    prompt: str
    """A message that shows what `model` does."""

    def text(self) -> str:
        ready = self.ready
        tokens = ready.num_blocks * ready.block_size
        kinds = ", ".join(filter(None, (ready.dtype, self.quantization)))
        engines = [f"  engines   {self.engines}, each with KV cache and LoRA as below"] if self.engines > 1 else []
        lines = [
            "",
            f"Multiflora {version('multiflora')} serves {self.base} on {ready.device} ({kinds})",
            f"  API       {self.url}/v1    docs {self.url}/docs    metrics {self.url}/metrics",
            f"  UI        {self.url}/ui/",
            f"  adapters  {self._adapters_line()}",
            *engines,
            f"  KV cache  {ready.num_blocks} blocks of {ready.block_size} tokens ({tokens:,} tokens, "
            f"{ready.kv_bytes / MIB:.0f} MiB), requests up to {ready.max_model_len:,} tokens",
            f"  steps     of at most {ready.max_num_seqs} sequences and {ready.max_num_batched_tokens:,} tokens",
            f"  LoRA      {ready.lora_rows} rank rows, at most {ready.lora_slots} adapters at once",
            f"  key       {self._key_line()}",
            "",
        ]
        if self.key:
            lines += ["The admin key, shown only now:", "", f"  export MULTIFLORA_API_KEY={self.key}", ""]
        lines += ["Try it:", "", self._curl(), ""]
        return "\n".join(lines)

    def _adapters_line(self) -> str:
        return ADAPTERS_OFF if self.adapters is None else ", ".join(self.adapters) or NO_ADAPTERS

    def _curl(self) -> str:
        message = {"role": "user", "content": self.prompt}
        body = json.dumps({"model": self.model, "temperature": 0, "messages": [message]}, ensure_ascii=False)
        quoted = body.replace("'", "'\\''")
        key = "" if self.key_source == "none" else f' -H "Authorization: Bearer {self.key or "$MULTIFLORA_API_KEY"}"'
        return f"  curl {self.url}/v1/chat/completions{key} -H 'Content-Type: application/json' -d '{quoted}'"

    def _key_line(self) -> str:
        return "new, an admin's; see below" if self.key else _KEY_LINES[self.key_source]
