"""The chart with engines in pods of their own: gateways find them, alone reach them, and need no shared volume."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from tests.deploy.test_helm import DEPLOY, HELM, helm, parser, rendered_parts

from multiflora_platform.settings import Settings

pytestmark = pytest.mark.skipif(HELM is None, reason="needs helm")
NEEDED = "database: {existingSecret: db}, secret: {existingSecret: line}, engines: {enabled: true}"
ENGINES = f"{{{NEEDED}}}"
EVERYTHING = """
    model: org/model
    modelArgs: [--max-lora-rank, "32"]
    args: [--allowed-origins, "https://app.example.com"]
    env: [{name: HF_TOKEN, valueFrom: {secretKeyRef: {name: hub, key: token}}}]
    replicaCount: 2
    apiKey: {existingSecret: multiflora}
    database: {existingSecret: db}
    secret: {existingSecret: line}
    artifactStore: {url: "s3://bucket/team", endpoint: "http://minio:9000", region: us-east-1, existingSecret: s3}
    serviceAccountName: multiflora
    engines: {enabled: true, port: 5571, args: [--max-loras, "16"], persistence: {storageClass: ssd}}
    gateway: {nodeSelector: {disk: ssd}, tolerations: [{operator: Exists}], affinity: {nodeAffinity: {}}}
    gpus: 1
    runtimeClassName: nvidia
    nodeSelector: {gpu: h100}
    drainSeconds: 120
    autoscaling: {enabled: true}
    serviceMonitor: {enabled: true, key: {existingSecret: metrics}}
"""
FOLDERS = f"{{{NEEDED}, podDisruptionBudget: {{enabled: false}}, networkPolicy: {{enabled: false}}}}"
CASES = pytest.mark.parametrize("values", [ENGINES, EVERYTHING, FOLDERS], ids=["engines", "everything", "folders"])


def rendered(values: str) -> dict[tuple[str, str], dict[str, Any]]:
    return rendered_parts(values, server="team-multiflora", engine="team-multiflora-engine")


def pods(values: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of gateways, of engines."""
    objects = rendered(values)
    return objects["Deployment", "server"]["spec"]["template"], objects["StatefulSet", "engine"]["spec"]["template"]


def containers(values: str) -> tuple[dict[str, Any], dict[str, Any]]:
    gateway, engine = (pod["spec"]["containers"] for pod in pods(values))
    return gateway[0], engine[0]


def selects(selector: dict[str, str], labels: dict[str, str]) -> bool:
    return selector.items() <= labels.items()


@CASES
def test_helm_finds_no_fault(values: str) -> None:
    ran = helm("lint", "--strict", values=values)
    assert ran.returncode == 0, ran.stdout


@CASES
@pytest.mark.parametrize("version", ["1.29", "1.35"])
def test_kubernetes_takes_it_as_its_strict_schemas_are(values: str, version: str) -> None:
    validate = pytest.importorskip("kubernetes_validate").validate
    for one in rendered(values).values():
        if "coreos" not in one["apiVersion"]:
            validate(one, version, strict=True)


def test_what_is_switched_on_is_there_and_nothing_else() -> None:
    both = {(kind, name) for kind in ("Service", "PodDisruptionBudget") for name in ("server", "engine")}
    basic = {("Deployment", "server"), ("StatefulSet", "engine"), ("NetworkPolicy", "engine"), *both}
    assert rendered(ENGINES).keys() == basic | {("PersistentVolumeClaim", "server")}
    assert rendered(EVERYTHING).keys() == basic | {("HorizontalPodAutoscaler", "server"), ("ServiceMonitor", "server")}
    assert not [kind for kind, _ in rendered(FOLDERS) if kind in ("NetworkPolicy", "PodDisruptionBudget")]


@CASES
def test_both_understand_their_commands_and_their_environment(values: str) -> None:
    gateway, engine = containers(values)
    for container, command in ((gateway, "gateway"), (engine, "engine")):
        assert container["args"][0] == command
        parser().parse_args(container["args"])
        named = {one["name"] for one in container["env"]}
        assert {name for name in named if not name.startswith(("MULTIFLORA_", "AWS_"))} <= {"HF_TOKEN", "POD_IP"}
        settings = {name.removeprefix("MULTIFLORA_").lower() for name in named if name.startswith("MULTIFLORA_")}
        assert settings <= set(Settings.model_fields)
        assert {"database_url", "secret_file"} <= settings


