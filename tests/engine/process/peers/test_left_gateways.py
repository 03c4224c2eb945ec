"""A gateway that is gone for longer than its lease is gone for good; one that comes back in time is not."""

from __future__ import annotations

from multiflora_engine.process.peers.left_gateways import LEASE_SECONDS, LeftGateways


def test_a_lease_ends_once_and_not_for_one_that_is_back() -> None:
    now = 0.0
    left = LeftGateways(lambda: now)
    left.left("gone")
    left.left("cut")
    now = LEASE_SECONDS - 1
    assert left.take_ended() == []
    left.came("cut")
    left.left("later")
    now = LEASE_SECONDS
    assert left.take_ended() == ["gone"]
    assert left.take_ended() == []
    now = 2 * LEASE_SECONDS
    assert left.take_ended() == ["later"]
