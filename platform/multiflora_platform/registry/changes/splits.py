"""How the versions of an alias do that is split by hand, and an event when one of them fails more than the others.

Observations are this process's own and in memory, and begin anew when the alias moves. Knows no rollouts.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterator, Mapping
from datetime import UTC, datetime
from math import exp, lgamma

from multiflora_platform.insight.alerts.findings import Finding
from multiflora_platform.registry.changes.rollout_observations import Arm, RequestOutcome
from multiflora_platform.registry.errors import AliasNotFound
from multiflora_platform.registry.schemas.splits import SplitArm, SplitObserved
from multiflora_platform.registry.snapshot.snapshot import AliasEntry, SplitEntry
from multiflora_platform.registry.snapshot.store import SnapshotStore
from multiflora_platform.storage.database import Change, Database

_log = logging.getLogger(__name__)
_ACTOR = "system/split"
DEGRADED_EVENT = "alias.split_degraded"
MOST_SPLITS = 200
# A version is worse than the others when chance alone would so rarely give it as many of the failures.
_RARE = 0.001
# And when it fails so much more often: a difference that can be measured need not matter.
_LEAST_MORE = 0.01


class _Watched:
    """One split: since when, the requests of each version, and which were found to be worse."""

    def __init__(self) -> None:
        self.since = datetime.now(UTC)
        self.arms: dict[int, Arm] = {}
        self.degraded: set[int] = set()

    def rates(self, version: int) -> tuple[float, float]:
        """The share of failures: the version's, and that of all others together."""
        (failed, of), (others_failed, others) = self._counts(version)
        return failed / of if of else 0.0, others_failed / others if others else 0.0

    def fails_more(self, version: int) -> bool:
        own, others = self.rates(version)
        return own - others >= _LEAST_MORE

    def is_worse(self, version: int) -> bool:
        return self.fails_more(version) and chance_of(*self._counts(version)) < _RARE

    def _counts(self, version: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Failures, of so many requests: the version's and the others'."""
        others = [arm for number, arm in self.arms.items() if number != version]
        own = self.arms.get(version, Arm())
        together = sum(arm.errors for arm in others), sum(len(arm.outcomes) for arm in others)
        return (own.errors, len(own.outcomes)), together


class SplitWatch:
    """`observe` never waits; `close` waits for events that are being written."""

    def __init__(self, database: Database, snapshots: SnapshotStore, most: int = MOST_SPLITS) -> None:
        """most: splits that are watched at once, those with the latest requests."""
        self._database = database
        self._snapshots = snapshots
        self._most = most
        # The one with the latest request is the last.
        self._watched: dict[SplitEntry, _Watched] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def observe(self, split: SplitEntry, version: int, outcome: RequestOutcome) -> None:
        """One request through the alias has ended. split: as it was when the request was admitted."""
        if not self._is_present(split):
            return
        seen = self._watched.pop(split) if split in self._watched else _Watched()
        self._watched[split] = seen
        while len(self._watched) > self._most:
            del self._watched[next(iter(self._watched))]
        seen.arms.setdefault(version, Arm()).outcomes.append(outcome)
        if outcome.ok and version in seen.degraded and not seen.fails_more(version):
            seen.degraded.discard(version)
        if not outcome.ok and version not in seen.degraded and seen.is_worse(version):
            seen.degraded.add(version)
            self._begin(self._tell(split, version, *seen.rates(version)))

    def view(self, name: str, alias: str) -> SplitObserved:
        """Of an alias that is not split, or that a rollout watches, it has no arms. Raises AdapterNotFound,
        AliasNotFound."""
        entry = self._snapshots.adapter(name).aliases.get(alias)
        if entry is None:
            raise AliasNotFound(f"Adapter {name!r} has no alias {alias[:80]!r}.")
        split = entry.split_of(name)
        if split is None:
            return SplitObserved(since=None, arms=[])
        seen = self._watched.get(split, _Watched())
        return SplitObserved(
            since=seen.since.isoformat() if seen.arms else None,
            arms=[_shown(version, share, seen) for version, share in sorted(_shares(entry).items())],
        )

    def findings(self) -> Iterator[Finding]:
        """An alert for each version that is worse."""
        for split, seen in self._watched.items():
            for version in seen.degraded if seen.degraded and self._is_present(split) else ():
                own, others = seen.rates(version)
                at = f"{split.adapter}@{split.alias}"
                yield Finding(
                    f"split {at} {version}", "error", f"Version {version} of {at} fails more than the others",
                    f"{own:.1%} of its requests failed, and {others:.1%} of the others'.",
                    "Roll the alias back, or look at the failed requests.",
                    f"/ui/adapters/{split.adapter}?tab=aliases",
                )  # fmt: skip

    async def close(self) -> None:
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _is_present(self, split: SplitEntry) -> bool:
        adapter = self._snapshots.snapshot.adapters.get(split.adapter)
        alias = adapter.aliases.get(split.alias) if adapter is not None else None
        return alias is not None and alias.split_of(split.adapter) == split

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tell(self, split: SplitEntry, version: int, own: float, others: float) -> None:
        _log.warning(
            "version %d of %s@%s fails more than the others: %.1f%% against %.1f%%",
            version, split.adapter, split.alias, 100 * own, 100 * others,
        )  # fmt: skip

        async def work(change: Change) -> None:
            rates = {"error_rate": own, "others_error_rate": others}
            target = f"{split.adapter}@{split.alias}"
            change.record(DEGRADED_EVENT, target, adapter=split.adapter, alias=split.alias, version=version, **rates)

        try:
            await self._database.write(_ACTOR, work)
        except Exception as error:
            _log.warning("that %s@%s is worse could not be written: %s", split.adapter, split.alias, error)


def chance_of(own: tuple[int, int], others: tuple[int, int]) -> float:
    """How likely at least so many of all failures are the version's own, if all versions fail alike (Fisher's exact
    test, one-sided). own, others: failures, of so many requests."""
    (failed, of), (others_failed, of_others) = own, others
    failures = failed + others_failed
    just_so = exp(_log_ways(of, failed) + _log_ways(of_others, others_failed) - _log_ways(of + of_others, failures))
    chance = 0.0
    for k in range(failed, min(of, failures) + 1):
        chance += just_so
        just_so *= (of - k) * (failures - k) / ((k + 1) * (of_others - failures + k + 1))
    return chance


def _log_ways(of: int, chosen: int) -> float:
    return lgamma(of + 1) - lgamma(chosen + 1) - lgamma(of - chosen + 1)


def _shares(alias: AliasEntry) -> Mapping[int, int]:
    return {int(version): share for version, share in alias.target["split"].items()}


def _shown(version: int, share: int, seen: _Watched) -> SplitArm:
    observed = seen.arms.get(version, Arm()).observed
    return SplitArm(version=version, percent=share, observed=observed, is_worse=version in seen.degraded)
