"""A cluster that another program runs: whether it answers, and what its address must be."""

from __future__ import annotations

import socket

import pytest

from multiflora_platform.exit_codes import CommandError, ExitCode
from multiflora_platform.on_ray import reach
from multiflora_platform.settings import ConfigurationError


def test_an_address_that_answers_tells_its_host() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert reach.wait_for_answer(f"127.0.0.1:{server.getsockname()[1]}") == "127.0.0.1"


def test_one_that_does_not_is_told_instead_of_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "_ANSWER_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    with pytest.raises(CommandError, match=f"no Ray cluster answers at {address}") as raised:
        reach.wait_for_answer(address)
    assert raised.value.code == ExitCode.UNREACHABLE


@pytest.mark.parametrize("address", ["auto", "10.0.0.5", ":6379", "10.0.0.5:"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ConfigurationError, match="give HOST:PORT"):
        reach.wait_for_answer(address)
