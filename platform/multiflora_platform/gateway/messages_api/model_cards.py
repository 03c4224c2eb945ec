"""Models as Anthropic's API lists them, from the cards of /v1/models."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

Card = dict[str, Any]


def model_page(cards: Sequence[Card]) -> dict[str, Any]:
    """All of them on one page."""
    models = [model_info(card) for card in cards]
    first, last = (models[0]["id"], models[-1]["id"]) if models else (None, None)
    return {"data": models, "has_more": False, "first_id": first, "last_id": last}


def model_info(card: Card) -> dict[str, Any]:
    """card: of /v1/models, with id, created (Unix seconds) and max_model_len."""
    return {
        "type": "model",
        "id": card["id"],
        "display_name": card["id"],
        "created_at": datetime.fromtimestamp(card["created"], UTC).isoformat().replace("+00:00", "Z"),
        "lifecycle": "active",
        "max_input_tokens": card["max_model_len"],
        "max_tokens": card["max_model_len"],
    }
