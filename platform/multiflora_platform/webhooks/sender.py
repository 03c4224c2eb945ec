"""One attempt: a signed POST to one address, and what came back. Knows no database and no retries."""

from __future__ import annotations

import asyncio
import ssl
import time
from dataclasses import dataclass
from functools import cache
from typing import Any

import httpx
import msgspec

from multiflora_platform.webhooks.destinations import Destinations
from multiflora_platform.webhooks.signing import headers
from multiflora_platform.webhooks.webhook_problems import TargetRefused

ATTEMPT_SECONDS = 10.0
# The receiver asks for an end: its webhook is switched off.
GONE = 410


@dataclass(frozen=True)
class SignedMessage:
    """What one attempt sends; the dispatcher fills it from the webhook and the delivery."""

    # The header webhook-id, the same for all attempts.
    id: str
    url: str
    # The webhook's signing key of today.
    key: bytes
    # {type, timestamp, data}, as Standard Webhooks has it.
    payload: dict[str, Any]


@dataclass(frozen=True)
class Attempt:
    """What came back."""

    # None: there was no answer.
    status: int | None
    # Why it does not count as delivered, in words for the log of deliveries.
    error: str | None = None

    @property
    def ok(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


@cache
def _certificates() -> ssl.SSLContext:
    """Which authorities receivers' certificates may be of. Reading them all takes longer than opening a registry."""
    return httpx.create_ssl_context(trust_env=False)


class Sender:
    """Follows no redirects, uses no proxies, and reads nothing but the status."""

    def __init__(self, destinations: Destinations) -> None:
        self._destinations = destinations
        self._http = httpx.AsyncClient(
            timeout=ATTEMPT_SECONDS, follow_redirects=False, trust_env=False, verify=_certificates()
        )

    async def send(self, message: SignedMessage) -> Attempt:
        """Never raises."""
        try:
            # httpx's own timeout would begin anew with each byte that comes.
            async with asyncio.timeout(ATTEMPT_SECONDS):
                return await self._send(message)
        except TargetRefused as refused:
            return Attempt(None, refused.detail)
        except (TimeoutError, httpx.TimeoutException):
            return Attempt(None, f"it did not answer within {ATTEMPT_SECONDS:g} seconds")
        except Exception as failure:
            return Attempt(None, f"{type(failure).__name__}: {failure}"[:500])

    async def _send(self, message: SignedMessage) -> Attempt:
        body = msgspec.json.encode(message.payload)
        target = await self._destinations.find(message.url)
        sent = {**headers(message.key, message.id, int(time.time()), body), "host": target.host}
        extensions = {"sni_hostname": target.name}
        async with self._http.stream("POST", target.url, content=body, headers=sent, extensions=extensions) as response:
            error = None if response.is_success else f"it answered {response.status_code}"
            return Attempt(response.status_code, error)

    async def close(self) -> None:
        await self._http.aclose()
