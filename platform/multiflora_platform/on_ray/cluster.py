"""The only module that imports Ray: connections to a cluster, applications of Ray Serve, what a cluster says of itself.

Whoever imports it has set Ray's variables before; see reach.ray_variables.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve._private.api import serve_start
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ServeDeploySchema

from multiflora_platform.exit_codes import CommandError, ExitCode
from multiflora_platform.on_ray.applications import DEPLOYMENT
from multiflora_platform.on_ray.engine_on_ray import EngineOnRay
from multiflora_platform.on_ray.status import RayGroup, RayNode

_POLL_SECONDS = 0.5
_EXCEPTION = re.compile(r"^[\w.]+: ")


class ServedEngine:
    """What Ray Serve calls of an EngineOnRay; it knows these names."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, keys: dict[str, Any], num_threads: int, ports: Sequence[int] | None
    ) -> None:
        self._engine = EngineOnRay(keys, num_threads, ray.util.get_node_ip_address(), ports)
        await self._engine.start()

    async def check_health(self) -> None:
        self._engine.check()

    async def record_autoscaling_stats(self) -> dict[str, float]:
        return await self._engine.load()

    async def __del__(self) -> None:
        """Serve waits for it before it ends the process."""
        await self._engine.end()


def application(args: dict[str, Any]) -> serve.Application:
    """What Serve builds of an application's `args`; see applications.py."""
    return serve.deployment(ServedEngine, name=DEPLOYMENT).bind(**args)


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Raises CommandError where no cluster answers there."""
    for name in ("ray", "ray.serve"):  # here alone: failures are raised, and a replica's log needs what it tells
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        ray.init(address, log_to_driver=False, configure_logging=False, namespace="serve")
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        raise _unreachable(f"no Ray cluster answers at {address}", error) from None
    try:
        yield
    finally:
        ray.shutdown()


def _unreachable(what: str, error: Exception) -> CommandError:
    return CommandError(f"{what}: {str(error).strip().partition(chr(10))[0]}", ExitCode.UNREACHABLE)


def total_gpus() -> float:
    return float(ray.cluster_resources().get("GPU", 0))


def deploy(applications: Sequence[dict[str, Any]]) -> None:
    """These and no others from now on. Returns when Serve knows of them.

    As Serve's REST interface does it: `serve.run` takes whatever it is given for new, and would replace all engines.
    """
    client = serve_start(proxy_location="Disabled")
    schema = {"proxy_location": "Disabled", "applications": list(applications)}
    client.deploy_apps(ServeDeploySchema.model_validate(schema))


def wait_deployed(names: Sequence[str], timeout: float, tell: Callable[[RayGroup], None]) -> None:
    """Until all engines are as they were deployed. tell: of each change. Raises CommandError."""
    until, told = time.monotonic() + timeout, dict[str, RayGroup]()
    while True:
        found = {group.name: group for group in groups() if group.name in names}
        for name, group in found.items():
            if group != told.get(name):
                tell(group)
        told = found
        failed = next((group for group in found.values() if group.has_failed), None)
        if failed is not None:
            raise CommandError(f"the group {failed.name} could not be deployed: {failed.message}")
        if len(found) == len(names) and all(group.state == "RUNNING" for group in found.values()):
            return
        if time.monotonic() > until:
            waiting = [name for name in names if name not in found or found[name].state != "RUNNING"]
            causes = [found[name].message for name in waiting if name in found and found[name].message]
            raise CommandError(
                f"{', '.join(waiting)}: not deployed after {timeout:.0f} s, and not given up: {'; '.join(causes)}"
            )
        time.sleep(_POLL_SECONDS)


def groups() -> Sequence[RayGroup]:
    """Raises CommandError where the cluster cannot be asked."""
    try:
        applications = serve.status().applications
    except (RayError, RayServeException) as error:
        raise _unreachable("Ray Serve does not answer", error) from None
    found = []
    for name, status in applications.items():
        deployment = status.deployments.get(DEPLOYMENT)
        replicas = {str(state): count for state, count in (deployment.replica_states if deployment else {}).items()}
        message = _cause(deployment.message if deployment and deployment.message else status.message)
        found.append(RayGroup(name, status.status.value, replicas, message))
    return found


def _cause(message: str) -> str:
    """Serve's messages end with a traceback of ours, of which the last line is meant for people."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return _EXCEPTION.sub("", lines[-1]) if lines else ""


def nodes() -> Sequence[RayNode]:
    return [
        RayNode(
            node["NodeManagerAddress"],
            "alive" if node["Alive"] else "dead",
            {name: value for name, value in node["Resources"].items() if not name.startswith("node:")},
        )
        for node in ray.nodes()
    ]


def end_engines() -> None:
    """All of them, each after it has answered what it had. Raises CommandError."""
    try:
        serve.shutdown()
    except (RayError, RayServeException, TimeoutError) as error:
        raise CommandError(f"the engines cannot be ended in order: {str(error).partition(chr(10))[0]}") from None
