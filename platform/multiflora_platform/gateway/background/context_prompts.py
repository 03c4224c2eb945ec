"""A context as token ids, and the versions that it is computed for."""

from __future__ import annotations

from contextlib import suppress
from typing import NamedTuple

from msgspec.structs import replace

from multiflora_platform.auth.principals import Principal
from multiflora_platform.contexts.content import ContextContent, ContextDefinition
from multiflora_platform.gateway.generation.model_resolution import ADAPTERS_ARE_OFF, resolve_model
from multiflora_platform.gateway.prompting.chat import begun_ids
from multiflora_platform.gateway.prompting.tokenize import PromptRoom, text_prompts
from multiflora_platform.gateway.schemas.requests import ChatRequest
from multiflora_platform.groups import Group, Groups, ServedModel
from multiflora_platform.registry.service import Registry
from multiflora_platform.registry.snapshot.snapshot import DEFAULT
from multiflora_platform.text.common_beginning import num_alike
from multiflora_platform.web.openai_errors import ApiError, invalid, model_not_found

# How a request's first own message may begin; what both have is the context's alone.
_BEGINNINGS = ("a", "7")
# Of a split, which draws for each user, always the same version is drawn: all of them are computed for.
_SAME_USER = "contexts"
_ANYONE = Principal("admin", None, "contexts")


class ContextTarget(NamedTuple):
    """One of the versions that a context is computed for. digest: None is the base model itself."""

    group: Group
    digest: str | None


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


def context_targets(
    registry: Registry, groups: Groups, principal: Principal, name: str | None, enable_lora: bool
) -> list[ContextTarget]:
    """All that requests of this model may run on. name: None is the default base model. Raises ApiError where it is
    not one of the principal's models."""
    if name is None:
        return [ContextTarget(groups.default, None)]
    known = groups.known_as(name)
    resolved = resolve_model(registry, groups, principal, known, _SAME_USER)
    if resolved.adapter is None:
        return [ContextTarget(resolved.group, None)]
    if not enable_lora:
        raise model_not_found(known, reason=ADAPTERS_ARE_OFF)
    drawn = ContextTarget(resolved.group, resolved.digest)
    split = _split(registry, groups, known)
    return split if drawn in split else [drawn]


def _split(registry: Registry, groups: Groups, known: str) -> list[ContextTarget]:
    """All versions behind an alias that are served; none where it is not an alias's name."""
    name, _, selector = known.partition("@")
    entry = registry.snapshot.adapters.get(name)
    alias = entry.aliases.get(selector or DEFAULT) if entry is not None else None
    if entry is None or alias is None:
        return []
    versions = sorted(
        {(entry.digests[number], entry.bases[number]) for number in alias.layout if number in entry.digests}
    )
    return [ContextTarget(group, digest) for digest, base in versions if (group := groups.of_base(base))]


def num_models_on(registry: Registry, groups: Groups, definition: ContextDefinition, group: Group) -> int:
    """How many of the context's models are of this base model, as far as they are served."""
    count = 0
    for model in definition.adapters or (None,):
        with suppress(ApiError):
            targets = context_targets(registry, groups, _ANYONE, model, enable_lora=True)
            count += any(target.group is group for target in targets)
    return count


def names_adapter(model: str, adapter: str) -> bool:
    """Whether a context's model follows this adapter's aliases."""
    name, _, selector = model.partition("@")
    return name == adapter and not selector.isdecimal()
