"""How a process reaches a cluster of Ray's: the environment that it needs, and whether it answers. Imports no Ray."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

from multiflora_platform.exit_codes import CommandError, ExitCode
from multiflora_platform.settings import ConfigurationError

LOOPBACK = "127.0.0.1"
"""Of addresses of loopback the only one that Ray keeps to."""
_OF_ANOTHER_CLUSTER = frozenset({"RAY_ADDRESS", "RAY_AUTH_TOKEN"})
_ANSWER_SECONDS = 30.0
"""For a cluster that is starting."""
_POLL_SECONDS = 0.1


def ray_environment(host: str, token_file: Path) -> dict[str, str]:
    """Of what has to do with a node of this address: ours, without what another cluster has left in it."""
    inherited = {name: value for name, value in os.environ.items() if name not in _OF_ANOTHER_CLUSTER}
    return {**inherited, **ray_variables(host, token_file)}


def ray_variables(host: str, token_file: Path) -> dict[str, str]:
    """What Ray reads of its environment, in each process that has to do with the node: a token is asked for, loopback
    stays loopback, and nothing is told to Ray's makers."""
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_file),
        "RAY_USAGE_STATS_ENABLED": "0",
        # Without a cluster, Ray binds to loopback alone; with one it listens on all interfaces, whatever the address.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0" if host == LOOPBACK else "1",
        # Decisions about the number of engines wait for less.
        "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "2",
    }


def wait_for_answer(address: str) -> str:
    """The host of a cluster's address, when something listens there: Ray itself would wait for ever. Raises
    ConfigurationError or CommandError."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigurationError(f"--address {address}: give HOST:PORT, such as 10.0.0.5:6379")
    until = time.monotonic() + _ANSWER_SECONDS
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=_ANSWER_SECONDS).close()
        except OSError as error:
            if time.monotonic() > until:
                cause = error.strerror or error
                raise CommandError(f"no Ray cluster answers at {address}: {cause}", ExitCode.UNREACHABLE) from None
            time.sleep(_POLL_SECONDS)
        else:
            return host
