"""Signatures as https://www.standardwebhooks.com has them, so that its libraries verify ours."""

from __future__ import annotations

import base64
import hmac

from multiflora_platform.auth.secret import Secret


def signing_key(secret: Secret, webhook_id: str, generation: int) -> bytes:
    """32 bytes, derived: the database holds nothing that signs. Another generation, another key."""
    return bytes.fromhex(secret.derive("webhook", f"{webhook_id}/{generation}"))


def shown(key: bytes) -> str:
    """As the receiver configures it."""
    return "whsec_" + base64.b64encode(key).decode()


def headers(key: bytes, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """timestamp: Unix seconds of this attempt. message_id: the same for every attempt, so that receivers can tell."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    signature = base64.b64encode(hmac.digest(key, signed, "sha256")).decode()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{signature}",
        "content-type": "application/json",
        "user-agent": "multiflora-webhooks/1",
    }
