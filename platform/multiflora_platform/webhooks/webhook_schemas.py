"""What the routes about webhooks read and answer."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from multiflora_platform.web.json_bodies import Body, Patch

Pattern = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[a-z_.*]+$")]
Patterns = Annotated[list[Pattern], Meta(min_length=1, max_length=64)]
Text = Annotated[str, Meta(max_length=1000, pattern=r"^[^\x00]*$")]
DeliveryState = Literal["pending", "delivered", "failed"]


class NewWebhook(Body, frozen=True):
    """events: shell patterns of types, `alias.*`."""

    url: str
    events: Patterns = msgspec.field(default_factory=lambda: ["*"])
    description: Text = ""


class WebhookPatch(Patch, frozen=True):
    """A field that is absent stays. disabled: nothing is sent; events that happen meanwhile are not sent later."""

    url: str | UnsetType = UNSET
    events: Patterns | UnsetType = UNSET
    description: Text | UnsetType = UNSET
    disabled: bool | UnsetType = UNSET


class Webhook(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    url: str
    events: list[str]
    description: str
    disabled: bool
    created_by: str
    created_at: str
    etag: str


class WebhookWithSecret(Webhook, frozen=True, kw_only=True):
    """secret: for verifying signatures; shown with this answer only."""

    secret: str


class WebhookPage(msgspec.Struct, frozen=True, kw_only=True):
    items: list[Webhook]
    next_page_token: str | None


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """message_id: the header webhook-id. next_attempt_at: null unless pending."""

    id: int
    message_id: str
    type: str
    state: DeliveryState
    attempts: int
    last_status: int | None
    last_error: str | None
    created_at: str
    next_attempt_at: str | None
    delivered_at: str | None


class DeliveryPage(msgspec.Struct, frozen=True, kw_only=True):
    items: list[Delivery]
    next_page_token: str | None
