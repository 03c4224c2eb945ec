"""The banner: what it says of the key, and that its curl line means what it shows when a shell reads it."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace

from multiflora_engine.protocol.messages import Ready
from multiflora_platform.server.banner import Banner

READY = Ready("cpu", "float32", 100, 16, 1024, 8, 4, 256, 1 << 20, 1 << 20)
MESSAGE = 'Say "hi", it\'s\nübung $HOME'
BANNER = Banner("http://127.0.0.1:8000", "base", (), READY, 1, None, None, "given", "it's", MESSAGE)


def curl(banner: Banner) -> list[str]:
    """The arguments as a POSIX shell splits them."""
    text = banner.text()
    return shlex.split(text[text.index("  curl ") :])


def test_the_curl_line_survives_a_shell() -> None:
    words = curl(BANNER)
    body = json.loads(words[words.index("-d") + 1])
    assert body["model"] == BANNER.model
    assert body["messages"] == [{"role": "user", "content": BANNER.prompt}]
    assert words[1] == "http://127.0.0.1:8000/v1/chat/completions"


def test_a_new_key_is_shown_and_in_the_curl_line() -> None:
    banner = replace(BANNER, key="mf-new", key_source="stored")
    assert "Authorization: Bearer mf-new" in curl(banner)
    assert "export MULTIFLORA_API_KEY=mf-new" in banner.text()


def test_every_other_key_is_named_by_its_place() -> None:
    given, stored, none = (replace(BANNER, key_source=source) for source in ("given", "stored", "none"))
    for banner in (given, stored):
        assert "Authorization: Bearer $MULTIFLORA_API_KEY" in curl(banner)
    assert "the one you gave" in given.text()
    assert "first start" in stored.text()
    assert "--no-auth" in none.text()
    assert not any("Authorization" in word for word in curl(none))


def test_it_says_what_the_machine_gives() -> None:
    text = BANNER.text()
    for fact in (
        "cpu",
        "float32",
        "100 blocks of 16 tokens",
        "1,024",
        "256 rank rows",
        "4 adapters",
        "at most 8 sequences and 2,048 tokens",
        "/docs",
    ):
        assert fact in text


def test_it_says_how_many_engines_there_are_and_what_quantises_them() -> None:
    assert "engines" not in BANNER.text()
    text = replace(BANNER, engines=2, quantization="int8").text()
    assert "engines   2" in text
    assert "on cpu (float32, int8)" in text


def test_adapters_that_are_off_are_not_called_missing() -> None:
    assert "--no-enable-lora" in replace(BANNER, adapters=None).text()
    assert "adapters add" not in replace(BANNER, adapters=None).text()
    assert "adapters add" in BANNER.text()
