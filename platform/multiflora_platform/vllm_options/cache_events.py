"""vLLM's words for the publishing of the cache's events, in one object, as settings. Knows no other options."""

from __future__ import annotations

from multiflora_platform.vllm_options.rules import mapping, truth

_ENDPOINT = "tcp://*:5557"
_KEYS = {"enable_kv_cache_events", "publisher", "endpoint", "replay_endpoint", "topic"}
# How many wait, and how many are kept, is fixed here.
_SIZES = {"buffer_steps", "hwm", "max_queue_size"}


def cache_events(value: object) -> dict[str, object]:
    """--kv-events-config. Raises ValueError, which names the key."""
    content = mapping(value)
    if unknown := sorted(content.keys() - _KEYS - _SIZES):
        raise ValueError(f"it has no key {unknown[0]!r}; there are {', '.join(sorted(_KEYS | _SIZES))}")
    publisher = content.get("publisher")
    if publisher not in (None, "null", "zmq"):
        raise ValueError(f"publisher {publisher!r}: events are published over ZeroMQ; give zmq")
    if not truth(content.get("enable_kv_cache_events", False)) or publisher == "null":
        return {}
    settings = {
        "cache_events_zmq": content.get("endpoint") or _ENDPOINT,
        "cache_events_replay_zmq": content.get("replay_endpoint"),
        "cache_events_topic": content.get("topic"),
    }
    # vLLM connects where no wildcard stands; here mirrors connect, and the server listens.
    if not any(part in str(settings["cache_events_zmq"]) for part in ("*", "::", "ipc://")):
        raise ValueError("endpoint: the server listens, and mirrors connect to it; give tcp://*:PORT")
    return {name: value for name, value in settings.items() if value is not None}
