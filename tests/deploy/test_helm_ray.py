"""The chart with engines that Ray starts: KubeRay takes the cluster, the groups are known, and gateways find them."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from tests.deploy.test_helm import DEPLOY, HELM, helm, parser, rendered_parts

from multiflora_platform.configuration import configure
from multiflora_platform.on_ray.applications import application_of
from multiflora_platform.on_ray.deploy_file import GroupToDeploy, Scale, read_deploy_file
from multiflora_platform.on_ray.reach import ray_variables
from multiflora_platform.settings import Settings

pytestmark = pytest.mark.skipif(HELM is None, reason="needs helm")
SCHEMA = json.loads((Path(__file__).parent / "raycluster_schema.json").read_text(encoding="utf-8"))
NEEDED = "database: {existingSecret: db}, secret: {existingSecret: line}"
RAY = f"{{{NEEDED}, ray: {{enabled: true}}}}"
EVERYTHING = """
    model: org/model
    modelArgs: [--tokenizer, org/model]
    env: [{name: HF_TOKEN, valueFrom: {secretKeyRef: {name: hub, key: token}}}]
    replicaCount: 2
    database: {existingSecret: db}
    secret: {existingSecret: line}
    artifactStore: {url: "s3://bucket/team", existingSecret: s3}
    serviceAccountName: multiflora
    ray:
      enabled: true
      groups:
        - {group: chat, min_replicas: 2, max_replicas: 8, cpus: 8, resources: {fast: 1}, max_num_seqs: 64}
        - {group: large, model: /models/large, tensor_parallel_size: 4, gpus: 4, surge: false}
      settings: {max_lora_rank: 32}
      ports: [21000, 21009]
      minPods: 2
      head: {nodeSelector: {disk: ssd}, tolerations: [{operator: Exists}], affinity: {nodeAffinity: {}}}
    engines: {persistence: {storageClass: ssd}}
    gpus: 4
    runtimeClassName: nvidia
    imagePullSecrets: [{name: registry}]
    drainSeconds: 120
    podAnnotations: {a/b: c}
    nodeSelector: {gpu: h100}
"""
PAGE = (DEPLOY.parent / "docs" / "ray.md").read_text(encoding="utf-8")
(SHOWN,) = re.findall(r"```yaml\n(# helm install.+?)```", PAGE, re.DOTALL)
CASES = pytest.mark.parametrize("values", [RAY, EVERYTHING, SHOWN], ids=["ray", "everything", "shown"])


def rendered(values: str) -> dict[tuple[str, str], dict[str, Any]]:
    return rendered_parts(values, server="team-multiflora", ray="team-multiflora-ray")


def cluster(values: str) -> dict[str, Any]:
    spec: dict[str, Any] = rendered(values)["RayCluster", "ray"]["spec"]
    return spec


def pods(values: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of the head, and of engines."""
    (workers,) = cluster(values)["workerGroupSpecs"]
    return cluster(values)["headGroupSpec"]["template"], workers["template"]


