"""Which addresses a webhook may reach, however they are written."""

from __future__ import annotations

import socket

import pytest

from multiflora_platform.configuration import configure
from multiflora_platform.settings import ConfigurationError
from multiflora_platform.webhooks.destinations import Destinations
from multiflora_platform.webhooks.webhook_problems import TargetRefused

PRIVATE = [
    "http://127.0.0.1/",
    "http://localhost/",
    "http://[::1]/",
    "http://0.0.0.0/",
    "http://[::]/",
    "http://10.1.2.3/",
    "http://172.16.0.1/",
    "http://192.168.1.1/",
    "http://169.254.169.254/latest/meta-data/",
    "http://100.64.0.1/",
    "http://224.0.0.1/",
    "http://255.255.255.255/",
    "http://[fe80::1]/",
    "http://[fc00::1]/",
    "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:7f00:1]/",
    "http://[64:ff9b::7f00:1]/",
    "http://[2002:7f00:1::]/",
    "http://2130706433/",
    "http://0x7f.1/",
    "http://127.1/",
]
NO_URLS = [
    "",
    "example.com",
    "ftp://example.com/",
    "file:///etc/passwd",
    "http://",
    "http:///x",
    "http://user:pass@8.8.8.8/",
    "gopher://8.8.8.8/",
    "http://8.8.8.8:99999/",
    "http://" + "a" * 3000,
    "http://no-such-host.invalid/",
]


@pytest.mark.parametrize("url", PRIVATE + NO_URLS)
async def test_what_is_not_public_is_refused(url: str) -> None:
    with pytest.raises(TargetRefused):
        await Destinations().find(url)


@pytest.mark.parametrize("url", ["http://8.8.8.8/", "https://8.8.8.8:8443/x?y=1", "http://[2001:4860:4860::8888]/"])
async def test_what_is_public_is_not(url: str) -> None:
    await Destinations().find(url)


async def test_an_allowed_network_is_only_that_network() -> None:
    destinations = Destinations(["127.0.0.0/8"])
    found = await destinations.find("http://127.0.0.1:8080/x")
    assert (str(found.url), found.host) == ("http://127.0.0.1:8080/x", "127.0.0.1:8080")
    with pytest.raises(TargetRefused, match="--allow-webhook-target"):
        await destinations.find("http://10.0.0.1/")


async def test_one_private_address_of_several_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(*_: object, **__: object) -> list[object]:
        return [(socket.AF_INET, 0, 0, "", (address, 80)) for address in ("8.8.8.8", "10.0.0.1")]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(TargetRefused, match=r"10\.0\.0\.1"):
        await Destinations().find("http://rebinding.example/")


async def test_the_connection_goes_to_the_address_that_was_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(["8.8.8.8", "127.0.0.1"])

    def resolve(*_: object, **__: object) -> list[object]:
        return [(socket.AF_INET, 0, 0, "", (next(answers), 443))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    found = await Destinations().find("https://rebinding.example/x")
    assert (str(found.url), found.host, found.name) == ("https://8.8.8.8/x", "rebinding.example", "rebinding.example")


def test_a_network_that_is_none_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError, match="--allow-webhook-target"):
        configure({"allow_webhook_target": ["nonsense"]}, {})
