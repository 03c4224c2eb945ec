"""From a base model's files to its group: nothing runs yet, and no request finds it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from multiflora_platform.base_models.opening import ServedBase, engine_config
from multiflora_platform.fleet.fleet import Fleet
from multiflora_platform.fleet.places import places_of
from multiflora_platform.fleet.processes import supervised
from multiflora_platform.fleet.routing import Router, prompt_hashes_by
from multiflora_platform.gateway.background.evaluation import EvalAnswers
from multiflora_platform.gateway.background.warming import PromptWarmer
from multiflora_platform.groups import Group
from multiflora_platform.registry.serving.base_links import BaseLink
from multiflora_platform.registry.serving.engine_link import EngineLink
from multiflora_platform.settings import Settings
from multiflora_platform.structured.compiler import GrammarCompiler

if TYPE_CHECKING:
    from multiflora_platform.services import Services


def make_group(services: Services, settings: Settings, opened: ServedBase) -> tuple[Group, Fleet, BaseLink]:
    """settings: of this model. Its engines' ids begin with its name. Raises ValueError where they would have to share a
    GPU."""
    registry, name = services.registry, opened.served.name
    router = Router(settings.routing)
    router.observer = services.metrics.router
    if settings.enable_prefix_caching:
        router.hashes = prompt_hashes_by(opened.base.digest, lambda digest: registry.snapshot.kv_reach(digest))
    fleet = supervised(
        engine_config(settings, opened, settings.data_dir / "artifacts"),
        places_of(settings.replicas, settings.device, settings.kv_cache_memory),
        router,
        group=name,
        prefix=f"{name}-",
    )
    config = opened.config
    grammars = GrammarCompiler(opened.served.tokenizer, config.vocab_size, frozenset(config.eos_token_ids))
    group = Group(opened.served, opened.base.digest, fleet, grammars)
    link = BaseLink(
        opened.base,
        EngineLink(fleet),
        answer_eval=EvalAnswers(fleet, opened.served, services.keys.secret).answer,
        run_prompts=PromptWarmer(fleet, opened.served, services.keys).run,
        names=(opened.served.root,),
    )
    return group, fleet, link