def containers(values: str) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Ray's on the head, the one that deploys beside it, Ray's with engines."""
    (head, deploying), (engines,) = (pod["spec"]["containers"] for pod in pods(values))
    return head, deploying, engines


def deployed(values: str, folder: Path) -> list[GroupToDeploy]:
    file = folder / "deploy.yaml"
    file.write_text(rendered(values)["ConfigMap", "ray"]["data"]["deploy.yaml"], encoding="utf-8")
    return list(read_deploy_file(file, {}))


def served(values: str, folder: Path) -> Settings:
    """What a gateway is told."""
    (container,) = rendered(values)["Deployment", "server"]["spec"]["template"]["spec"]["containers"]
    file = folder / "gateway.yaml"
    file.write_text(rendered(values)["ConfigMap", "ray"]["data"]["gateway.yaml"], encoding="utf-8")
    arguments = parser().parse_args(container["args"])
    assert arguments.command == "gateway"
    assert "model" not in arguments, "it would be the first group's, whatever that says"
    assert arguments.config == mounted(container, "groups") / "gateway.yaml"
    return configure({}, {}, file).settings


def mounted(container: dict[str, Any], volume: str) -> Path:
    return next(Path(mount["mountPath"]) for mount in container["volumeMounts"] if mount["name"] == volume)


@CASES
def test_helm_finds_no_fault(values: str) -> None:
    ran = helm("lint", "--strict", values=values)
    assert ran.returncode == 0, ran.stdout


@CASES
@pytest.mark.parametrize("version", ["1.29", "1.35"])
def test_kubernetes_and_the_operator_take_it_as_their_strict_schemas_are(values: str, version: str) -> None:
    validate = pytest.importorskip("kubernetes_validate").validate
    for (kind, _), one in rendered(values).items():
        if kind != "RayCluster":
            validate(one, version, strict=True)
    jsonschema.validate(cluster(values), SCHEMA)
    for pod in pods(values):
        whole = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "a"}, "template": pod}
        validate(whole, version, strict=True)


def test_what_is_switched_on_is_there_and_nothing_else() -> None:
    ours = {("RayCluster", "ray"), ("ConfigMap", "ray"), ("NetworkPolicy", "ray")}
    server = {("Deployment", "server"), ("Service", "server"), ("PodDisruptionBudget", "server")}
    assert rendered(RAY).keys() == ours | server | {("PersistentVolumeClaim", "server")}
    assert rendered(EVERYTHING).keys() == ours | server | {("PodDisruptionBudget", "ray")}


def test_groups_are_understood_and_gateways_serve_them_all(tmp_path: Path) -> None:
    chat, large = deployed(EVERYTHING, tmp_path)
    assert (chat.name, chat.settings.model, chat.settings.max_lora_rank) == ("chat", "org/model", 32)
    assert (chat.scale.min_replicas, chat.scale.max_replicas, chat.scale.ports) == (2, 8, (21000, 21009))
    assert (large.settings.model, large.settings.tensor_parallel_size, large.scale.gpus) == ("/models/large", 4, 4)
    assert chat.settings.drain_timeout == 120
    settings = served(EVERYTHING, tmp_path)
    assert (settings.group, settings.model, settings.max_lora_rank) == ("chat", "org/model", 32)
    assert settings.models == ({"name": "large", "source": "/models/large"},)
    (only,) = deployed(RAY, tmp_path)
    assert only.name == served(RAY, tmp_path).group
    assert only.settings.model is None is served(RAY, tmp_path).model


def test_of_a_group_gateways_are_told_what_is_not_ray_s(tmp_path: Path) -> None:
    told = yaml.safe_load(rendered(EVERYTHING)["ConfigMap", "ray"]["data"]["gateway.yaml"])
    assert not told.keys() & set(Scale.__struct_fields__)
    rendered_by = (DEPLOY / "helm/multiflora/templates/_helpers.tpl").read_text(encoding="utf-8")
    (left_out,) = re.findall(r'\$ofEngines := list "device" (.+) }}', rendered_by)
    assert set(left_out.replace('"', "").split()) == set(Scale.__struct_fields__)


def test_engines_use_gpus_where_their_pods_have_some_whatever_has_joined_so_far(tmp_path: Path) -> None:
    def gpus(values: str) -> list[float]:
        made = [application_of(group, cluster_gpus=0) for group in deployed(values, tmp_path)]
        return [one["deployments"][0]["ray_actor_options"]["num_gpus"] for one in made]

    assert gpus(EVERYTHING) == [1, 4]
    assert gpus(RAY) == [0]
    assert containers(EVERYTHING)[2]["resources"]["limits"] == {"nvidia.com/gpu": "4"}
    assert "limits" not in containers(EVERYTHING)[0]["resources"]


def test_commands_and_environment_are_understood_and_ray_s_are_those_of_ray_up() -> None:
    head, deploying, engines = containers(EVERYTHING)
    arguments = parser().parse_args([one.replace("$(POD_IP)", "10.1.2.3") for one in deploying["args"]])
    assert (arguments.command, arguments.action, arguments.watch) == ("ray", "deploy", True)
    assert arguments.config == mounted(deploying, "groups") / "deploy.yaml"
    assert arguments.token_file.parent == mounted(deploying, "token")
    of_the_token = {"RAY_AUTH_TOKEN_PATH"}  # the operator hands it over as RAY_AUTH_TOKEN
    # Its default, but of a cluster at 127.0.0.1.
    loopback = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"}
    wanted = ray_variables("10.1.2.3", Path("token"))
    for container in (head, engines):
        given = {one["name"]: one.get("value") for one in container["env"]}
        assert {name: given[name] for name in wanted.keys() - of_the_token - loopback} == {
            name: value for name, value in wanted.items() if name not in of_the_token | loopback
        }
        named = {name.removeprefix("MULTIFLORA_").lower() for name in given if name.startswith("MULTIFLORA_")}
        assert {"database_url", "secret_file"} <= named <= set(Settings.model_fields)


def test_the_token_s_secret_is_the_one_that_the_operator_makes() -> None:
    """Of the cluster's name, which it cuts where it has more than 50 characters."""
    ran = helm("template", "a" * 53, values=RAY)
    objects = [one for one in yaml.safe_load_all(ran.stdout) if one and one["kind"] == "RayCluster"]
    (name,) = (one["metadata"]["name"] for one in objects)
    assert len(name) <= 50
    volumes = {one["name"]: one for one in objects[0]["spec"]["headGroupSpec"]["template"]["spec"]["volumes"]}
    assert volumes["token"]["secret"]["secretName"] == name
    assert cluster(RAY)["authOptions"] == {"mode": "token"}


