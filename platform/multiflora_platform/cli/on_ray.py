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

from multiflora_platform.cli.serve import ended_by_sigterm
from multiflora_platform.cli.terminal.output import add_output_flag, emit
from multiflora_platform.exit_codes import CommandError, ExitCode
from multiflora_platform.settings import ENV_PREFIX, ConfigurationError, default_data_dir

if TYPE_CHECKING:
    from types import ModuleType

    from multiflora_platform.on_ray.node import LocalNode

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
    deploying.add_argument(
        "--watch", action="store_true", help="stay, and deploy again when the file changes or the cluster begins anew"
    )
    status = _command(group, "status", show, "nodes, groups and engines")
    status.add_argument(
        "--database-url", metavar="URL", help=f"of the engines; default {_DATABASE}, or the deployed one"
    )
    add_output_flag(status)
    for parser in (deploying, status):
        _add_reach(parser)


def _add_reach(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--address", metavar="HOST:PORT", help="of a cluster that another program runs here; default `ray up`'s"
    )
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="that cluster's token")


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
    from multiflora_platform.on_ray import deploying
    from multiflora_platform.on_ray.deploy_file import read_deploy_file

    groups = read_deploy_file(arguments.config)
    with ended_by_sigterm(), _cluster(node, arguments.address, arguments.token_file) as cluster:
        if arguments.address is None:
            node.note_databases([url for group in groups if (url := group.settings.database_url) is not None])
        if arguments.watch:
            deploying.keep_deployed(cluster, arguments.config, arguments.wait)
        else:
            deploying.deploy(cluster, groups, arguments.wait)
    return ExitCode.OK


def show(arguments: argparse.Namespace) -> int:
    node = _node(arguments)
    with _cluster(node, arguments.address, arguments.token_file) as cluster:
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
def _cluster(node: LocalNode, address: str | None = None, token_file: Path | None = None) -> Iterator[ModuleType]:
    """That of the node that `ray up` started here or, with its address and token, one that another program runs.

    Raises ConfigurationError, or CommandError where none answers.
    """
    from multiflora_platform.on_ray.reach import ray_environment, wait_for_answer

    if address is None:
        state = node.require_running()
        address, host, token_file = state.address, state.host, node.token_file
    elif token_file is None:
        raise ConfigurationError("--address needs --token-file, a file with the token of that cluster")
    else:
        host = wait_for_answer(address)
    environment = ray_environment(host, token_file)
    os.environ.clear()  # Ray reads it as it is imported
    os.environ.update(environment)
    from multiflora_platform.on_ray import cluster

    with cluster.connected(address):
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
