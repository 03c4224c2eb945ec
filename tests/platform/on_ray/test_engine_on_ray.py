"""The address of an engine that Ray starts."""

from __future__ import annotations

import socket

import pytest

from multiflora_platform.on_ray.engine_on_ray import free_port
from multiflora_platform.settings import ConfigurationError


def test_a_port_is_free_and_one_of_those_that_were_given() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        assert free_port("127.0.0.1", None) != taken
        with pytest.raises(ConfigurationError, match="give more in `ports`"):
            free_port("127.0.0.1", (taken, taken))
    assert free_port("127.0.0.1", (taken, taken)) == taken
