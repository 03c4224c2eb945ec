"""The Helm chart, as helm renders it: valid for Kubernetes, true of the server, refused where it could not run."""

from __future__ import annotations

import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.deploy.metric_names import names_in, samples

from multiflora_platform.cli.main import build_parser
from multiflora_platform.server import health
from multiflora_platform.settings import Settings

DEPLOY = Path(__file__).parents[2] / "deploy"
CHART = DEPLOY / "helm/multiflora"
HELM = shutil.which("helm")
parser = cache(build_parser)
pytestmark = pytest.mark.skipif(HELM is None, reason="needs helm")
EVERYTHING = """
    model: org/model
    args: [--replicas, "2"]
    env: [{name: HF_TOKEN, valueFrom: {secretKeyRef: {name: hub, key: token}}}]
    apiKey: {existingSecret: multiflora}
    database: {existingSecret: multiflora-database}
    persistence: {accessModes: [ReadWriteMany], storageClass: nfs}
    gpus: 1
    runtimeClassName: nvidia
    imagePullSecrets: [{name: registry}]
    allowedHosts: [llm.internal]
    ingress: {enabled: true, className: nginx, host: llm.example.com, tlsSecret: tls, annotations: {a/b: "50"}}
    autoscaling: {enabled: true, maxReplicas: 3}
    serviceMonitor: {enabled: true, labels: {release: prometheus}, key: {existingSecret: multiflora-metrics}}
    prometheusRule: {enabled: true, labels: {release: prometheus}}
    dashboard: {enabled: true}
    podAnnotations: {a/b: c}
    nodeSelector: {disk: ssd}
    tolerations: [{key: gpu, operator: Exists}]
    affinity: {nodeAffinity: {}}
"""
NOTHING = """
    persistence: {existingClaim: mine}
    podDisruptionBudget: {enabled: false}
"""


def helm(*arguments: str, values: str = "{}") -> subprocess.CompletedProcess[str]:
    assert HELM is not None
    command = [HELM, *arguments, str(CHART), "--values", "-"]
    return subprocess.run(command, input=values, capture_output=True, text=True)


@cache
def rendered_objects(values: str, release: str = "team") -> list[dict[str, Any]]:
    ran = helm("template", release, "--namespace", "serving", values=values)
    assert ran.returncode == 0, ran.stderr
    return [one for one in yaml.safe_load_all(ran.stdout) if one is not None]


def rendered_parts(values: str, **parts: str) -> dict[tuple[str, str], dict[str, Any]]:
    """By kind and part. parts: how the objects of each part are named."""
    by_name = {name: part for part, name in parts.items()}
    return {(one["kind"], by_name[one["metadata"]["name"]]): one for one in rendered_objects(values)}


def rendered(values: str = "{}", release: str = "team") -> dict[str, dict[str, Any]]:
    """By kind; the chart has one object of each."""
    objects = rendered_objects(values, release)
    assert len({one["kind"] for one in objects}) == len(objects)
    return {one["kind"]: one for one in objects}


def pod(values: str = "{}") -> dict[str, Any]:
    return rendered(values)["Deployment"]["spec"]["template"]["spec"]


def server(values: str = "{}") -> dict[str, Any]:
    (container,) = pod(values)["containers"]
    return container


@pytest.mark.parametrize("values", ["{}", EVERYTHING], ids=["defaults", "everything"])
def test_helm_finds_no_fault(values: str) -> None:
    ran = helm("lint", "--strict", values=values)
    assert ran.returncode == 0, ran.stdout


@pytest.mark.parametrize("values", ["{}", EVERYTHING, NOTHING], ids=["defaults", "everything", "nothing"])
@pytest.mark.parametrize("version", ["1.29", "1.35"])
def test_kubernetes_takes_it_as_its_strict_schemas_are(values: str, version: str) -> None:
    validate = pytest.importorskip("kubernetes_validate").validate
    for one in rendered(values).values():
        if "coreos" not in one["apiVersion"]:
            validate(one, version, strict=True)


def test_what_is_switched_on_is_there_and_nothing_else() -> None:
    basic = {"Deployment", "Service", "PersistentVolumeClaim", "PodDisruptionBudget"}
    further = {"Ingress", "HorizontalPodAutoscaler", "ServiceMonitor", "PrometheusRule", "ConfigMap"}
    assert rendered().keys() == basic
    assert rendered(EVERYTHING).keys() == basic | further
    assert rendered(NOTHING).keys() == {"Deployment", "Service"}


@pytest.mark.parametrize("values", ["{}", EVERYTHING], ids=["defaults", "everything"])
def test_the_server_understands_its_commands_and_its_environment(values: str) -> None:
    for container in (*pod(values).get("initContainers", []), server(values)):
        parser().parse_args(container["args"])
        named = {variable["name"] for variable in container["env"]} - {"HF_TOKEN"}
        assert {name.removeprefix("MULTIFLORA_").lower() for name in named} <= set(Settings.model_fields)


def test_names_under_which_it_is_reached_are_allowed() -> None:
    arguments = parser().parse_args(server(EVERYTHING)["args"])
    service = rendered(EVERYTHING)["Service"]["metadata"]["name"]
    assert {service, f"{service}.serving.svc", "llm.example.com", "llm.internal"} <= set(arguments.allowed_host)


