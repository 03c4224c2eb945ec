"""`multiflora ray up|status|down|deploy`: engines that Ray starts, watches and replaces."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multiflora_platform.cli.terminal.output import add_output_flag, emit
from multiflora_platform.exit_codes import CommandError, ExitCode
from multiflora_platform.settings import ENV_PREFIX, ConfigurationError, default_data_dir

if TYPE_CHECKING:
    from types import ModuleType

    from multiflora_platform.on_ray.node import LocalNode
    from multiflora_platform.on_ray.status import RayGroup

_NEEDED = ("ray", "psutil")
_COLUMNS = {
    "nodes": ("address", "state", "resources"),
    "groups": ("name", "state", "replicas", "message"),
    "engines": ("group", "engine", "host", "state", "lease"),
}
_DATABASE = ENV_PREFIX + "DATABASE_URL"


def add_parser(commands: Any) -> None:
    group = commands.add_parser("ray", help="engines that Ray starts on one node or several").add_subparsers(
        dest="action", metavar="ACTION", required=True
    )
    _add_up(group)
    _command(group, "down", down, "end the node of this machine, the engines of a cluster that it began first")
    deploying = _command(group, "deploy", deploy, "start, change or end groups of engines, as a file says")
    deploying.add_argument("config", type=Path, metavar="CONFIG", help="YAML file with `groups:`")
    deploying.add_argument("--wait", type=float, default=900.0, metavar="SECONDS", help="for engines; default 900")
    status = _command(group, "status", show, "nodes, groups and engines")
    status.add_argument(
        "--database-url", metavar="URL", help=f"of the engines; default {_DATABASE}, or the deployed one"
    )
    add_output_flag(status)


def _add_up(group: Any) -> None:
    up_parser = _command(group, "up", up, "start a Ray node on this machine, alone or as part of a cluster")
    up_parser.add_argument(
        "--host", default="127.0.0.1", help="this machine's address; default 127.0.0.1, for it alone"
    )
    up_parser.add_argument(
        "--port", type=int, metavar="PORT", help="of the cluster; default any on loopback, else 6379"
    )
    up_parser.add_argument("--join", metavar="HOST:PORT", help="the first node's address; without it a cluster begins")
    up_parser.add_argument(
        "--token-file", type=Path, metavar="FILE", help="the cluster's token; the first node makes one"
    )
    up_parser.add_argument("--num-cpus", type=int, metavar="N", help="default all")
    up_parser.add_argument("--num-gpus", type=int, metavar="N", help="default all")
    up_parser.add_argument("--object-store-memory", type=int, metavar="BYTES", help="default 100 MB")
    up_parser.add_argument("further", nargs="*", metavar="-- ARGUMENT", help="further arguments of `ray start`")


def _command(group: Any, name: str, run: Any, help_text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = group.add_parser(name, help=help_text)
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="where the node and its token are kept")
    parser.set_defaults(run=run)
    return parser


def up(arguments: argparse.Namespace) -> int:
    node = _node(arguments)
    from multiflora_platform.on_ray.node import NodePlan, default_port

    memory = {} if arguments.object_store_memory is None else {"object_store_memory": arguments.object_store_memory}
    plan = NodePlan(
        host=arguments.host,
        port=default_port(arguments.host) if arguments.port is None else arguments.port,
        join=arguments.join,
        num_cpus=arguments.num_cpus,
        num_gpus=arguments.num_gpus,
        further=arguments.further,
        **memory,
    )
    state = node.start(plan, arguments.token_file)
    print(f"Ray runs at {state.address}. Its token is {node.token_file}.")
    print("Next: `multiflora ray deploy CONFIG`; the end: `multiflora ray down`.")
    return ExitCode.OK


def down(arguments: argparse.Namespace) -> int:
    node = _node(arguments)
    state = node.state()
    if state is None:
        print("No Ray node runs here.")
        return ExitCode.OK
    if state.is_first and state.is_running:
        try:
            with _cluster(node) as cluster:
                cluster.end_engines()
        except CommandError as error:
            print(f"multiflora: {error}; they are killed", file=sys.stderr)
    node.stop()
    print("ended")
    return ExitCode.OK


def deploy(arguments: argparse.Namespace) -> int:
    node = _node(arguments)
    from multiflora_platform.on_ray.applications import application_of
    from multiflora_platform.on_ray.deploy_file import read_deploy_file

    groups = read_deploy_file(arguments.config)
    with _cluster(node) as cluster:
        cluster.deploy([application_of(group, cluster.total_gpus()) for group in groups])
        node.note_databases([url for group in groups if (url := group.settings.database_url) is not None])
        cluster.wait_deployed(
            [group.name for group in groups], arguments.wait, lambda group: print(_line(group), flush=True)
        )
    return ExitCode.OK


def _line(group: RayGroup) -> str:
    counts = ", ".join(f"{count} {state.lower()}" for state, count in sorted(group.replicas.items()))
    return f"{group.name}: {group.state.lower()} ({counts or 'no engines'})"


def show(arguments: argparse.Namespace) -> int:
    node = _node(arguments)
    with _cluster(node) as cluster:
        nodes, groups = cluster.nodes(), cluster.groups()
    from multiflora_platform.on_ray.status import engines_of

    given = arguments.database_url or os.environ.get(_DATABASE)
    engines: list[dict[str, Any]] = []
    try:
        engines = engines_of([given] if given else node.databases(), [group.name for group in groups])
    finally:  # a database that is away is told, and what Ray says nevertheless
        _emit(arguments.output, {"nodes": nodes, "groups": groups, "engines": engines})
    return ExitCode.OK


def _node(arguments: argparse.Namespace) -> LocalNode:
    """Raises ConfigurationError where the extra is not installed."""
    if not all(map(find_spec, _NEEDED)):
        raise ConfigurationError('this needs Ray, which is not installed: pip install "multiflora[ray]"')
    from multiflora_platform.on_ray.node import LocalNode

    return LocalNode(arguments.data_dir or Path(os.environ.get(ENV_PREFIX + "DATA_DIR") or default_data_dir()))


@contextmanager
def _cluster(node: LocalNode) -> Iterator[ModuleType]:
    """That of the node that runs here. Raises CommandError where none does."""
    state = node.require_running()
    environment = node.environment(state.host)
    os.environ.clear()  # Ray reads it as it is imported
    os.environ.update(environment)
    from multiflora_platform.on_ray import cluster

    with cluster.connected(state.address):
        yield cluster


def _emit(output: str, found: dict[str, Sequence[Any]]) -> None:
    import msgspec

    rows = {name: msgspec.to_builtins(items) for name, items in found.items()}
    if output == "json":
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    for number, (name, columns) in enumerate(_COLUMNS.items()):
        print(f"{'' if number == 0 else chr(10)}{name.capitalize()}")
        emit(output, rows[name], columns)
