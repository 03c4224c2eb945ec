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
UNIT = (DEPLOY / "systemd/multiflora.service").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
parser = cache(build_parser)


def test_every_setting_in_the_environment_is_one() -> None:
    files = [path for path in DEPLOY.rglob("*") if path.is_file() and path.suffix != ".whl"]
    texts = [path.read_text(encoding="utf-8") for path in files]
    named = {name for text in texts for name in re.findall(r"\bMULTIFLORA_([A-Z_]*[A-Z])\b", text)}
    assert named
    assert {name.lower() for name in named} <= set(Settings.model_fields)


@pytest.mark.parametrize("service", ["server", "upgrade"])
def test_the_image_understands_the_commands(service: str) -> None:
    parser().parse_args(SERVICES[service]["command"])


def test_services_wait_for_each_other_by_conditions_that_can_come_true() -> None:
    for service in SERVICES.values():
        for name, wait in service.get("depends_on", {}).items():
            is_checked = "healthcheck" in SERVICES[name] or ("build" in SERVICES[name] and "HEALTHCHECK" in DOCKERFILE)
            assert wait["condition"] == "service_completed_successfully" or is_checked


def test_volumes_secrets_and_files_that_are_mounted_exist() -> None:
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            assert (DEPLOY / source).is_file() if source.startswith(".") else source in COMPOSE["volumes"]
        assert set(service.get("secrets", [])) <= set(COMPOSE.get("secrets", {}))


def test_the_server_writes_where_it_may() -> None:
    server = SERVICES["server"]
    assert server["read_only"]
    assert server["shm_size"]
    assert "/tmp" in server["tmpfs"]
    assert any(volume.endswith(":/data") for volume in server["volumes"])
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
    (extras,) = re.findall(r"\.whl\)\[([\w,]+)\]", DOCKERFILE)
    assert set(extras.split(",")) <= set(project["project"]["optional-dependencies"])


def test_a_wheel_that_lies_there_is_not_what_the_image_is_made_of() -> None:
    (copied,) = re.findall(r"deploy/wheel\[s\] (\S+)$", DOCKERFILE, re.MULTILINE)
    (built,) = re.findall(r"^RUN pip wheel --no-deps --wheel-dir (\S+) \.$", DOCKERFILE, re.MULTILINE)
    (installed,) = re.findall(r"(\S+)/multiflora-\*\.whl\)", DOCKERFILE)
    assert installed == built != copied.rstrip("/")


def test_the_server_has_the_same_name_when_its_container_is_made_anew() -> None:
    """By which it clears the alerts that it had raised."""
    assert SERVICES["server"]["hostname"]


def test_the_unit_is_read_and_ends_for_good_where_a_restart_mends_nothing() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read_string(UNIT)
    assert unit["Service"]["ExecStart"].split()[1:] == ["serve"]
    assert unit["Service"]["RestartPreventExitStatus"] == "2 3"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_finds_no_fault_in_the_unit(tmp_path: Path) -> None:
    """But that the program is where a test has none."""
    path = tmp_path / "multiflora.service"
    path.write_text(UNIT.replace("/opt/multiflora/bin/multiflora", shutil.which("true") or "true"), encoding="utf-8")
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
