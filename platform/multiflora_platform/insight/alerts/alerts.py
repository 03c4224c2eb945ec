"""The alerts of the moment. Remembers since when each holds, and says which came and which are over."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from multiflora_platform.insight.alerts.findings import Finding
from multiflora_platform.insight.views.activity import Alert


class AlertChange(NamedTuple):
    """An alert was raised, or cleared: then it is as it was found last. at: Unix seconds."""

    is_raised: bool
    alert: Alert
    at: float


class Alerts:
    """clock: Unix seconds. on_change: told of every look, mostly of no changes."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.on_change: Callable[[list[AlertChange]], None] = lambda changes: None
        self._clock = clock
        self._known: dict[str, Alert] = {}

    @property
    def known(self) -> list[Alert]:
        """As the last look found them, the worst first."""
        return sorted(self._known.values(), key=lambda alert: (alert.severity != "error", alert.id))

    def of(self, findings: Sequence[Finding]) -> list[Alert]:
        """The worst first. What is found no more is forgotten."""
        before, now = self._known, self._clock()
        self._known = {finding.id: self._alert(finding, now) for finding in findings}
        raised = [AlertChange(True, alert, now) for id, alert in self._known.items() if id not in before]
        cleared = [AlertChange(False, alert, now) for id, alert in before.items() if id not in self._known]
        self.on_change(raised + cleared)
        return self.known

    def _alert(self, finding: Finding, now: float) -> Alert:
        known = self._known.get(finding.id)
        return Alert(*finding[:5], since=now if known is None else known.since, link=finding.link)
