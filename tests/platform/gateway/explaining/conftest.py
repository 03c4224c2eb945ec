"""A gateway whose template writes tools and reasoning; its scripted engine has the blocks of what it was asked."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from msgspec.structs import replace
from tests.platform.gateway.conftest import make_house
from tests.platform.gateway.house import BASE_DIGEST, END, READY, House
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import decoders, models, pre_tokenizers

from multiflora_adapters.kv_reach import KvReach
from multiflora_engine.cache.block_hashes import HASH_BYTES, prompt_hashes
from multiflora_engine.protocol.messages import CacheReply
from multiflora_platform.text.chat_template import ChatTemplates
from multiflora_platform.text.tokenizer import Tokenizer

__all__ = ["make_house"]
# Of earlier turns it leaves out reasoning, as Qwen3's does.
TEMPLATE = """
{%- if tools %}<|system|>Tools:{% for tool in tools %} {{ tool | tojson }}{% endfor %}<|end|>{% endif %}
{%- set asked = namespace(last=0) %}
{%- for message in messages if message.role == 'user' %}{% set asked.last = loop.index %}{% endfor %}
{%- set seen = namespace(users=0) %}
{%- for message in messages %}
{%- if message.role == 'user' %}{% set seen.users = seen.users + 1 %}{% endif -%}
<|{{ message.role }}|>{% if message.reasoning_content and seen.users == asked.last -%}
<think>{{ message.reasoning_content }}</think>{% endif %}{{ message.content or '' }}
{%- for call in message.tool_calls or [] %}[{{ call.function.name }}{{ call.function.arguments | tojson }}]{% endfor -%}
<|end|>{% endfor %}
{%- if style %}<|system|>Style: {{ style }}<|end|>{% endif %}
{%- if add_generation_prompt %}<|assistant|>{% endif %}"""
BLOCK = 16


class Blocks:
    """What the scripted engine has: all that it was asked for, except for what is taken from it."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._lost = 0
        # By adapters' digests, of those whose KV is not known by all of them.
        self.reaches: dict[str, KvReach] = {}
        self._says_evicted = False

    def lose(self, *, says_evicted: bool) -> None:
        """All of it. says_evicted: the engine remembers that it had them."""
        self._lost, self._says_evicted = len(self._house.engine.requests), says_evicted

    async def cache(self, action: str, hash: str = "", chain: bytes = b"", first: int = 0) -> CacheReply:
        assert action == "find"
        there = {one for request in self._house.engine.requests[self._lost :] for one in self._hashes(request)}
        gone = {one for request in self._house.engine.requests[: self._lost] for one in self._hashes(request)}
        hashes = [chain[at : at + HASH_BYTES] for at in range(0, len(chain), HASH_BYTES)]
        found = next((i for i, one in enumerate(hashes) if one not in there), len(hashes))
        missed = hashes[found : found + 1]
        return CacheReply(
            0, found=found, reached=found, evicted=self._says_evicted and bool(missed) and missed[0] in gone
        )

    def _hashes(self, request) -> list[bytes]:  # type: ignore[no-untyped-def]
        reach = self.reaches.get(request.adapter_digest, KvReach(request.adapter_digest))
        ids = request.prompt_token_ids
        return prompt_hashes(BASE_DIGEST, reach, request.cache_salt, ids, BLOCK)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """One token for each byte, and the special tokens after them."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    rust = RustTokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    rust.decoder = decoders.ByteLevel()
    rust.add_special_tokens([END, "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>"])
    return Tokenizer(rust, {}, {"eos_token": END}, ChatTemplates({"default": TEMPLATE}))


@pytest.fixture
async def house(make_house: Callable[..., House], tmp_path: Path) -> AsyncIterator[House]:
    house = make_house()
    house.engine.ready = replace(READY, max_model_len=1024, num_blocks=128)
    async with house.http:
        yield house


@pytest.fixture
def blocks(house: House, monkeypatch: pytest.MonkeyPatch) -> Blocks:
    blocks = Blocks(house)
    monkeypatch.setattr(house.engine, "cache", blocks.cache)
    return blocks
