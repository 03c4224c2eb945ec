"""The adapters of a server that starts: those registered before must fit its settings, those it brings are registered.

Owns how a refusal is told to an operator; what is refused, the registry decides.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from multiflora_adapters.report import some_of
from multiflora_platform.demo import DemoAdapter
from multiflora_platform.exit_codes import CommandError, ExitCode
from multiflora_platform.registry.errors import SourceUnreachable, VersionRejected
from multiflora_platform.registry.schemas.fields import AdapterFields
from multiflora_platform.registry.service import Registry
from multiflora_platform.registry.snapshot.snapshot import Snapshot
from multiflora_platform.registry.sources.resolver import adapter_source
from multiflora_platform.settings import ConfigurationError, Settings
from multiflora_platform.web.problems import Problem

_log = logging.getLogger(__name__)


def require_ranks(snapshot: Snapshot, max_rank: int) -> None:
    """Raises ConfigurationError that names the versions whose ranks are above the limit.

    An earlier start accepted them with a higher limit; the engine would have no rows for them.
    """
    ranks = snapshot.ranks_above(max_rank)
    if ranks:
        versions = some_of(f"{name} (rank {rank})" for name, rank in ranks.items())
        raise ConfigurationError(
            f"--max-lora-rank {max_rank} is less than the ranks of registered adapters: {versions}\n"
            f"start with --max-lora-rank {max(ranks.values())}; to lower it, archive these versions first"
        )


async def seed(registry: Registry, settings: Settings, demo: Sequence[DemoAdapter]) -> None:
    """The bundled demo's adapters and --lora-modules. Raises ConfigurationError or CommandError, which name the
    adapter and what is wrong."""
    for adapter in demo:
        try:
            fields = AdapterFields(adapter.description, adapter.tags, adapter.demo_prompt)
            await registry.paths.seed(adapter.name, adapter.path, fields)
        except VersionRejected as error:
            # The demo's adapters are sound: it is the settings that do not go with them.
            raise ConfigurationError(f"the demo's adapter {adapter.name}: {_first_error(error)}") from None
    for module in settings.lora_modules:
        name, _, path = module.partition("=")
        try:
            await registry.paths.seed(name, adapter_source(path), AdapterFields("", ()))
        except SourceUnreachable as error:
            if name not in registry.snapshot.adapters:
                raise ConfigurationError(f"--lora-modules {name}: {error.detail}") from None
            _log.warning("--lora-modules %s: %s; it is served as it was at an earlier start", name, error.detail)
        except VersionRejected as error:
            raise CommandError(f"--lora-modules {name}: {_first_error(error)}", ExitCode.REJECTED) from None
        except Problem as error:
            raise ConfigurationError(f"--lora-modules {name}: {error.detail}") from None


def _first_error(error: VersionRejected) -> str:
    row = next(iter(error.errors), None)
    return error.detail if row is None else " ".join(part for part in (row["message"], row["hint"]) if part)
