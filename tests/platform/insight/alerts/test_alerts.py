"""Alerts remember since when they hold; each is told once as it comes, and once as it goes."""

from __future__ import annotations

from multiflora_platform.insight.alerts.alerts import AlertChange, Alerts
from multiflora_platform.insight.alerts.findings import Finding

SLOW = Finding("slow", "warning", "Slow", "It is slow.", "Wait.", "/ui/")
DEAD = Finding("dead", "error", "Dead", "It is dead.", "Look.", "/ui/settings")


def test_each_alert_is_told_as_it_comes_and_as_it_goes() -> None:
    now, told = [100.0], list[AlertChange]()
    alerts = Alerts(lambda: now[0])
    alerts.on_change = told.extend
    assert [alert.id for alert in alerts.of([SLOW, DEAD])] == ["dead", "slow"], "the worst first"
    now[0] = 160.0
    (again,) = alerts.of([SLOW._replace(detail="It is slower.")])
    assert (again.since, again.detail) == (100.0, "It is slower.")
    assert alerts.of([]) == []
    now[0] = 200.0
    (anew,) = alerts.of([SLOW])
    assert anew.since == 200.0
    assert [(change.is_raised, change.alert.id, change.alert.detail, change.at) for change in told] == [
        (True, "slow", "It is slow.", 100.0),
        (True, "dead", "It is dead.", 100.0),
        (False, "dead", "It is dead.", 160.0),
        (False, "slow", "It is slower.", 160.0),
        (True, "slow", "It is slow.", 200.0),
    ]