def test_probes_ask_routes_that_there_are_and_a_loading_model_is_left_in_peace() -> None:
    probes = [server()[f"{name}Probe"] for name in ("startup", "liveness", "readiness")]
    (port,) = server()["ports"]
    assert {probe["httpGet"]["path"] for probe in probes} <= {route.path for route in health.router.routes}  # type: ignore[attr-defined]
    assert all(probe["httpGet"]["port"] == port["name"] for probe in probes)
    assert [probe["httpGet"]["path"] for probe in probes[1:]] == ["/health/live", "/health/ready"]
    assert probes[0]["periodSeconds"] * probes[0]["failureThreshold"] == 1800


def test_it_is_not_root_and_writes_where_it_may() -> None:
    assert pod()["securityContext"]["runAsNonRoot"]
    assert f"USER {pod()['securityContext']['runAsUser']}" in (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    for container in (*pod(EVERYTHING)["initContainers"], server(EVERYTHING)):
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert {"/data", "/tmp"} <= {mount["mountPath"] for mount in container["volumeMounts"]}
    volumes = {volume["name"] for volume in pod()["volumes"]}
    assert {mount["name"] for mount in server()["volumeMounts"]} == volumes
    assert not pod()["automountServiceAccountToken"]


def test_a_service_of_the_server_s_name_does_not_set_its_port() -> None:
    """Kubernetes would set MULTIFLORA_PORT=tcp://… in the pods beside a service of the name "multiflora"."""
    assert rendered(release="multiflora")["Service"]["metadata"]["name"] == "multiflora"
    assert pod()["enableServiceLinks"] is False


def test_a_pod_ends_after_its_answers() -> None:
    values = "drainSeconds: 120"
    drain = next(one for one in server(values)["env"] if one["name"] == "MULTIFLORA_DRAIN_TIMEOUT")
    assert float(drain["value"]) == 120
    assert pod(values)["terminationGracePeriodSeconds"] > 120


def test_keys_and_passwords_come_from_secrets() -> None:
    secrets = {one["name"]: one["valueFrom"]["secretKeyRef"] for one in server(EVERYTHING)["env"] if "valueFrom" in one}
    assert secrets["MULTIFLORA_API_KEY"] == {"name": "multiflora", "key": "api-key"}
    assert secrets["MULTIFLORA_DATABASE_URL"] == {"name": "multiflora-database", "key": "url"}
    (upgrade,) = pod(EVERYTHING)["initContainers"]
    assert upgrade["env"][0] in server(EVERYTHING)["env"]


def test_one_server_at_a_time_uses_a_data_folder_that_is_not_shared() -> None:
    assert rendered()["Deployment"]["spec"]["strategy"]["type"] == "Recreate"
    assert rendered(EVERYTHING)["Deployment"]["spec"]["strategy"]["type"] == "RollingUpdate"
    assert "replicas" not in rendered(EVERYTHING)["Deployment"]["spec"], "the autoscaler's to say"


def test_a_pod_that_is_made_anew_has_the_name_by_which_it_clears_its_alerts() -> None:
    assert pod()["hostname"] == rendered()["Deployment"]["metadata"]["name"]
    assert "hostname" not in pod(EVERYTHING), "several cannot share one"


def test_a_gpu_is_asked_for_beside_other_resources() -> None:
    assert server(EVERYTHING)["resources"]["limits"] == {"nvidia.com/gpu": "1"}
    assert server(EVERYTHING)["resources"]["requests"] == server()["resources"]["requests"]
    assert "limits" not in server()["resources"]


def test_autoscaling_asks_for_metrics_that_the_adapter_makes_of_ours() -> None:
    adapter = yaml.safe_load((DEPLOY / "prometheus/adapter.yaml").read_text(encoding="utf-8"))["rules"]["custom"]
    scaler = rendered(EVERYTHING)["HorizontalPodAutoscaler"]["spec"]
    by_pod = {rule["name"]["as"] for rule in adapter if "pod" in rule["resources"]["overrides"]}
    assert {one["pods"]["metric"]["name"] for one in scaler["metrics"]} == by_pod
    for rule in adapter:
        assert names_in(rule["seriesQuery"]) == names_in(rule["metricsQuery"])
        assert names_in(rule["seriesQuery"]) <= samples().keys()


def test_prometheus_finds_the_service_and_its_key() -> None:
    monitor = rendered(EVERYTHING)["ServiceMonitor"]["spec"]
    service = rendered(EVERYTHING)["Service"]
    (endpoint,) = monitor["endpoints"]
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    assert endpoint["authorization"]["credentials"] == {"name": "multiflora-metrics", "key": "metrics-key"}


def test_alerts_and_dashboard_are_the_delivered_ones() -> None:
    rules = yaml.safe_load((DEPLOY / "prometheus/rules.yml").read_text(encoding="utf-8"))
    assert rendered(EVERYTHING)["PrometheusRule"]["spec"] == rules
    dashboard = (DEPLOY / "grafana/dashboard.json").read_text(encoding="utf-8")
    assert rendered(EVERYTHING)["ConfigMap"]["data"]["multiflora.json"].strip() == dashboard.strip()


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ("replicaCount: 2", "database.existingSecret"),
        ("autoscaling: {enabled: true}", "database.existingSecret"),
        ("{replicaCount: 2, database: {existingSecret: db}}", "ReadWriteMany"),
        ("serviceMonitor: {enabled: true}", "serviceMonitor.key.existingSecret"),
        ("replicas: 2", "replicas"),
        ("gpus: some", "gpus"),
    ],
)
def test_what_could_not_run_is_refused_with_the_reason(values: str, says: str) -> None:
    ran = helm("template", "team", values=values)
    assert ran.returncode != 0
    assert re.search(re.escape(says), ran.stderr)