def test_a_gateway_reaches_the_address_that_its_engine_has_told() -> None:
    _, engine = containers(EVERYTHING)
    arguments = parser().parse_args([argument.replace("$(POD_IP)", "10.1.2.3") for argument in engine["args"]])
    settings = Settings(listen=arguments.listen, advertise=arguments.advertise)
    assert (settings.listen, settings.advertise) == ("tcp://0.0.0.0:5571", "tcp://10.1.2.3:5571")
    (address,) = (one for one in engine["env"] if one["name"] == "POD_IP")
    assert address["valueFrom"]["fieldRef"]["fieldPath"] == "status.podIP"
    assert engine["ports"] == [{"name": "line", "containerPort": 5571}]


def test_gateways_alone_reach_the_lines_and_clients_no_engine() -> None:
    objects = rendered(EVERYTHING)
    gateway, engine = (pod["metadata"]["labels"] for pod in pods(EVERYTHING))
    policy = objects["NetworkPolicy", "engine"]["spec"]
    assert selects(policy["podSelector"]["matchLabels"], engine)
    assert not selects(policy["podSelector"]["matchLabels"], gateway)
    (rule,) = policy["ingress"]
    (source,) = rule["from"]
    assert selects(source["podSelector"]["matchLabels"], gateway)
    assert not selects(source["podSelector"]["matchLabels"], engine)
    assert rule["ports"] == [{"protocol": "TCP", "port": "line"}]
    for name, labels, others in (("server", gateway, engine), ("engine", engine, gateway)):
        for selector in (
            objects["Service", name]["spec"]["selector"],
            objects["PodDisruptionBudget", name]["spec"]["selector"]["matchLabels"],
        ):
            assert selects(selector, labels)
            assert not selects(selector, others)
    monitored = objects["ServiceMonitor", "server"]["spec"]["selector"]["matchLabels"]
    assert not selects(monitored, objects["Service", "engine"]["metadata"]["labels"])


@CASES
def test_both_have_the_secret_as_a_file_that_no_process_may_change(values: str) -> None:
    for pod, container in zip(pods(values), containers(values), strict=True):
        (volume,) = (one for one in pod["spec"]["volumes"] if one["name"] == "secret")
        assert volume["secret"]["secretName"] == "line"
        assert volume["secret"]["defaultMode"] == 0o440
        (mount,) = (one for one in container["volumeMounts"] if one["name"] == "secret")
        (path,) = (one["value"] for one in container["env"] if one["name"] == "MULTIFLORA_SECRET_FILE")
        assert mount["readOnly"]
        assert path == f"{mount['mountPath']}/{volume['secret']['items'][0]['path']}"


def test_keys_of_the_store_are_the_gateways_alone() -> None:
    gateway, engine = containers(EVERYTHING)
    secrets = {one["name"]: one["valueFrom"]["secretKeyRef"] for one in gateway["env"] if "valueFrom" in one}
    assert secrets["AWS_ACCESS_KEY_ID"] == {"name": "s3", "key": "access-key"}
    assert secrets["AWS_SECRET_ACCESS_KEY"] == {"name": "s3", "key": "secret-key"}
    assert not [one["name"] for one in engine["env"] if one["name"].startswith("AWS_") or "API_KEY" in one["name"]]


@CASES
def test_probes_of_an_engine_look_for_the_file_that_it_makes(values: str) -> None:
    _, engine = containers(values)
    data = re.search(r"MULTIFLORA_DATA_DIR=(\S+)", (DEPLOY / "Dockerfile").read_text(encoding="utf-8"))
    assert data is not None
    for probe in ("startupProbe", "readinessProbe"):
        program, option, path = engine[probe]["exec"]["command"]
        assert (program, option) == ("test", "-e")
        assert path == f"{data[1]}/engine-{engine['ports'][0]['containerPort']}.ready"
    assert engine["startupProbe"]["periodSeconds"] * engine["startupProbe"]["failureThreshold"] == 1800


