"""The Helm chart deploys what Kustomize does, and refuses values that would not work."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest

from flowserver import __version__
from flowserver.config.settings import SETTINGS
from tests.support.peers import program, run

from .manifests import (
    CHART,
    EVERYTHING,
    KUBERNETES,
    NAME,
    Manifest,
    Manifests,
    documents,
    from_files,
    helm,
    kustomize,
    kustomized,
    refused,
    rendered,
)

MADE_BY_HELM = (
    "app.kubernetes.io/instance",
    "app.kubernetes.io/managed-by",
    "app.kubernetes.io/version",
    "helm.sh/chart",
)
VERSIONS = ("1.27", "1.35")
"""The oldest that the chart names, and a recent one."""


def values() -> Manifest:
    (document,) = documents(CHART / "values.yaml")
    return document


def test_the_chart_has_the_version_of_the_relay() -> None:
    (chart,) = documents(CHART / "Chart.yaml")
    assert chart["appVersion"] == __version__
    assert chart["kubeVersion"] == f">={VERSIONS[0]}.0-0"


def test_the_defaults_are_those_of_kustomize() -> None:
    deployed, default = from_files(), values()
    assert default["config"] == deployed.one("ConfigMap", "flowserver-config")["data"]["flowserver.toml"]
    assert default["resources"] == deployed.container["resources"]
    assert default["replicas"] == deployed.one("Deployment")["spec"]["replicas"]
    assert (
        default["redis"]["image"]
        == deployed.one("StatefulSet", "flowserver-redis")["spec"]["template"]["spec"]["containers"][0]["image"]
    )


def test_the_schema_knows_each_value_and_no_other() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))

    def agree(schema: dict[str, Any], given: Manifest, place: str) -> None:
        if schema.get("additionalProperties") is False:
            assert given.keys() == schema["properties"].keys() - {"global"}, place
            for name, value in given.items():
                if isinstance(value, dict):
                    agree(schema["properties"][name], value, f"{place}.{name}")

    agree(schema, values(), "values")


def test_settings_that_the_chart_makes_are_real_and_cannot_be_set_beside_it() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    held = set(schema["properties"]["settings"]["propertyNames"]["not"]["enum"])
    assert held <= {entry.env for entry in SETTINGS}
    deployed = from_files()
    assert held == {*deployed.settings, *(each["name"] for each in deployed.container["env"])}


def test_the_readme_tells_of_each_value() -> None:
    readme = (CHART / "README.md").read_text(encoding="utf-8")
    told = set(re.findall(r"^\| `([A-Za-z.]+)`", readme, re.MULTILINE))
    named = set()
    for name, value in values().items():
        whole = not isinstance(value, dict) or not value or name == "resources"
        named |= {name} if whole else {f"{name}.{inner}" for inner in value}
    assert told == named


def test_helm_finds_no_fault() -> None:
    assert "0 chart(s) failed" in helm("lint", "--strict", str(CHART))


def plain(deployed: Manifests) -> dict[tuple[str, str], Manifest]:
    """Without what either tool adds, and with one spelling of times."""
    found = {}
    for key, manifest in deployed.all.items():
        if key[0] == "Namespace":
            continue
        manifest = copy.deepcopy(manifest)
        manifest["metadata"].pop("namespace", None)
        if key[0] == "Deployment":
            manifest["spec"]["template"]["metadata"].pop("annotations", None)
            (container,) = manifest["spec"]["template"]["spec"]["containers"]
            container.pop("imagePullPolicy", None)
            container["image"] = container["image"].rpartition("/")[2]
        if key[0] == "ConfigMap":
            manifest["metadata"].pop("labels", None)
            manifest["data"] = {name: "5m" if text == "300s" else text for name, text in manifest["data"].items()}
        found[key] = without(manifest, MADE_BY_HELM)
    return found


def without(value: Any, names: tuple[str, ...]) -> Any:
    if isinstance(value, dict):
        return {name: without(inner, names) for name, inner in value.items() if name not in names}
    return [without(inner, names) for inner in value] if isinstance(value, list) else value


def test_helm_and_kustomize_agree() -> None:
    assert plain(rendered()) == plain(kustomized("base"))
    assert plain(rendered(*EVERYTHING, "settings.FLOW_LIMITS_POLICY=closed")) == plain(kustomized("example"))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("tool", ["kustomize", "helm"])
async def test_kubernetes_would_take_it(tool: str, version: str, tmp_path: Path) -> None:
    """By the schemas of Kubernetes. That of a ServiceMonitor is not among them."""
    validate = program("kubernetes-validate")
    path = tmp_path / "all.yaml"
    sets = [argument for value in EVERYTHING for argument in ("--set", value)]
    made = kustomize("example") if tool == "kustomize" else helm("template", NAME, str(CHART), *sets)
    path.write_text(made, encoding="utf-8")
    status, out, err = await run(validate, "--strict", "--kubernetes-version", version, str(path))
    said = (out + err).decode()
    assert status == 0, said
    assert said.count(" passed ") >= 11, said
    path.write_text(made.replace("enableServiceLinks:", "enableServiceLink:"), encoding="utf-8")
    status, _, _ = await run(validate, "--strict", "--kubernetes-version", version, str(path))
    assert status, "it takes anything"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("settings.FLOW_LISTEN=:80", "FLOW_LISTEN"),
        ("settings.FLOW_DRAIN_TIMEOUT=1h", "FLOW_DRAIN_TIMEOUT"),
        ("settings.FLOW_MAX_TOKENS=4000", "FLOW_MAX_TOKENS"),
        ("settings.MAX_TOKENS=x", "MAX_TOKENS"),
        ("replicas=0", "replicas"),
        ("replica=3", "replica"),
        ("resources.requests.cpu=null", "cpu"),
        ("drain.timeoutSeconds=5m", "timeoutSeconds"),
        ("service.type=ExternalName", "type"),
        ("redis.storage=lots", "storage"),
        ("networkPolicy.monitoringNamespace=", "monitoringNamespace"),
        ("config=", "config"),
    ],
)
def test_values_that_cannot_work_are_refused(value: str, said: str) -> None:
    assert said in refused(value)


def test_the_grace_period_follows_the_drain() -> None:
    deployed = rendered("drain.timeoutSeconds=3600", "drain.delaySeconds=30")
    assert deployed.settings["FLOW_DRAIN_TIMEOUT"] == "3600s"
    assert deployed.settings["FLOW_DRAIN_DELAY"] == "30s"
    assert deployed.pod["terminationGracePeriodSeconds"] == 3655


def test_a_change_of_the_configuration_is_a_rolling_update() -> None:
    def template(*given: str) -> Any:
        return rendered(*given).one("Deployment")["spec"]["template"]

    assert template() == template("replicas=3")
    assert template() != template("settings.FLOW_MAX_BODY=1m")


def test_releases_do_not_meet() -> None:
    """Two in one namespace share no name, and select their own pods only."""
    one, two = rendered(*EVERYTHING, release="one"), rendered(*EVERYTHING, release="two")
    assert one.all.keys() & two.all.keys() == set()
    assert ("Deployment", "one-flowserver") in one.all
    for kind, name in (("Service", "one-flowserver"), ("Service", "one-flowserver-redis")):
        selector = one.one(kind, name)["spec"]["selector"]
        assert not any(selector.items() <= pod["metadata"]["labels"].items() for pod in two.pods)
    (monitor,) = one.of("ServiceMonitor")
    assert monitor["spec"]["selector"]["matchLabels"]["app.kubernetes.io/instance"] == "one"
    env = one.one("Deployment", "one-flowserver")["spec"]["template"]["spec"]["containers"][0]["env"]
    assert {"name": "FLOW_REDIS_URL", "value": "redis://one-flowserver-redis:6379/0"} in env


def test_what_is_off_is_not_there() -> None:
    deployed = rendered("secret=", "networkPolicy.enabled=false")
    assert not any("secretRef" in each for each in deployed.container["envFrom"])
    assert {kind for kind, _ in deployed.all} == {"ConfigMap", "Deployment", "PodDisruptionBudget", "Service"}
    assert [name for kind, name in rendered().all if "redis" in name] == []


def test_the_base_is_where_the_reasons_are() -> None:
    """The chart's comments send readers there."""
    assert "No preStop hook" in (KUBERNETES / "base" / "deployment.yaml").read_text(encoding="utf-8")
    assert "deploy/kubernetes" in (CHART / "values.yaml").read_text(encoding="utf-8")
