"""A context as token ids, and the digests that it is computed for."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from multiflora_platform.auth.principals import Principal
from multiflora_platform.contexts.content import ContextContent
from multiflora_platform.gateway.generation.model_resolution import ADAPTERS_ARE_OFF, resolve_model
from multiflora_platform.gateway.prompting.chat import begun_ids
from multiflora_platform.gateway.prompting.tokenize import PromptRoom, text_prompts
from multiflora_platform.gateway.schemas.requests import ChatRequest
from multiflora_platform.groups import Groups, ServedModel
from multiflora_platform.registry.service import Registry
from multiflora_platform.registry.snapshot.snapshot import DEFAULT
from multiflora_platform.text.common_beginning import num_alike
from multiflora_platform.web.openai_errors import ApiError, invalid, model_not_found

# How a request's first own message may begin; what both have is the context's alone.
_BEGINNINGS = ("a", "7")


async def context_ids(content: ContextContent, model: ServedModel, limit: int) -> list[int]:
    """The tokens with which every prompt that names the context begins. limit: of prompt and answer. Raises ApiError.

    Of a text the last few may be others where the request's text continues a word; that is less than a block.
    """
    if content.prompt is not None:
        room = PromptRoom(limit, 1)
        (ids,) = await text_prompts("prompt", content.prompt, True, model.tokenizer, model.vocab_size, room)
        return ids
    ids = await _beginning(content, model, limit)
    if content.documents and ids == await _beginning(replace(content, documents=None), model, limit):
        raise invalid("documents", "The model's chat template reads no documents; put their text into messages.")
    return ids


async def _beginning(content: ContextContent, model: ServedModel, limit: int) -> list[int]:
    """What the template makes of it whatever follows. Templates that alternate roles take one of the two next."""
    try:
        return await _common(content, "user", model, limit)
    except ApiError as error:
        try:
            return await _common(content, "assistant", model, limit)
        except ApiError:
            raise error from None


async def _common(content: ContextContent, role: str, model: ServedModel, limit: int) -> list[int]:
    begun = [[*(content.messages or ()), {"role": role, "content": text}] for text in _BEGINNINGS]
    chats = [ChatRequest(model="", messages=m, tools=content.tools, documents=content.documents) for m in begun]
    one, other = [await begun_ids(chat, model, limit) for chat in chats]
    return one[: num_alike(one, other)]


def context_digests(
    registry: Registry, groups: Groups, principal: Principal, name: str | None, enable_lora: bool
) -> list[str | None]:
    """Of all versions that requests of this model may run on; [None]: the base's. name: None is the base. Raises
    ApiError where it is not one of the principal's models, or belongs to another base model than the default one."""
    if name is None:
        return [None]
    known = groups.known_as(name)
    resolved = resolve_model(registry, groups, principal, known, None)
    if resolved.group is not groups.default:
        kept = groups.default.name
        raise invalid("adapters", f"Contexts are computed for {kept!r} and its adapters; {known!r} is of another base.")
    if resolved.adapter is None:
        return [None]
    if not enable_lora:
        raise model_not_found(known, reason=ADAPTERS_ARE_OFF)
    split = _split(registry, known)
    return [*split] if resolved.digest in split else [resolved.digest]


def _split(registry: Registry, known: str) -> Sequence[str]:
    """Digests of all versions behind an alias; none where it is not an alias's name."""
    name, _, selector = known.partition("@")
    entry = registry.snapshot.adapters.get(name)
    alias = entry.aliases.get(selector or DEFAULT) if entry is not None else None
    if entry is None or alias is None:
        return ()
    return sorted({entry.digests[number] for number in alias.layout if number in entry.digests})


def names_adapter(model: str, adapter: str) -> bool:
    """Whether a context's model follows this adapter's aliases."""
    name, _, selector = model.partition("@")
    return name == adapter and not selector.isdecimal()
