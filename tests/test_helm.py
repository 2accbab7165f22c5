"""``deploy/helm/penstock`` as Helm renders it: known to Kubernetes, to KEDA, to the Prometheus operator, and to us."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from penstock.autoscaler.backends.kubernetes import manifest
from penstock.settings import Settings
from penstock_cli.context import App
from penstock_cli.main import cli
from tests.fixtures.nodepackages import errors_of, helm

CHART = Path(__file__).parent.parent / "deploy" / "helm" / "penstock"
#: The oldest that the chart takes, and a newer one.
VERSIONS = ("1.31", "1.35")
GPU = {
    "settings": {"min": 0, "max": 8, "warm": 1, "device": "cuda", "device_memory": "20GiB"},
    "graceSeconds": 300,
    "surge": 0,
    "resources": {"limits": {"nvidia.com/gpu": 1, "memory": "32Gi"}},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "nodeSelector": {"accelerator": "l4"},
    "env": {"HF_HUB_OFFLINE": "1"},
}
PEER = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]
VARIANTS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "with a GPU pool": {"pools": {"gpu": GPU}, "models": ["embed", "answer"], "imagePullSecrets": [{"name": "ours"}]},
    "all switched on": {
        "dashboard": {"enabled": True},
        "metrics": {"podMonitor": {"enabled": True, "labels": {"release": "prometheus"}}},
        "networkPolicy": {
            "metricsFrom": PEER,
            "dashboardFrom": PEER,
            "workerEgress": [{"ports": [{"port": 443, "protocol": "TCP"}]}],
            "apiServer": {"ports": [6443], "to": [{"ipBlock": {"cidr": "10.0.0.1/32"}}]},
        },
    },
    "external": {"backend": "external", "pools": {"gpu": GPU}},
    "KEDA": {"backend": "external", "keda": {"enabled": True}, "pools": {"gpu": GPU}},
    "nothing that can be off": {"migrate": {"enabled": False}, "networkPolicy": {"enabled": False}},
}


#: What Helm has made of values: it takes a second, and many tests ask for the same.
_RENDERED: dict[str, str] = {}


def render(tmp_path: Path, values: dict[str, Any]) -> list[dict[str, Any]]:
    return [each for each in yaml.safe_load_all(_helm(tmp_path, values)) if each]


def _helm(tmp_path: Path, values: dict[str, Any]) -> str:
    text = json.dumps(values)
    if text not in _RENDERED:
        _RENDERED[text] = _run(tmp_path, text)
    return _RENDERED[text]


def _run(home: Path, values: str) -> str:
    done = subprocess.run(
        [helm(), "template", "prod", str(CHART), "--namespace", "inference", "--values", "-"],
        input=values,
        capture_output=True,
        text=True,
        timeout=120,
        env={"HOME": str(home), "PATH": "/usr/bin:/bin"},
    )
    if done.returncode:
        raise ValueError(done.stderr)
    return done.stdout


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def resources(variant: str, tmp_path: Path) -> list[dict[str, Any]]:
    return render(tmp_path, VARIANTS[variant])


def only(resources: list[dict[str, Any]], kind: str, ending: str = "") -> dict[str, Any]:
    (found,) = (each for each in resources if each["kind"] == kind and each["metadata"]["name"].endswith(ending))
    return found


def templates(resources: list[dict[str, Any]]) -> dict[str, Any]:
    """The workers' pod templates, by pool."""
    data = [each["data"] for each in resources if each["kind"] == "ConfigMap" and "data" in each]
    return {name.removesuffix(".json"): json.loads(text) for each in data for name, text in each.items()}


