"""Ray's processes on this machine: started, found again, and ended by their ids. Knows no engines and imports no Ray.

A file in the data folder tells what runs; all that Ray writes is in a folder of its own, which goes with it.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import psutil

from multiflora_platform.exit_codes import CommandError, ExitCode
from multiflora_platform.on_ray.reach import LOOPBACK, ray_environment
from multiflora_platform.settings import ConfigurationError
from multiflora_platform.storage.connections import private_folder

_MARK = "MULTIFLORA_RAY_FOLDER"
"""In the environment of all processes of a node, but of those that write their title over it."""
_INSIDE = "r"
"""Of a node's folder, which is its owner's alone: what Ray is given, which it opens to everybody."""
_ADDRESS_FILE = f"{_INSIDE}/ray_current_cluster"
_PORT = 6379
_START_SECONDS = 120.0
_END_SECONDS = 45.0
"""Ray gives its own processes 30."""
_KILL_SECONDS = 10.0
_POLL_SECONDS = 0.1
_LONGEST_FOLDER = 40
"""Ray's sockets stand below it, in paths of at most 107 bytes."""


class NodePlan(msgspec.Struct, frozen=True, kw_only=True):
    """host: the node's own address. join: the address of the cluster that it joins; None: it begins one. further: of
    `ray start`."""

    host: str
    port: int = 0
    join: str | None = None
    num_cpus: int | None = None
    num_gpus: int | None = None
    # Bytes. Nothing of ours travels through Ray.
    object_store_memory: int = 100_000_000
    further: Sequence[str] = ()


class NodeState(msgspec.Struct, frozen=True):
    """A node that was started here. address: of its cluster. is_first: it began that. folder: what Ray writes."""

    pid: int
    # Of the process, Unix seconds: the id alone may be another's by now.
    began: float
    host: str
    address: str
    is_first: bool
    folder: str

    @property
    def is_running(self) -> bool:
        return _holder(self) is not None


