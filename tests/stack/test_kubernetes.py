"""The manifests for Kubernetes are what its schemas allow, and agree with the compose file. No cluster is needed."""

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from creditfold.common.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))["services"]
#: Of Kubernetes, the oldest that is still kept.
VERSION = "1.33"
PROCESSES = ("worker", "publisher", "delivery", "door")


def manifests() -> list[dict[str, Any]]:
    """All that is applied, in its order."""
    listed = yaml.safe_load((FOLDER / "kustomization.yaml").read_text("utf-8"))["resources"]
    return [one for name in listed for one in yaml.safe_load_all((FOLDER / name).read_text("utf-8"))]


def containers() -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """By component: the pod, and its container."""
    found = {}
    for one in manifests():
        if one["kind"] in ("Deployment", "Job"):
            pod = one["spec"]["template"]["spec"]
            (container,) = pod["containers"]
            found[container["name"]] = pod, container
    return found


def test_every_file_is_listed() -> None:
    listed = yaml.safe_load((FOLDER / "kustomization.yaml").read_text("utf-8"))["resources"]
    assert sorted([*listed, "kustomization.yaml"]) == sorted(path.name for path in FOLDER.iterdir())


@pytest.mark.parametrize("one", manifests(), ids=lambda one: f"{one['kind']} {one['metadata']['name']}")
def test_a_manifest_is_what_the_schema_allows(one: dict[str, Any]) -> None:
    """Strictly: a field that there isn't would be ignored without a word."""
    kubernetes_validate.validate(one, VERSION, strict=True)


def test_a_misspelt_field_is_found() -> None:
    (found, *_) = (one for one in manifests() if one["kind"] == "Deployment")
    found["spec"]["replica"] = found["spec"].pop("replicas")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(found, VERSION, strict=True)


@pytest.mark.parametrize("name", ["init", *PROCESSES])
def test_each_runs_as_in_compose(name: str) -> None:
    """The same image and command, as no root and on a disk that can't be written to, with its own secret."""
    pod, container = containers()[name]
    assert container["image"] == SERVICES[name]["image"]
    assert [word for word in container["args"] if word != "--json-logs"] == SERVICES[name]["command"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert str(pod["securityContext"]["runAsUser"]) in (ROOT / "deploy" / "Dockerfile").read_text("utf-8")
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["envFrom"][1] == {"secretRef": {"name": f"creditfold-{name}"}}


@pytest.mark.parametrize("name", PROCESSES)
def test_each_is_judged_by_its_own_check(name: str) -> None:
    """Ready if it does its work; restarted for what a restart may mend alone."""
    _, container = containers()[name]
    check = SERVICES[name]["healthcheck"]["test"][1:]
    assert container["readinessProbe"]["exec"]["command"] == check
    assert container["livenessProbe"]["exec"]["command"] == [*check, "--live"]
    assert {port["name"] for port in container["ports"]} >= {"metrics"}


def test_each_variable_is_a_setting() -> None:
    (settings,) = (one["data"] for one in manifests() if one["kind"] == "ConfigMap")
    assert set(settings) <= {f"CREDITFOLD_{name.upper()}" for name in Settings.model_fields}
    assert {name: value for name, value in settings.items() if name.endswith("_METRICS_ADDRESS")} == {
        name: value for name, value in SERVICES["worker"]["environment"].items() if name.endswith("_METRICS_ADDRESS")
    }
