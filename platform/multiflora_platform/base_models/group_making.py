"""From a base model's files to its engines, what the registry asks of them, and its group: nothing runs yet."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from multiflora_engine.protocol.messages import LoadProgress
from multiflora_platform.auth.keys import KeyStore
from multiflora_platform.base_models.opening import ServedBase, engine_config
from multiflora_platform.contexts.book import ContextBook
from multiflora_platform.fleet.fleet import Fleet
from multiflora_platform.fleet.hosts.artifact_files import ArtifactFiles
from multiflora_platform.fleet.places import places_of
from multiflora_platform.fleet.processes import silent, supervised
from multiflora_platform.fleet.routing import Router, prompt_hashes_by
from multiflora_platform.gateway.background.context_warming import ContextWarmer
from multiflora_platform.gateway.background.evaluation import EvalAnswers
from multiflora_platform.gateway.background.warming import PromptWarmer
from multiflora_platform.groups import Group
from multiflora_platform.observability.metrics import Metrics
from multiflora_platform.registry.artifacts.opening import open_store
from multiflora_platform.registry.service import Registry
from multiflora_platform.registry.serving.base_links import BaseLink
from multiflora_platform.registry.serving.engine_link import EngineLink
from multiflora_platform.settings import Settings
from multiflora_platform.structured.compiler import GrammarCompiler

if TYPE_CHECKING:
    from multiflora_platform.services import Services


def make_group(services: Services, settings: Settings, opened: ServedBase) -> tuple[Group, Fleet, BaseLink]:
    """Of one more base model. settings: of this model. The ids of engines that are started here begin with its name.
    Raises ValueError where they would have to share a GPU."""
    if services.lines is None:
        fleet = make_fleet(settings, opened, services.metrics, prefix=f"{opened.served.name}-")
    else:
        fleet = make_far_fleet(settings, opened, services.metrics)
    route_by_content(fleet, settings, opened, services.registry)
    group = Group(opened.served, opened.base.digest, fleet, make_grammars(opened))
    return group, fleet, make_link(fleet, opened, services.keys, services.contexts.book)


def make_fleet(
    settings: Settings,
    opened: ServedBase,
    metrics: Metrics,
    *,
    prefix: str = "",
    on_progress: Callable[[LoadProgress], None] = silent,
) -> Fleet:
    """prefix: of the engines' ids. Raises ValueError where they would have to share a GPU."""
    config = engine_config(settings, opened, settings.data_dir / "artifacts")
    fleet = supervised(
        config,
        places_of(config.engines_per_host, config.device, config.kv_cache_memory, config.num_ranks),
        _router(settings, opened, metrics),
        group=opened.served.name,
        prefix=prefix,
        on_progress=on_progress,
    )
    if settings.artifact_store is not None:
        files = ArtifactFiles(open_store(settings.data_dir, settings.artifact_store))
        for replica in fleet.replicas:
            replica.client.artifact_part = files.part
    return fleet


def make_far_fleet(settings: Settings, opened: ServedBase, metrics: Metrics) -> Fleet:
    """Of engines that come and go on other hosts: none yet."""
    return Fleet((), _router(settings, opened, metrics))


def _router(settings: Settings, opened: ServedBase, metrics: Metrics) -> Router:
    router = Router(settings.routing)
    router.observer = metrics.of(opened.served.name).router
    return router


def route_by_content(fleet: Fleet, settings: Settings, opened: ServedBase, registry: Registry) -> None:
    """Where there is a prefix cache: its blocks depend on the adapters that the registry knows."""
    if settings.enable_prefix_caching:
        fleet.look_up_by(prompt_hashes_by(opened.base.digest, lambda digest: registry.snapshot.kv_reach(digest)))


def make_link(fleet: Fleet, opened: ServedBase, keys: KeyStore, book: ContextBook) -> BaseLink:
    """Adapters may name the base model by its source, too."""
    return BaseLink(
        opened.base,
        EngineLink(fleet),
        answer_eval=EvalAnswers(fleet, opened.served, keys.secret).answer,
        run_prompts=PromptWarmer(fleet, opened.served, keys).run,
        warm_contexts=ContextWarmer(fleet, opened.served, keys, book).run,
        names=(opened.served.root,),
    )


def make_grammars(opened: ServedBase) -> GrammarCompiler:
    return GrammarCompiler(opened.served.tokenizer, opened.config.vocab_size, frozenset(opened.config.eos_token_ids))