class LocalNode:
    """The node that was started with this data folder."""

    def __init__(self, data_dir: Path) -> None:
        self.folder = data_dir / "ray"

    @property
    def token_file(self) -> Path:
        """Who has the token may run anything on all nodes of the cluster."""
        return self.folder / "token"

    @property
    def _state_file(self) -> Path:
        return self.folder / "node.json"

    @property
    def _databases_file(self) -> Path:
        return self.folder / "databases.json"

    def state(self) -> NodeState | None:
        """None where nothing was started that was not ended."""
        try:
            return msgspec.json.decode(self._state_file.read_bytes(), type=NodeState)
        except FileNotFoundError:
            return None

    def databases(self) -> list[str]:
        """URLs of those that engines deployed from here are listed in."""
        try:
            return msgspec.json.decode(self._databases_file.read_bytes(), type=list[str])
        except FileNotFoundError:
            return []

    def note_databases(self, urls: Sequence[str]) -> None:
        self._write(self._databases_file, msgspec.json.encode(sorted(set(urls))))

    def require_running(self) -> NodeState:
        """Raises CommandError."""
        state = self.state()
        if state is None or not state.is_running:
            raise CommandError("no Ray node runs here; start one with `multiflora ray up`", ExitCode.UNREACHABLE)
        return state

    def start(self, plan: NodePlan, token_file: Path | None) -> NodeState:
        """token_file: of the cluster that is joined, or to be used. Raises ConfigurationError or CommandError."""
        _require_address(plan)
        if self.state() is not None:
            raise ConfigurationError(f"a Ray node was started with {self.folder.parent} already; `multiflora ray down`")
        private_folder(self.folder.parent)
        private_folder(self.folder)
        self._keep_token(token_file, joins=plan.join is not None)
        folder = _short_folder()
        try:
            state = _started(plan, folder, {**ray_environment(plan.host, self.token_file), _MARK: str(folder)})
        except BaseException:
            end_all(_marked(str(folder)))
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self._write(self._state_file, msgspec.json.encode(state))
        return state

    def stop(self) -> None:
        """Returns when nothing of the node is left. Raises CommandError where something cannot be ended."""
        state = self.state()
        if state is None:
            return
        holder = _holder(state)
        processes = _marked(state.folder)
        if holder is not None:
            holder.terminate()  # it ends the others in Ray's order
            psutil.wait_procs(processes, _END_SECONDS)
        end_all(processes | _marked(state.folder))
        shutil.rmtree(state.folder, ignore_errors=True)
        self._state_file.unlink()
        self._databases_file.unlink(missing_ok=True)

    def _keep_token(self, given: Path | None, *, joins: bool) -> None:
        if given is not None:
            try:
                token = given.expanduser().read_text(encoding="ascii").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigurationError(f"cannot read --token-file {given}: {error}") from None
        elif self.token_file.exists():
            return
        elif joins:
            raise ConfigurationError("to join a cluster, copy the token of its first node and give --token-file")
        else:
            token = secrets.token_hex(32)
        self._write(self.token_file, token.encode())

    @staticmethod
    def _write(path: Path, content: bytes) -> None:
        """For its owner alone."""
        with open(path, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(content)


def default_port(host: str) -> int:
    """Of a cluster that begins at this address: others have to be told it, or nobody; 0: any that is free."""
    return 0 if host == LOOPBACK else _PORT


def end_all(processes: set[psutil.Process]) -> None:
    """At once, and waited for. Raises CommandError."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    _, left = psutil.wait_procs(processes, _KILL_SECONDS)
    if left:
        raise CommandError(f"these processes of Ray's cannot be ended: {', '.join(str(one.pid) for one in left)}")


def _started(plan: NodePlan, folder: Path, environment: Mapping[str, str]) -> NodeState:
    with (folder / "start.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "ray.scripts.scripts", *_arguments(plan, folder)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
    until = time.monotonic() + _START_SECONDS
    while not (address := _address(folder)):
        if process.poll() is not None or time.monotonic() > until:
            raise CommandError(f"Ray did not start: {_last_words(folder / 'start.log')}")
        time.sleep(_POLL_SECONDS)
    began = psutil.Process(process.pid).create_time()
    return NodeState(process.pid, began, plan.host, address, plan.join is None, str(folder))


def _arguments(plan: NodePlan, folder: Path) -> list[str]:
    arguments = ["start", "--block", "--node-ip-address", plan.host, "--temp-dir", str(folder / _INSIDE)]
    if plan.join is None:
        # Ray's own monitor scales clusters in clouds.
        arguments += ["--head", "--port", str(plan.port), "--include-dashboard", "false", "--no-monitor"]
        arguments += ["--ray-client-server-port", str(_free_port(plan.host))]
    else:
        arguments += ["--address", plan.join]
    arguments += ["--disable-usage-stats", "--include-log-monitor", "false", "--dashboard-agent-listen-port", "0"]
    arguments += ["--object-store-memory", str(plan.object_store_memory)]
    for name, value in (("--num-cpus", plan.num_cpus), ("--num-gpus", plan.num_gpus)):
        arguments += [] if value is None else [name, str(value)]
    return [*arguments, *plan.further]


def _require_address(plan: NodePlan) -> None:
    """Raises ConfigurationError for what other nodes could not use."""
    try:
        is_one = not ipaddress.ip_address(plan.host).is_unspecified
    except ValueError:
        is_one = False
    if not is_one or (plan.join is not None and plan.host == LOOPBACK):
        raise ConfigurationError(f"--host {plan.host}: give the address of this machine that other nodes reach")


def _free_port(host: str) -> int:
    with socket.create_server((host, 0)) as probe:
        return int(probe.getsockname()[1])


def _address(folder: Path) -> str:
    """Of the cluster, once Ray has written it down; else empty."""
    with contextlib.suppress(FileNotFoundError):
        return (folder / _ADDRESS_FILE).read_text(encoding="utf-8").strip()
    return ""


def _last_words(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line), "it said nothing")


def _short_folder() -> Path:
    parent = tempfile.gettempdir()
    return Path(tempfile.mkdtemp(prefix="mf-ray-", dir=parent if len(parent) < _LONGEST_FOLDER else "/tmp"))


def _holder(state: NodeState) -> psutil.Process | None:
    """The process that holds all others of the node."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(state.pid)
        if abs(process.create_time() - state.began) < 1 and process.status() != psutil.STATUS_ZOMBIE:
            return process
    return None


def _marked(folder: str) -> set[psutil.Process]:
    """The node's processes: those that have its mark, and all that they have started."""
    found: set[psutil.Process] = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(_MARK) == folder:
                found |= {process, *process.children(recursive=True)}
    return found
