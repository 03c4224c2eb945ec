"""Where webhooks may go: public addresses, and private ones that the operator allows. Knows no messages.

A name is resolved, every address is judged, and the connection goes to the very address that was judged; so neither a
private name nor one that changes between the two reaches what only this machine can reach.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Iterable
from dataclasses import dataclass

import httpx

from multiflora_platform.webhooks.webhook_problems import TargetRefused

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
MAX_URL = 2048


@dataclass(frozen=True)
class Destination:
    """Where a message goes, resolved and judged."""

    # With the judged address in place of the name.
    url: httpx.URL
    # The Host header.
    host: str
    # For TLS, which checks the certificate against it.
    name: str


class Destinations:
    """allowed: networks that are not public, `127.0.0.0/8`. Raises ValueError for what is no network."""

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        self._allowed = [ipaddress.ip_network(network, strict=False) for network in allowed]

    async def find(self, url: str) -> Destination:
        """Raises TargetRefused naming what is wrong."""
        parsed = _parsed(url)
        port = parsed.port or (443 if parsed.scheme == "https" else 80)
        try:
            loop = asyncio.get_running_loop()
            found = await loop.getaddrinfo(parsed.host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            raise TargetRefused(f"The host {parsed.host[:100]!r} cannot be resolved.", pointer="/url") from None
        addresses = [ipaddress.ip_address(str(row[4][0]).partition("%")[0]) for row in found]
        for address in addresses:
            if not self._may_reach(address):
                raise TargetRefused(
                    f"{parsed.host[:100]!r} is at {address}, which is not public; "
                    "start the server with --allow-webhook-target NETWORK to allow it.",
                    pointer="/url",
                )
        return Destination(parsed.copy_with(host=str(addresses[0])), parsed.netloc.decode("ascii"), parsed.host)

    def _may_reach(self, address: Address) -> bool:
        candidates = [address, *_embedded(address)]
        if any(one in network for one in candidates for network in self._allowed if one.version == network.version):
            return True
        return all(one.is_global and not one.is_multicast for one in candidates)


def _parsed(url: str) -> httpx.URL:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        raise TargetRefused("The URL cannot be read.", pointer="/url") from None
    is_sound = parsed.scheme in ("http", "https") and parsed.host and (parsed.port or 0) < 65_536
    if not is_sound or parsed.userinfo or len(url) > MAX_URL:
        raise TargetRefused("A webhook's URL is http:// or https://, with a host and no password.", pointer="/url")
    return parsed


def _embedded(address: Address) -> list[Address]:
    """IPv4 addresses that an IPv6 one stands for: a way around the judgement of the outer one."""
    if isinstance(address, ipaddress.IPv4Address):
        return []
    found: list[Address] = [inner for inner in (address.ipv4_mapped, address.sixtofour) if inner is not None]
    if address.teredo is not None:
        found += address.teredo
    if address in _NAT64:
        found.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return found
