"""A group as Ray Serve is to know it: what identifies its engines, what each takes of a node, how they are replaced.

Knows no Ray: what Serve's schema calls things, it is told in dicts.
"""

from __future__ import annotations

from typing import Any

from multiflora_platform.on_ray.deploy_file import GroupToDeploy, Scale

DEPLOYMENT = "engine"
"""Of each application, its only one."""
_IMPORT_PATH = "multiflora_platform.on_ray.cluster:application"
_POLICY = "multiflora_platform.on_ray.load_policy:LoadPolicy"
_HEALTH_SECONDS = 2.0
_ENDING_SECONDS = 30.0
"""Beyond the drain: for an engine that has to be killed, and for the database."""
_STARTS = 3
"""Of a replica that cannot start, before the group counts as failed."""


def application_of(group: GroupToDeploy, cluster_gpus: float) -> dict[str, Any]:
    """An application of Serve's schema. Engines are replaced where `args`, or what they take, differ from what is
    deployed; their number changes in place. cluster_gpus: of all nodes."""
    ranks = group.settings.num_ranks
    threads = group.settings.num_threads
    cpus = group.scale.cpus or float(ranks * (threads or 1))
    args = {
        "keys": group.keys,
        # Of each rank; Ray counts cores, and ties no process to them.
        "num_threads": threads or max(1, int(cpus) // ranks),
        "ports": group.scale.ports,
    }
    return {
        "name": group.name,
        "import_path": _IMPORT_PATH,
        "route_prefix": None,
        "args": args,
        "deployments": [
            {
                "name": DEPLOYMENT,
                **_number(group.scale),
                **_place(group.scale, cpus, _gpus(group, cluster_gpus), ranks),
                "max_surge_percent": _surge_percent(group.scale),
                "health_check_period_s": _HEALTH_SECONDS,
                "graceful_shutdown_wait_loop_s": 0.1,
                "graceful_shutdown_timeout_s": group.settings.drain_timeout + _ENDING_SECONDS,
                "max_constructor_retry_count": _STARTS,
            }
        ],
    }


def _number(scale: Scale) -> dict[str, Any]:
    if scale.min_replicas is None or scale.max_replicas is None:
        return {"num_replicas": scale.replicas}
    bounds = {"min_replicas": scale.min_replicas, "max_replicas": scale.max_replicas}
    patience = {"up_after": scale.up_after, "down_after": scale.down_after}
    # The policy has its own patience; Serve's would come on top.
    at_once = {"upscale_delay_s": 0.0, "downscale_delay_s": 0.0}
    policy = {
        "policy_function": _POLICY,
        "policy_kwargs": {"least": bounds["min_replicas"], "most": bounds["max_replicas"], **patience},
    }
    return {"autoscaling_config": {**bounds, **at_once, "policy": policy}}


def _gpus(group: GroupToDeploy, cluster_gpus: float) -> int:
    if group.scale.gpus is not None:
        return group.scale.gpus
    uses = group.settings.device == "cuda" or (group.settings.device == "auto" and cluster_gpus > 0)
    return group.settings.num_ranks if uses else 0


def _place(scale: Scale, cpus: float, gpus: int, ranks: int) -> dict[str, Any]:
    """The ranks of one engine are processes of one node: their placement group is one bundle, which is reserved as a
    whole or not at all."""
    options = {"num_cpus": cpus, "num_gpus": gpus, "resources": scale.resources}
    if ranks == 1:
        return {"ray_actor_options": options}
    bundle = {"CPU": cpus, **({"GPU": gpus} if gpus else {}), **scale.resources}
    return {
        "ray_actor_options": options,
        "placement_group_bundles": [bundle],
        "placement_group_strategy": "STRICT_PACK",
    }


def _surge_percent(scale: Scale) -> int:
    """One engine more than there are, whatever their number: Serve rounds up."""
    return 100 // (scale.max_replicas or scale.replicas) if scale.surge else 0
