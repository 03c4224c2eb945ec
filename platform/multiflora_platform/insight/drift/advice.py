"""What drifting prompts are told: who, where, by what, what it costs, and the fix, in one sentence."""

from __future__ import annotations

_LOOKS_LIKE = {
    "timestamp": "a date or time: move it behind the context, or give the day alone",
    "uuid": "a UUID: leave it out of the prompt, or put it at the end",
    "nonce": "an id that is new each time: leave it out of the prompt, or put it at the end",
    "counter": "a number that grows: leave it out of the prompt, or put it behind the context",
    "tools_reordered": "the same tools in another order: send them sorted",
    "keys_reordered": "the same JSON with its keys in another order: write them sorted",
}


def advice(kind: str, share: float, tenant: str | None, role: str | None, position: int, per_minute: float) -> str:
    """per_minute: seconds of the device."""
    whose = "admins'" if tenant is None else f"{tenant}'s"
    place = f"in the {role} message at character {position}" if role else f"at character {position}"
    if kind == "tools_reordered":
        place = "in the tools"
    return (
        f"{share:.0%} of {whose} prompts differ first {place}, which looks like {_LOOKS_LIKE[kind]}. "
        f"It costs {per_minute:.2g} device-seconds a minute."
    )
