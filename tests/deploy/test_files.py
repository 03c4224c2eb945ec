"""What the files to deploy with name exists: flags, settings, sources, extras, other files of theirs."""

from __future__ import annotations

import configparser
import os
import re
import shlex
import shutil
import subprocess
import time
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from multiflora_platform.cli.main import build_parser
from multiflora_platform.settings import Settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
UNITS = {path.name: path.read_text(encoding="utf-8") for path in (DEPLOY / "systemd").iterdir()}
parser = cache(build_parser)


def read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((DEPLOY / name).read_text(encoding="utf-8"))
    return content


def merged(base: Any, more: Any, key: str = "") -> Any:
    """As Compose puts a second file over the first: what is named is replaced, lists but commands grow."""
    if isinstance(base, dict) and isinstance(more, dict):
        names = dict.fromkeys((*base, *more))
        return {
            name: merged(base[name], more[name], name) if name in base and name in more else {**base, **more}[name]
            for name in names
        }
    return [*base, *more] if isinstance(base, list) and key != "command" else more


ONE_SERVER = read("compose.yaml")
WITH_ENGINES = merged(ONE_SERVER, read("compose.engines.yaml"))
COMPOSED = pytest.mark.parametrize("composed", [ONE_SERVER, WITH_ENGINES], ids=["server", "engines"])


