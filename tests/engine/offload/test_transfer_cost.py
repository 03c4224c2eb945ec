from multiflora_engine.offload.transfer_cost import TransferCost


def measured(loading: float, computing: float) -> TransferCost:
    """Bytes and tokens per second."""
    cost = TransferCost()
    cost.note_loaded("disk", int(loading), 1.0)
    cost.note_computed(int(computing), 1.0)
    return cost


def test_what_is_not_measured_yet_is_tried() -> None:
    cost = TransferCost()
    assert cost.pays({"disk": 1 << 40}, 0, 16)
    cost.note_computed(1_000, 1.0)
    assert cost.pays({"disk": 1 << 40}, 0, 16)
    assert cost.bytes_per_second("disk") == 0


def test_copies_are_loaded_where_they_come_sooner_than_computing() -> None:
    cost = measured(loading=1_000, computing=100)
    assert cost.pays({"disk": 900}, 0, 100)
    assert not cost.pays({"disk": 1_100}, 0, 100)
    assert not cost.pays({"disk": 900}, 200, 100), "behind what waits to be loaded already"
    cost.note_loaded("host", 100_000, 1.0)
    assert cost.pays({"host": 1_100}, 200, 100)
    assert not cost.pays({"host": 1_100, "disk": 1_000}, 0, 100)


def test_rates_follow_what_is_measured() -> None:
    cost = measured(loading=1_000, computing=100)
    for _ in range(20):
        cost.note_loaded("disk", 100, 1.0)
    assert not cost.pays({"disk": 900}, 0, 100)
    for _ in range(20):
        cost.note_computed(5, 1.0)
    assert cost.pays({"disk": 900}, 0, 100)


def test_a_tier_that_was_too_slow_is_tried_again_after_a_while() -> None:
    cost = measured(loading=1, computing=100)
    answers = [cost.pays({"disk": 900}, 0, 100) for _ in range(70)]
    assert sum(answers) == 2
