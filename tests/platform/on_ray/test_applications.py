"""A group in Ray Serve's terms: what identifies its engines, what they take, how they are replaced and scaled."""

from __future__ import annotations

from typing import Any

import pytest

from multiflora_platform.on_ray.applications import application_of
from multiflora_platform.on_ray.deploy_file import GroupToDeploy, Scale
from multiflora_platform.settings import Settings


def engine_of(scale: Scale, cluster_gpus: float = 0, **settings: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arguments of each engine, and the deployment."""
    group = GroupToDeploy("site", scale, {"model": "m", **settings}, Settings(model="m", **settings))
    made = application_of(group, cluster_gpus)
    assert (made["name"], made["route_prefix"]) == ("site", None)
    (deployment,) = made["deployments"]
    return made["args"], deployment


def test_a_number_of_engines_is_no_part_of_what_identifies_them() -> None:
    one, deployment = engine_of(Scale(replicas=2))
    other, scaled = engine_of(Scale(min_replicas=1, max_replicas=3, down_after=60))
    assert one == other
    assert deployment["num_replicas"] == 2
    assert "num_replicas" not in scaled
    automatic = scaled["autoscaling_config"]
    assert (automatic["min_replicas"], automatic["max_replicas"]) == (1, 3)
    assert automatic["policy"]["policy_kwargs"] == {"least": 1, "most": 3, "up_after": 10.0, "down_after": 60}


@pytest.mark.parametrize("most", [*range(1, 20), 64])
def test_one_engine_more_may_run_while_engines_are_replaced(most: int) -> None:
    for scale in (Scale(replicas=most), Scale(min_replicas=1, max_replicas=most)):
        percent = engine_of(scale)[1]["max_surge_percent"]
        # As Serve rounds; of a group that scales, whatever its number is now.
        assert {
            (percent * now + 99) // 100 for now in ([most] if scale.max_replicas is None else range(1, most + 1))
        } == {1}
    assert engine_of(Scale(replicas=most, surge=False))[1]["max_surge_percent"] == 0


@pytest.mark.parametrize(
    ("scale", "settings", "gpus", "cpus", "taken", "threads"),
    [
        (Scale(), {}, 0, 1, 0, 1),
        (Scale(cpus=4), {}, 0, 4, 0, 4),
        (Scale(), {"num_threads": 3}, 0, 3, 0, 3),
        (Scale(), {"device": "cpu"}, 8, 1, 0, 1),
        (Scale(), {}, 8, 1, 1, 1),
        (Scale(), {"device": "cuda"}, 0, 1, 1, 1),
        (Scale(gpus=0), {}, 8, 1, 0, 1),
        (Scale(cpus=6), {"tensor_parallel_size": 2}, 8, 6, 2, 3),
        (Scale(), {"tensor_parallel_size": 2, "pipeline_parallel_size": 3}, 8, 6, 6, 1),
    ],
)
def test_what_an_engine_takes_of_its_node(
    scale: Scale, settings: dict[str, Any], gpus: float, cpus: float, taken: int, threads: int
) -> None:
    args, deployment = engine_of(scale, gpus, **settings)
    options = deployment["ray_actor_options"]
    assert (options["num_cpus"], options["num_gpus"]) == (cpus, taken)
    assert args["num_threads"] == threads


def test_ranks_are_placed_together_or_not_at_all() -> None:
    assert "placement_group_bundles" not in engine_of(Scale(), 8)[1]
    ranks = engine_of(Scale(resources={"fast": 1}), 8, tensor_parallel_size=4)[1]
    assert ranks["placement_group_bundles"] == [{"CPU": 4, "GPU": 4, "fast": 1}]
    assert ranks["placement_group_strategy"] == "STRICT_PACK"


def test_an_engine_has_the_time_to_answer_what_it_has() -> None:
    assert engine_of(Scale(), drain_timeout=100)[1]["graceful_shutdown_timeout_s"] > 100
