"""What a further row costs, as steps tell it: through interruptions, and after all has become slower for good."""

import random

import pytest

from multiflora_engine.speculation.step_costs import StepCosts


def learned(costs: StepCosts, base: float, row: float, steps: int, interrupted: float = 0.0) -> float:
    """After steps of that many seconds and those of each row; interrupted: the part of them that takes ten times as
    long. What a row more costs a single sequence."""
    chance = random.Random(steps)
    for _ in range(steps):
        rows = chance.randrange(1, 9)
        costs.observe(rows, (base + row * rows) * (10 if chance.random() < interrupted else 1))
    return costs.of_row(1)


def test_a_row_costs_its_part_of_a_step() -> None:
    assert learned(StepCosts(), 1.0, 1.0, 200) == pytest.approx(0.5, rel=0.05)
    assert learned(StepCosts(), 1.0, 0.1, 200) == pytest.approx(0.1 / 1.1, rel=0.05)


def test_interrupted_steps_tell_nothing() -> None:
    costs = StepCosts()
    learned(costs, 1.0, 1.0, 200)
    assert learned(costs, 1.0, 1.0, 200, interrupted=0.1) == pytest.approx(0.5, rel=0.05)


def test_what_takes_longer_for_good_is_learned() -> None:
    """Contexts became long: steps take ten times as long, and a row more adds little to that."""
    costs = StepCosts()
    assert learned(costs, 1.0, 1.0, 200) == pytest.approx(0.5, rel=0.05)
    assert learned(costs, 80.0, 1.0, 1_000) < 0.05
