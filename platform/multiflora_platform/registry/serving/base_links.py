"""The base models that adapters may belong to, and how the registry reaches the engines of each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

from multiflora_adapters.base_model import BaseModel
from multiflora_platform.registry.schemas.fields import Warmup
from multiflora_platform.registry.schemas.version_metadata import Eval
from multiflora_platform.registry.serving.engine_link import EngineLink
from multiflora_platform.web.problems import Unavailable

# answer(digest, eval) -> text of the greedy answer. Raises Unavailable while no engine is ready.
AnswerEval = Callable[[str, Eval], Awaitable[str]]
# Runs prompts on the version with this digest, for the tenants that they name or else the owner's cache (None: the
# admins'); the last one is the only replica that does it, None: all do.
RunPrompts = Callable[[str, Sequence[Warmup], str | None, str | None], Awaitable[None]]
# Computes the contexts of the adapter with this name on the version with this digest.
WarmContexts = Callable[[str, str], Awaitable[None]]


@dataclass(frozen=True)
class BaseLink:
    """One base model. What asks its engines is the gateway's; None where that is not done."""

    base: BaseModel
    engine: EngineLink | None = None
    answer_eval: AnswerEval | None = None
    run_prompts: RunPrompts | None = None
    warm_contexts: WarmContexts | None = None
    names: Collection[str] = ()
    """By which adapters may name it, beside the base model's own: those of its source."""


class BaseLinks:
    """By digest. The default one is there from start to end."""

    def __init__(self, default: BaseLink) -> None:
        self.default = default
        self._links = {default.base.digest: default}
        self.digests = self._links.keys()
        """Of those that are served, as it changes."""

    def __iter__(self) -> Iterator[BaseLink]:
        return iter(list(self._links.values()))

    def __getitem__(self, digest: str) -> BaseLink:
        """Raises Unavailable."""
        link = self._links.get(digest)
        if link is None:
            raise Unavailable(f"The base model {digest[:12]} is not served any more.")
        return link

    def add(self, link: BaseLink) -> None:
        self._links[link.base.digest] = link

    def remove(self, digest: str) -> None:
        assert digest != self.default.base.digest, "the default base model stays"
        self._links.pop(digest, None)