def built(composed: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Services of our image, but the one that ends by itself."""
    services = composed["services"].items()
    return {name: one for name, one in services if one["image"] == "multiflora" and name != "upgrade"}


def test_every_setting_in_the_environment_is_one() -> None:
    files = [path for path in DEPLOY.rglob("*") if path.is_file() and path.suffix != ".whl"]
    texts = [path.read_text(encoding="utf-8") for path in files]
    named = {name for text in texts for name in re.findall(r"\bMULTIFLORA_([A-Z_]*[A-Z])\b", text)}
    assert named
    assert {name.lower() for name in named} <= set(Settings.model_fields)


@COMPOSED
def test_the_image_understands_the_commands(composed: dict[str, Any]) -> None:
    for service in (*built(composed).values(), composed["services"]["upgrade"]):
        parser().parse_args(service["command"])


@COMPOSED
def test_services_wait_for_each_other_by_conditions_that_can_come_true(composed: dict[str, Any]) -> None:
    services = composed["services"]
    for service in services.values():
        for name, wait in service.get("depends_on", {}).items():
            is_ours = services[name]["image"] == "multiflora" and "HEALTHCHECK" in DOCKERFILE
            is_checked = is_ours or "healthcheck" in services[name]
            assert wait["condition"] == "service_completed_successfully" or is_checked


@COMPOSED
def test_volumes_secrets_and_files_that_are_mounted_exist(composed: dict[str, Any]) -> None:
    for service in composed["services"].values():
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            assert (DEPLOY / source).is_file() if source.startswith(".") else source in composed["volumes"]
        assert set(service.get("secrets", [])) <= set(composed.get("secrets", {}))


def test_gateways_and_engines_find_and_know_each_other() -> None:
    services, proxy = built(WITH_ENGINES), WITH_ENGINES["services"]["proxy"]
    for name, service in services.items():
        arguments = parser().parse_args(service["command"])
        assert service["environment"]["MULTIFLORA_SECRET_FILE"] == "/run/secrets/line"
        assert service["secrets"] == ["line"]
        if arguments.command == "engine":
            port = int(arguments.listen.rpartition(":")[2])
            assert arguments.advertise == f"tcp://{name}:{port}"
            assert service["healthcheck"]["test"][-1] == f"/data/multiflora/engine-{port}.ready"
        else:
            assert arguments.command == "gateway"
            assert name in arguments.allowed_host
            assert service["hostname"] == name
            assert f"server {name}:8000;" in proxy["environment"]["NGINX_SERVERS"]
            assert name in proxy["depends_on"]
    folders = {name: service["volumes"] for name, service in services.items()}
    assert folders["server"] == folders["server-2"], "one machine's gateways share artifacts"
    assert len({*map(str, folders.values())}) == 3, "engines share nothing"
    (secret,) = (one["file"] for one in read("compose.engines.yaml")["secrets"].values())
    assert f"/deploy/{Path(secret).name}" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()


@COMPOSED
def test_containers_write_where_they_may_and_end_after_their_answers(composed: dict[str, Any]) -> None:
    for service in built(composed).values():
        assert service["read_only"]
        assert "/tmp" in service["tmpfs"]
        assert any(volume.endswith(":/data") for volume in service["volumes"])
        assert float(service["stop_grace_period"].removesuffix("s")) > Settings().drain_timeout
        assert service.get("shm_size") or service["command"][0] == "gateway"
    folders = re.findall(r"(?:HOME|DIR)=(/\S+)", DOCKERFILE)
    assert len(folders) == 4
    assert all(folder.startswith("/data") for folder in folders)
    assert re.search(r"^USER [1-9]\d*$", DOCKERFILE, re.MULTILINE)


def test_the_image_is_made_of_what_there_is() -> None:
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    sources = {source for line in copied for source in line.split()} - {"deploy/wheel[s]"}
    assert all((ROOT / source).exists() for source in sources)
    kept = re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(encoding="utf-8"), re.MULTILINE)
    assert {*kept} == {*sources, "deploy/wheels"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    packed = {Path(source).parts[0] for source in [*wheel["packages"], *wheel["force-include"]]}
    assert packed <= {Path(source).parts[0] for source in sources}
    assert re.search(r"\.whl\)\[\$\{EXTRAS\}\]", DOCKERFILE)
    named = re.findall(r"EXTRAS=([\w,]+)", DOCKERFILE)
    assert len(named) == 2
    assert {extra for extras in named for extra in extras.split(",")} <= set(
        project["project"]["optional-dependencies"]
    )


def test_a_wheel_that_lies_there_is_not_what_the_image_is_made_of() -> None:
    (copied,) = re.findall(r"deploy/wheel\[s\] (\S+)$", DOCKERFILE, re.MULTILINE)
    (built,) = re.findall(r"^RUN pip wheel --no-deps --wheel-dir (\S+) \.$", DOCKERFILE, re.MULTILINE)
    (installed,) = re.findall(r"(\S+)/multiflora-\*\.whl\)", DOCKERFILE)
    assert installed == built != copied.rstrip("/")


def test_the_server_has_the_same_name_when_its_container_is_made_anew() -> None:
    """By which it clears the alerts that it had raised."""
    assert ONE_SERVER["services"]["server"]["hostname"]


@pytest.mark.parametrize(
    ("unit", "command"),
    [
        ("multiflora.service", "serve"),
        ("multiflora-gateway.service", "gateway"),
        ("multiflora-engine@.service", "engine"),
    ],
)
def test_a_unit_is_read_and_ends_for_good_where_a_restart_mends_nothing(unit: str, command: str) -> None:
    service = read_unit(unit)["Service"]
    parser().parse_args(service["ExecStart"].split()[1:])
    assert service["ExecStart"].split()[1:] == [command]
    assert service["RestartPreventExitStatus"] == "2 3"
    assert float(service["TimeoutStopSec"]) > Settings().drain_timeout


@pytest.mark.parametrize("unit", ["multiflora-gateway.service", "multiflora-engine@.service"])
def test_a_unit_gives_its_process_the_secret_that_root_alone_reads(unit: str) -> None:
    service = read_unit(unit)["Service"]
    name, _, path = service["LoadCredential"].partition(":")
    assert path == "/etc/multiflora/secret"
    assert f"Environment=MULTIFLORA_SECRET_FILE=%d/{name}\n" in UNITS[unit]
    assert (service["DynamicUser"], service["UMask"]) == ("yes", "0077")


def read_unit(name: str) -> configparser.ConfigParser:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read_string(UNITS[name])
    return unit


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_finds_no_fault_in_a_unit(unit: str, tmp_path: Path) -> None:
    """But that the program is where a test has none."""
    path = tmp_path / unit.replace("@", "@0")
    text = UNITS[unit].replace("/opt/multiflora/bin/multiflora", shutil.which("true") or "true")
    path.write_text(text, encoding="utf-8")
    ran = subprocess.run(["systemd-analyze", "verify", path], capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")


def _has_daemon() -> bool:
    return (
        shutil.which("docker") is not None and subprocess.run(["docker", "info"], capture_output=True).returncode == 0
    )


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not _has_daemon(), reason="needs a Docker daemon")
def test_the_image_serves() -> None:
    """IMAGE_BUILD_OPTIONS: for a machine without a registry, as in the first lines of the Dockerfile."""
    further = shlex.split(os.environ.get("IMAGE_BUILD_OPTIONS", ""))
    build = ["docker", "build", "-q", "-f", "deploy/Dockerfile", *further, "."]
    image = subprocess.run(build, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()
    options = ["--rm", "-d", "--read-only", "--tmpfs", "/tmp", "-v", "/data"]
    run = ["docker", "run", *options, image]
    container = subprocess.run(run, check=True, capture_output=True, text=True).stdout.strip()
    try:
        state = ["docker", "inspect", "-f", "{{.State.Health.Status}}", container]
        health = "starting"
        while health == "starting":
            time.sleep(1)
            health = subprocess.run(state, check=True, capture_output=True, text=True).stdout.strip()
        assert health == "healthy"
    finally:
        subprocess.run(["docker", "rm", "-f", container], check=True, capture_output=True)