@CASES
def test_both_are_not_root_and_write_where_they_may(values: str) -> None:
    for pod, container in zip(pods(values), containers(values), strict=True):
        assert pod["spec"]["securityContext"]["runAsNonRoot"]
        assert not pod["spec"]["automountServiceAccountToken"]
        for one in (container, *pod["spec"]["initContainers"]):
            assert one["securityContext"]["readOnlyRootFilesystem"]
            assert {"/data", "/tmp"} <= {mount["mountPath"] for mount in one["volumeMounts"]}
        claims = rendered(values)["StatefulSet", "engine"]["spec"]["volumeClaimTemplates"]
        volumes = {one["name"] for one in (*pod["spec"]["volumes"], *(claim["metadata"] for claim in claims))}
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes


def test_pods_end_after_their_answers() -> None:
    for pod, container in zip(pods(EVERYTHING), containers(EVERYTHING), strict=True):
        (drain,) = (one["value"] for one in container["env"] if one["name"] == "MULTIFLORA_DRAIN_TIMEOUT")
        assert 120 == float(drain) < pod["spec"]["terminationGracePeriodSeconds"]


def test_gpus_and_their_nodes_are_the_engines() -> None:
    gateway, engine = containers(EVERYTHING)
    assert engine["resources"]["limits"] == {"nvidia.com/gpu": "1"}
    assert "limits" not in gateway["resources"]
    specs = [pod["spec"] for pod in pods(EVERYTHING)]
    assert [spec["nodeSelector"] for spec in specs] == [{"disk": "ssd"}, {"gpu": "h100"}]
    assert [spec.get("runtimeClassName") for spec in specs] == [None, "nvidia"]


def test_with_a_store_each_pod_has_a_volume_of_its_own() -> None:
    (data,) = (one for one in pods(EVERYTHING)[0]["spec"]["volumes"] if one["name"] == "data")
    assert data["ephemeral"]["volumeClaimTemplate"]["spec"]["resources"]["requests"]["storage"] == "50Gi"
    (own,) = rendered(EVERYTHING)["StatefulSet", "engine"]["spec"]["volumeClaimTemplates"]
    assert own["spec"]["storageClassName"] == "ssd"
    (shared,) = (one for one in pods(ENGINES)[0]["spec"]["volumes"] if one["name"] == "data")
    claim = rendered(ENGINES)["PersistentVolumeClaim", "server"]["metadata"]["name"]
    assert shared["persistentVolumeClaim"]["claimName"] == claim


def test_autoscaling_is_of_engines_by_the_numbers_that_every_gateway_has() -> None:
    scaler = rendered(EVERYTHING)["HorizontalPodAutoscaler", "server"]["spec"]
    engines = rendered(EVERYTHING)["StatefulSet", "engine"]
    assert scaler["scaleTargetRef"] == {
        "apiVersion": engines["apiVersion"],
        "kind": "StatefulSet",
        "name": engines["metadata"]["name"],
    }
    assert "replicas" not in engines["spec"], "the autoscaler's to say"
    assert rendered(EVERYTHING)["Deployment", "server"]["spec"]["replicas"] == 2
    adapter = yaml.safe_load((DEPLOY / "prometheus/adapter.yaml").read_text(encoding="utf-8"))["rules"]["custom"]
    rules = {rule["name"]["as"]: rule for rule in adapter}
    service = rendered(EVERYTHING)["Service", "server"]["metadata"]["name"]
    for one in scaler["metrics"]:
        assert one["object"]["describedObject"]["name"] == service
        assert "service" in rules[one["object"]["metric"]["name"]]["resources"]["overrides"]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ("{engines: {enabled: true}, secret: {existingSecret: a}}", "database.existingSecret"),
        ("{engines: {enabled: true}, database: {existingSecret: a}}", "secret.existingSecret"),
        ("{database: {existingSecret: a}, artifactStore: {url: s3://b}}", "secret.existingSecret"),
        (f"{{{NEEDED}, replicaCount: 2}}", "artifactStore.url"),
        (f"{{{NEEDED}, artifactStore: {{url: /mnt}}}}", "url"),
        ("{engines: {enabled: true, replicas: 2}}", "replicas"),
        ("{engines: {enabled: true, port: 80}}", "port"),
    ],
)
def test_what_could_not_run_is_refused_with_the_reason(values: str, says: str) -> None:
    ran = helm("template", "team", values=values)
    assert ran.returncode != 0
    assert re.search(re.escape(says), ran.stderr)
