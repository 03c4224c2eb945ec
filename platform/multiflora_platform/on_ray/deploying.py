"""A file of groups on a cluster: deployed once, or again whenever the file changes.

Imports no Ray: it is handed the module that does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from multiflora_platform.exit_codes import CommandError, ExitCode
from multiflora_platform.on_ray.applications import application_of
from multiflora_platform.on_ray.deploy_file import GroupToDeploy, read_deploy_file
from multiflora_platform.on_ray.status import RayGroup
from multiflora_platform.settings import ConfigurationError

_LOOK_SECONDS = 5.0


class Cluster(Protocol):
    """What is needed of the module `cluster`."""

    def total_gpus(self) -> float: ...
    def deploy(self, applications: Sequence[dict[str, Any]]) -> None: ...
    def wait_deployed(self, names: Sequence[str], timeout: float, tell: Callable[[RayGroup], None]) -> None: ...
    def groups(self) -> Sequence[RayGroup]: ...


def deploy(cluster: Cluster, groups: Sequence[GroupToDeploy], wait: float) -> None:
    """These and no others; returns when all engines serve. wait: seconds. Raises CommandError."""
    cluster.deploy([application_of(group, cluster.total_gpus()) for group in groups])
    cluster.wait_deployed([group.name for group in groups], wait, _tell)


def keep_deployed(
    cluster: Cluster, file: Path, wait: float, pause: Callable[[], None] = lambda: time.sleep(_LOOK_SECONDS)
) -> None:
    """As long as the cluster can be asked: what the file says, and what is deployed, are looked at after each pause.

    What is wrong is told, and is no end: the file can be mended. Raises CommandError where no cluster answers.
    """
    deployed: Sequence[GroupToDeploy] = ()
    told = ""
    while True:
        try:
            groups = read_deploy_file(file)
            if groups != deployed or not _are_there(groups, cluster):
                deployed = groups
                deploy(cluster, groups, wait)
                told = ""
        except (ConfigurationError, CommandError) as error:
            if isinstance(error, CommandError) and error.code == ExitCode.UNREACHABLE:
                raise
            if str(error) != told:
                print(f"multiflora: {error}", flush=True)
            told = str(error)
        pause()


def _are_there(groups: Sequence[GroupToDeploy], cluster: Cluster) -> bool:
    """A cluster that began anew has none."""
    return {group.name for group in groups} <= {group.name for group in cluster.groups()}


def _tell(group: RayGroup) -> None:
    counts = ", ".join(f"{count} {state.lower()}" for state, count in sorted(group.replicas.items()))
    print(f"{group.name}: {group.state.lower()} ({counts or 'no engines'})", flush=True)
