"""Ray's processes on this machine, with a program in Ray's place: started with a token, ended by their ids."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import psutil
import pytest

from multiflora_platform.exit_codes import CommandError
from multiflora_platform.on_ray import node as module
from multiflora_platform.on_ray.node import LocalNode, NodePlan
from multiflora_platform.settings import ConfigurationError

# Who starts a node is gone when it ends.
pytestmark = pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")

RAY = """
import json, os, pathlib, signal, subprocess, sys, time
arguments = sys.argv[1:]
inside = pathlib.Path(arguments[arguments.index("--temp-dir") + 1])
inside.mkdir(mode=0o777)
if "--broken" in arguments:
    sys.exit("Traceback\\n  ...\\nOSError: the port is taken\\n")
stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(300)"
child = subprocess.Popen([sys.executable, "-c", stubborn], stdout=subprocess.PIPE, start_new_session=True)
child.stdout.readline()
told = {"arguments": arguments, "child": child.pid, "environ": dict(os.environ)}
(inside.parent / "told.json").write_text(json.dumps(told))
(inside / "ray_current_cluster").write_text("127.0.0.1:1234")
time.sleep(300)
"""


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalNode:
    scripts = tmp_path / "path" / "ray" / "scripts"
    scripts.mkdir(parents=True)
    (scripts / "scripts.py").write_text(RAY, encoding="utf-8")
    for folder in (scripts, scripts.parent):
        (folder / "__init__.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "path"))
    monkeypatch.setenv("RAY_AUTH_TOKEN", "another cluster's")
    monkeypatch.setattr(module, "_END_SECONDS", 0.5)
    monkeypatch.setattr(module, "_short_folder", lambda: Path(tempfile.mkdtemp(prefix="mf-ray-", dir=tmp_path)))
    return LocalNode(tmp_path / "data")


def plan(host: str = "127.0.0.1", **more: object) -> NodePlan:
    return NodePlan(host=host, **more)  # type: ignore[arg-type]


def test_a_node_is_found_again_and_its_end_leaves_no_process_and_no_folder(node: LocalNode) -> None:
    state = node.start(plan(num_cpus=3, further=["--min-worker-port", "20000"]), None)
    node.note_databases(["postgresql://b"])
    try:
        told = json.loads((Path(state.folder) / "told.json").read_text(encoding="utf-8"))
        with pytest.raises(ConfigurationError, match="already"):
            node.start(plan(), None)
        found = LocalNode(node.folder.parent).require_running()
    finally:
        node.stop()
    assert found == state
    assert (state.address, state.is_first) == ("127.0.0.1:1234", True)
    assert [told["arguments"][-4:]] == [["--num-cpus", "3", "--min-worker-port", "20000"]]
    assert "--head" in told["arguments"]
    assert not psutil.pid_exists(state.pid) or psutil.Process(state.pid).status() == psutil.STATUS_ZOMBIE
    assert not psutil.pid_exists(told["child"]), "it was killed, though it took no notice of SIGTERM"
    assert not Path(state.folder).exists()
    assert (node.state(), node.databases()) == (None, [])
    with pytest.raises(CommandError, match="no Ray node runs here"):
        node.require_running()
    node.stop()


def test_what_is_left_of_a_node_that_was_killed_is_ended(node: LocalNode) -> None:
    state = node.start(plan(), None)
    child = json.loads((Path(state.folder) / "told.json").read_text(encoding="utf-8"))["child"]
    psutil.Process(state.pid).kill()
    psutil.wait_procs([psutil.Process(state.pid)], 10)
    assert not state.is_running
    with pytest.raises(CommandError):
        node.require_running()
    node.stop()
    assert not psutil.pid_exists(child)
    assert not Path(state.folder).exists()


def test_a_token_is_asked_for_and_nothing_but_its_owner_reads_it(node: LocalNode) -> None:
    state = node.start(plan(), None)
    told = json.loads((Path(state.folder) / "told.json").read_text(encoding="utf-8"))["environ"]
    node.stop()
    assert told["RAY_AUTH_MODE"] == "token"
    assert told["RAY_AUTH_TOKEN_PATH"] == str(node.token_file)
    assert "RAY_AUTH_TOKEN" not in told
    assert told["RAY_USAGE_STATS_ENABLED"] == "0"
    assert told["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"
    token = node.token_file.read_text(encoding="ascii")
    assert len(token) == 64
    assert node.token_file.stat().st_mode & 0o077 == 0
    assert node.folder.stat().st_mode & 0o077 == 0
    node.start(plan(), None)
    node.stop()
    assert node.token_file.read_text(encoding="ascii") == token


def test_to_join_a_cluster_takes_its_token_and_an_address_that_others_reach(node: LocalNode, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="--token-file"):
        node.start(plan("127.0.0.2", join="127.0.0.1:1234"), None)
    token = tmp_path / "token"
    with pytest.raises(ConfigurationError, match="cannot read --token-file"):
        node.start(plan("127.0.0.2", join="127.0.0.1:1234"), token)
    token.write_text("5e" * 32 + "\n", encoding="ascii")
    for host in ("127.0.0.1", "0.0.0.0", "::", "gpu-1"):
        with pytest.raises(ConfigurationError, match="--host"):
            node.start(plan(host, join="127.0.0.1:1234"), token)
    state = node.start(plan("127.0.0.2", join="127.0.0.1:1234"), token)
    told = json.loads((Path(state.folder) / "told.json").read_text(encoding="utf-8"))
    node.stop()
    assert not state.is_first
    assert told["arguments"][told["arguments"].index("--address") + 1] == "127.0.0.1:1234"
    assert told["environ"]["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "1"
    assert node.token_file.read_text(encoding="ascii") == "5e" * 32


def test_a_node_that_does_not_start_says_why_and_leaves_nothing(node: LocalNode, tmp_path: Path) -> None:
    with pytest.raises(CommandError) as raised:
        node.start(plan(further=["--broken"]), None)
    assert str(raised.value) == "Ray did not start: OSError: the port is taken"
    assert node.state() is None
    assert not list(tmp_path.glob("mf-ray-*"))


def test_databases_of_what_was_deployed_are_kept(node: LocalNode) -> None:
    assert node.databases() == []
    node.folder.mkdir(parents=True)
    node.note_databases(["postgresql://b", "postgresql://a", "postgresql://b"])
    assert node.databases() == ["postgresql://a", "postgresql://b"]
