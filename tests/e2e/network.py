"""Hosts of the tests' own on this machine: namespaces with a network stack each, as containers have."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import ExitStack


class Network:
    """Hosts on one bridge: namespaces with a cable each. The bridge is the tests' end of it."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._number = os.getpid() % 10_000
        self._subnet = f"10.{200 + self._number % 50}.{self._number // 50 % 250}"
        self._bridge = f"mf{self._number}"
        self._hosts = 0
        ip(f"link add {self._bridge} type bridge")
        stack.callback(ip, f"link del {self._bridge}")
        ip(f"addr add {self._subnet}.1/24 dev {self._bridge}")
        ip(f"link set {self._bridge} up")

    def host(self) -> tuple[str, list[str], str]:
        """Its address, the command that runs another one there, and its cable."""
        self._hosts += 1
        name, cable = f"mf-{self._number}-{self._hosts}", f"mf{self._number}c{self._hosts}"
        address = f"{self._subnet}.{10 + self._hosts}"
        ip(f"netns add {name}")
        self._stack.callback(ip, f"netns del {name}")
        ip(f"link add {cable} type veth peer name eth0 netns {name}")
        ip(f"link set {cable} master {self._bridge} up")
        ip(f"-n {name} addr add {address}/24 dev eth0")
        for device in ("lo", "eth0"):
            ip(f"-n {name} link set {device} up")
        return address, ["ip", "netns", "exec", name], cable


def ip(arguments: str) -> None:
    subprocess.run(["ip", *arguments.split()], check=True, capture_output=True, text=True)


def why_no_network() -> str | None:
    """Why no network can be made here."""
    if shutil.which("ip") is None:
        return "needs iproute2 (apt-get install iproute2)"
    tried = subprocess.run(["ip", "link", "add", "mf-try", "type", "bridge"], capture_output=True, text=True)
    if tried.returncode:
        return f"may make no network devices (CAP_NET_ADMIN): {tried.stderr.strip()}"
    ip("link del mf-try")
    return None