def pods(resources: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Every pod's spec, those of the Jobs to be included."""
    for each in resources:
        if each["kind"] in ("Deployment", "Job"):
            yield each["spec"]["template"]["spec"]
    for pod in templates(resources).values():
        yield pod["spec"]


def test_lint(tmp_path: Path) -> None:
    done = subprocess.run([helm(), "lint", "--strict", str(CHART)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_knows_every_field(resources: list[dict[str, Any]], version: str) -> None:
    validate = pytest.importorskip("kubernetes_validate").validate
    for resource in resources:
        if resource["apiVersion"].split("/")[0] not in ("keda.sh", "monitoring.coreos.com"):
            validate(resource, version, strict=True)
    owner = manifest.Owner("prod-fleet", "uid")
    for pool, pod in templates(resources).items():
        template = manifest.template(pool, pod)
        job = manifest.job(template, slot="s", attempt=1, epoch=1, fleet="penstock", ttl_s=300, owner=owner)
        validate(job, version, strict=True)


def test_a_field_that_kubernetes_does_not_know_is_found(tmp_path: Path) -> None:
    checker = pytest.importorskip("kubernetes_validate")
    resource = only(render(tmp_path, {}), "Deployment", "dispatcher")
    resource["spec"]["template"]["spec"]["restartpolicy"] = "Always"
    with pytest.raises(checker.ValidationError):
        checker.validate(resource, VERSIONS[0], strict=True)


CUSTOM = {
    "ScaledObject": ("@kubernetes-models/keda", "KedaShV1alpha1ScaledObject"),
    "PodMonitor": (
        "@kubernetes-models/prometheus-operator",
        "ComGithubPrometheusOperatorPrometheusOperatorPkgApisMonitoringV1PodMonitor",
    ),
}


@pytest.mark.parametrize(("variant", "kind"), [("KEDA", "ScaledObject"), ("all switched on", "PodMonitor")])
def test_operators_know_their_resources(resources: list[dict[str, Any]], kind: str) -> None:
    resource = only(resources, kind, "" if kind == "PodMonitor" else "-gpu")
    assert errors_of(*CUSTOM[kind], resource) == ""
    resource["spec"] = {"selector": 1, "scaleTargetRef": 1}
    assert errors_of(*CUSTOM[kind], resource) != "", "the check can fail"


def test_no_pod_can_do_more_than_it_must(resources: list[dict[str, Any]], variant: str) -> None:
    found = list(pods(resources))
    assert found
    for pod in found:
        assert pod["automountServiceAccountToken"] is (
            pod["containers"][0]["name"] == "autoscaler" and _writes(resources)
        )
        security = pod["securityContext"]
        assert security["runAsNonRoot"] and security["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["limits"]["memory"]
            writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
            assert {"/tmp", "/home/penstock/.penstock"} <= writable
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        assert not any("hostPath" in volume for volume in pod["volumes"])


def _writes(resources: list[dict[str, Any]]) -> bool:
    return any(each["kind"] == "Role" for each in resources)


def test_the_role_is_what_the_backend_is_tried_with(tmp_path: Path) -> None:
    """The served API of the backend's tests refuses everything else."""
    served = pytest.importorskip("tests.fixtures.kubernetes")
    resources = render(tmp_path, {})
    rules = only(resources, "Role")["rules"]
    assert {resource: set(rule["verbs"]) for rule in rules for resource in rule["resources"]} == served.RIGHTS
    (marks,) = (rule for rule in rules if rule["resources"] == ["configmaps"])
    assert marks["resourceNames"] == [only(resources, "ConfigMap", "-fleet")["metadata"]["name"]]
    assert not any(each["kind"].startswith("Cluster") for each in resources)


@pytest.mark.parametrize("variant", ["external", "KEDA"], indirect=True)
def test_who_only_tells_may_write_nothing(resources: list[dict[str, Any]]) -> None:
    assert not _writes(resources)
    worker = only(resources, "Deployment", "-worker-gpu")
    assert "replicas" not in worker["spec"], "an upgrade would set it back"
    assert worker["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}


def test_commands_and_their_options_exist(resources: list[dict[str, Any]]) -> None:
    for pod in pods(resources):
        command: click.Command | None = cli
        rest = list(pod["containers"][0]["args"])
        while isinstance(command, click.Group) and rest:
            command = command.get_command(click.Context(command), rest.pop(0))
        assert command is not None, pod["containers"][0]["args"]
        command.make_context("x", rest, parent=click.Context(cli, obj=App()))


def test_settings_are_known_and_the_grace_is_longer_than_the_drain(
    resources: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for pod in pods(resources):
        with monkeypatch.context() as patch:
            for variable in pod["containers"][0]["env"]:
                if variable["name"].startswith("PENSTOCK_"):
                    patch.setenv(variable["name"], variable["value"])
            patch.delenv("PENSTOCK_SECRETS_DIR")  # there is none on this machine
            settings = Settings.load()
        assert settings.models and settings.pools
        if pod["containers"][0]["name"] == "worker":
            grace_s = pod["terminationGracePeriodSeconds"]
            assert settings.worker.drain_s + 30 <= grace_s < manifest.LONGEST_GRACE_S
        if pod["containers"][0]["name"] == "autoscaler" and _writes(resources):
            assert settings.autoscaler.backend == "kubernetes"
            assert settings.autoscaler.kubernetes.fleet == only(resources, "ConfigMap", "-fleet")["metadata"]["name"]
            mounts = {mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
            assert settings.autoscaler.kubernetes.templates in mounts


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"pools": {"gpu": GPU | {"graceSeconds": 600}}}, "graceSeconds"),
        ({"pools": {"gpu": GPU | {"graceSeconds": 30}}}, "graceSeconds"),
        ({"pools": {"gpu": GPU | {"grace": 60}}}, "grace"),
        ({"pools": {"GPU": GPU}}, "GPU"),
        ({"backend": "local"}, "backend"),
        ({"dispatchers": {"replicas": 3}}, "dispatchers"),
        ({"models": []}, "models"),
        ({"settings": {"LOG_LEVEL": "debug"}}, "LOG_LEVEL"),
    ],
)
def test_values_that_cannot_be_meant_are_refused(tmp_path: Path, values: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        _helm(tmp_path, values)


def test_services_are_spread_and_survive_a_drained_node(tmp_path: Path) -> None:
    resources = render(tmp_path, {})
    for name in ("dispatcher", "autoscaler"):
        deployment, budget = only(resources, "Deployment", name), only(resources, "PodDisruptionBudget", name)
        assert deployment["spec"]["replicas"] == 2 and budget["spec"]["maxUnavailable"] == 1
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        assert budget["spec"]["selector"]["matchLabels"].items() <= labels.items()
        spread = deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]
        assert {each["topologyKey"] for each in spread} == {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}
        assert all(each["labelSelector"]["matchLabels"].items() <= labels.items() for each in spread)


def test_policies_and_monitors_select_every_pod(tmp_path: Path) -> None:
    resources = render(tmp_path, VARIANTS["all switched on"])
    labels = [each["spec"]["template"]["metadata"]["labels"] for each in resources if each["kind"] == "Deployment"]
    labels += [pod["metadata"]["labels"] for pod in templates(resources).values()]
    for kind in ("NetworkPolicy", "PodMonitor"):
        spec = only(resources, kind, "prod")["spec"]
        selector = (spec.get("podSelector") or spec["selector"])["matchLabels"]
        assert all(selector.items() <= each.items() for each in labels)
    policies = {each["metadata"]["name"]: each["spec"] for each in resources if each["kind"] == "NetworkPolicy"}
    assert policies["prod"]["policyTypes"] == ["Ingress", "Egress"]
    api = policies["prod-autoscaler"]["egress"]
    assert api == [{"ports": [{"port": 6443, "protocol": "TCP"}], "to": [{"ipBlock": {"cidr": "10.0.0.1/32"}}]}]
    assert policies["prod-autoscaler"]["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "autoscaler"


def test_another_template_restarts_the_autoscaler(tmp_path: Path) -> None:
    def checksum(values: dict[str, Any]) -> str:
        deployment = only(render(tmp_path, values), "Deployment", "autoscaler")
        return str(deployment["spec"]["template"]["metadata"]["annotations"]["checksum/pools"])

    assert checksum({}) == checksum({"dispatcher": {"replicas": 3}})
    assert checksum({}) != checksum({"image": {"tag": "2"}})


def test_no_registry_is_named() -> None:
    for path in CHART.rglob("*"):
        if path.is_file():
            text = path.read_text()
            assert "docker.io" not in text and "ghcr.io" not in text and "registry." not in text, path