def test_the_operator_is_told_which_ray_the_image_has() -> None:
    project = tomllib.loads((DEPLOY.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (needed,) = (one for one in project["optional-dependencies"]["ray"] if one.startswith("ray["))
    release = cluster(RAY)["rayVersion"].removesuffix(".0")
    assert needed.startswith(f"ray[serve]>={release},")


def test_pods_are_not_root_and_only_ray_s_head_asks_kubernetes() -> None:
    for pod, asks in zip(pods(EVERYTHING), (True, False), strict=True):
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["automountServiceAccountToken"] is asks
        assert spec["terminationGracePeriodSeconds"] > 120
        volumes = {volume["name"] for volume in spec["volumes"]}
        for container in (*spec["containers"], *spec.get("initContainers", [])):
            assert container["securityContext"]["readOnlyRootFilesystem"]
            mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
            assert {"/data", "/tmp"} <= mounts
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes


def test_what_deploys_sees_the_processes_files_and_memory_of_the_node_beside_it() -> None:
    assert pods(EVERYTHING)[0]["spec"]["shareProcessNamespace"]
    head, deploying, _ = containers(EVERYTHING)
    for volume in ("ray-logs", "shm", "tmp"):
        assert mounted(head, volume) == mounted(deploying, volume)
    assert mounted(head, "ray-logs") == Path("/tmp/ray"), "or the operator would give the autoscaler another one"


def test_gateways_alone_reach_the_lines_and_nodes_reach_each_other() -> None:
    policy = rendered(EVERYTHING)["NetworkPolicy", "ray"]["spec"]
    name = rendered(EVERYTHING)["RayCluster", "ray"]["metadata"]["name"]
    among, lines = policy["ingress"]
    assert policy["podSelector"]["matchLabels"] == {"ray.io/cluster": name}
    assert among == {"from": [{"podSelector": policy["podSelector"]}]}
    (gateways,) = lines["from"]
    labels = rendered(EVERYTHING)["Deployment", "server"]["spec"]["template"]["metadata"]["labels"]
    assert gateways["podSelector"]["matchLabels"].items() <= labels.items()
    assert lines["ports"] == [{"protocol": "TCP", "port": 21000, "endPort": 21009}]
    budget = rendered(EVERYTHING)["PodDisruptionBudget", "ray"]["spec"]
    assert (budget["minAvailable"], budget["selector"]["matchLabels"]["ray.io/node-type"]) == (1, "worker")


def test_gateways_begin_anew_when_what_they_are_told_changes_and_not_when_a_number_does() -> None:
    def checksum(ray: str) -> str:
        values = f"{{{NEEDED}, ray: {{enabled: true, {ray}}}}}"
        pod = rendered(values)["Deployment", "server"]["spec"]["template"]
        return str(pod["metadata"]["annotations"]["checksum/gateway"])

    two = checksum("groups: [{group: a, replicas: 2}]")
    assert two == checksum("groups: [{group: a, replicas: 3}]")
    assert two != checksum("groups: [{group: a, replicas: 2, max_lora_rank: 8}]")


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ("{ray: {enabled: true}, secret: {existingSecret: a}}", "database.existingSecret"),
        ("{ray: {enabled: true}, database: {existingSecret: a}}", "secret.existingSecret"),
        (f"{{{NEEDED}, ray: {{enabled: true}}, engines: {{enabled: true}}}}", "not both"),
        (f"{{{NEEDED}, ray: {{enabled: true}}, autoscaling: {{enabled: true}}}}", "min_replicas"),
        (f"{{{NEEDED}, ray: {{enabled: true, groups: [{{model: a}}]}}}}", "group"),
        (f"{{{NEEDED}, ray: {{enabled: true, groups: []}}}}", "groups"),
        (f"{{{NEEDED}, ray: {{enabled: true, replicas: 2}}}}", "replicas"),
    ],
)
def test_what_could_not_run_is_refused_with_the_reason(values: str, says: str) -> None:
    ran = helm("template", "team", values=values)
    assert ran.returncode != 0
    assert re.search(re.escape(says), ran.stderr)
