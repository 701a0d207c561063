"""What is deployed agrees with the relay, its image and itself, whether files, Kustomize or Helm make it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from flowserver import __version__
from flowserver.config.environment import load, unknown_settings
from flowserver.config.file import load_topology
from flowserver.config.settings import SETTINGS
from tests.support.lab import Lab

from .manifests import (
    COMPONENTS,
    EVERYTHING,
    KUBERNETES,
    ROOT,
    Manifest,
    Manifests,
    documents,
    from_files,
    kustomized,
    rendered,
)

Labels = Mapping[str, str]


@pytest.fixture(scope="module", params=["files", "kustomize", "helm"])
def deployed(request: pytest.FixtureRequest) -> Manifests:
    """Everything, options included."""
    if request.param == "files":
        return from_files()
    return kustomized("example") if request.param == "kustomize" else rendered(*EVERYTHING)


def seconds(text: str) -> float:
    """A time as settings write it."""
    match = re.fullmatch(r"(\d+)(ms|s|m|h)?", text)
    assert match, text
    return int(match[1]) * {None: 1, "ms": 0.001, "s": 1, "m": 60, "h": 3600}[match[2]]


def everywhere(value: Any, key: str) -> Iterator[Any]:
    """What `key` has, at any depth."""
    if isinstance(value, dict):
        if key in value:
            yield value[key]
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from everywhere(each, key)


# --- the relay ---


def test_what_is_set_are_settings(deployed: Manifests) -> None:
    names = {*deployed.settings, *(each["name"] for each in deployed.container["env"])}
    assert names - {entry.env for entry in SETTINGS} == set()


def test_the_configuration_is_one_that_the_relay_takes(deployed: Manifests, tmp_path: Path) -> None:
    """And it lets nobody in: its only tenant has no key."""
    path = Path(deployed.settings["FLOW_CONFIG"])
    (mount,) = deployed.container["volumeMounts"]
    (volume,) = deployed.pod["volumes"]
    files = deployed.one("ConfigMap", volume["configMap"]["name"])["data"]
    assert (mount["name"], mount["mountPath"], path.name in files) == (volume["name"], str(path.parent), True)
    (tmp_path / path.name).write_text(files[path.name], encoding="utf-8")
    environ = {**deployed.settings, "FLOW_CONFIG": str(tmp_path / path.name), "OPENAI_API_KEY": "key"}
    assert unknown_settings(environ) == []
    topology = load_topology(load(environ), environ)
    assert topology.upstreams
    assert topology.tenants
    assert re.findall(r'^key_sha256 = "(.*)"$', files[path.name], re.MULTILINE) == ["0" * 64]


def test_keys_come_from_a_secret_that_is_none_of_ours(deployed: Manifests) -> None:
    assert deployed.of("Secret") == []
    (named,) = [each["secretRef"] for each in deployed.container["envFrom"] if "secretRef" in each]
    assert named == {"name": "flowserver-secrets"}, "optional, the relay would start without its keys"
    secret = {entry.env for entry in SETTINGS if entry.secret}
    assert deployed.settings.keys() & secret == set()


async def test_probes_and_scrapes_ask_for_pages_that_are_there(lab: Lab) -> None:
    deployed = from_files()
    relay = await lab.relay("http://127.0.0.1:9")
    probes = [deployed.container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "readiness", "liveness")]
    scrapes = [each for monitor in deployed.of("ServiceMonitor") for each in monitor["spec"]["endpoints"]]
    assert [probe["path"] for probe in probes] == ["/healthz", "/readyz", "/healthz"]
    for asked in (*probes, *scrapes):
        assert asked["port"] == "admin"
        assert (await relay.page(asked["path"])).status == 200


def test_ports_agree(deployed: Manifests) -> None:
    assert deployed.settings["FLOW_LISTEN"] == f":{deployed.port('http')}"
    assert deployed.settings["FLOW_ADMIN_LISTEN"] == f":{deployed.port('admin')}"
    ports = {port["name"] for pod in deployed.pods for each in pod["spec"]["containers"] for port in each["ports"]}
    for service in deployed.of("Service"):
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    for policy in deployed.of("NetworkPolicy"):
        assert {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]} <= ports
    probed = {found["port"] for found in everywhere(deployed.container, "httpGet")}
    assert probed == {"admin"}


def test_workers_are_as_many_as_the_cores_that_are_requested(deployed: Manifests) -> None:
    (workers,) = [each for each in deployed.container["env"] if each["name"] == "FLOW_WORKERS"]
    assert workers["valueFrom"] == {"resourceFieldRef": {"resource": "requests.cpu", "divisor": "1"}}
    assert int(deployed.container["resources"]["requests"]["cpu"]) >= 1
    assert "cpu" not in deployed.container["resources"]["limits"]


# --- leaving ---


def test_a_pod_has_more_time_to_leave_than_it_takes(deployed: Manifests) -> None:
    delay, timeout = (seconds(deployed.settings[f"FLOW_DRAIN_{name}"]) for name in ("DELAY", "TIMEOUT"))
    assert delay >= 5, "kube-proxy takes seconds to hear of it"
    assert deployed.pod["terminationGracePeriodSeconds"] >= delay + timeout + 10
    assert "lifecycle" not in deployed.container, "FLOW_DRAIN_DELAY is the one delay"


def test_a_deploy_takes_no_pod_away_before_another_serves(deployed: Manifests) -> None:
    spec = deployed.one("Deployment")["spec"]
    assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}
    assert deployed.one("PodDisruptionBudget")["spec"]["maxUnavailable"] == 1


def test_the_autoscaler_alone_says_how_many() -> None:
    assert from_files().one("Deployment")["spec"]["replicas"] == 2
    for deployed in (kustomized("example"), rendered(*EVERYTHING)):
        assert deployed.of("HorizontalPodAutoscaler")
        assert "replicas" not in deployed.one("Deployment")["spec"]


# --- safety ---


def test_pods_have_no_rights(deployed: Manifests) -> None:
    for pod in (template["spec"] for template in deployed.pods):
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"].keys() == {"requests", "limits"}
            assert "memory" in container["resources"]["limits"]
    kinds = {kind for kind, _ in deployed.all}
    assert kinds & {"Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding", "ServiceAccount"} == set()


def test_only_monitoring_reaches_the_admin_listener(deployed: Manifests) -> None:
    spec = deployed.one("NetworkPolicy")["spec"]
    assert spec["policyTypes"] == ["Ingress"]
    assert {tuple(port["port"] for port in rule["ports"]): rule.get("from") for rule in spec["ingress"]} == {
        ("http",): None,
        ("admin",): [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
    }
    published = deployed.one("Service")["spec"]["ports"]
    assert [port["targetPort"] for port in published] == ["http"]


def test_redis_is_for_the_relays_alone(deployed: Manifests) -> None:
    (rule,) = deployed.one("NetworkPolicy", "flowserver-redis")["spec"]["ingress"]
    (peer,) = rule["from"]
    assert fits(peer["podSelector"]["matchLabels"], deployed.one("Deployment")["spec"]["template"])


def test_redis_is_used_where_it_is_deployed() -> None:
    for deployed in (kustomized("example"), rendered(*EVERYTHING)):
        (url,) = [each["value"] for each in deployed.container["env"] if each["name"] == "FLOW_REDIS_URL"]
        (port,) = deployed.one("Service", "flowserver-redis")["spec"]["ports"]
        assert url == f"redis://flowserver-redis:{port['port']}/0"
        load({**deployed.settings, "FLOW_REDIS_URL": url, "FLOW_CONFIG": ""})


# --- what selects what ---


def fits(selector: Labels, labelled: Manifest) -> bool:
    labels: Labels = labelled["metadata"]["labels"]
    return selector.items() <= labels.items()


def test_selectors_select(deployed: Manifests) -> None:
    """Each exactly one kind of pod, and that of its own name."""
    selectors: list[tuple[str, Labels]] = []
    for manifest in deployed.all.values():
        kind, spec, name = manifest["kind"], manifest.get("spec", {}), manifest["metadata"]["name"]
        if kind == "Service":
            selectors.append((name, spec["selector"]))
        elif kind == "NetworkPolicy":
            selectors.append((name, spec["podSelector"]["matchLabels"]))
        elif kind in ("Deployment", "StatefulSet", "PodDisruptionBudget"):
            selectors.append((name, spec["selector"]["matchLabels"]))
    for spread in deployed.pod["topologySpreadConstraints"]:
        selectors.append(("flowserver", spread["labelSelector"]["matchLabels"]))
    assert len(selectors) == 10
    for name, selector in selectors:
        (pod,) = [pod for pod in deployed.pods if fits(selector, pod)]
        assert pod["spec"]["containers"][0]["name"] == ("redis" if name == "flowserver-redis" else "flowserver"), name


def test_prometheus_finds_one_service_and_its_port(deployed: Manifests) -> None:
    spec = deployed.one("ServiceMonitor")["spec"]
    (service,) = [each for each in deployed.of("Service") if fits(spec["selector"]["matchLabels"], each)]
    assert {port["name"] for port in service["spec"]["ports"]} == {each["port"] for each in spec["endpoints"]}
    assert service["spec"]["publishNotReadyAddresses"], "pods that drain are not ready, and have streams"


def test_the_autoscaler_follows_a_gauge_of_the_relay(deployed: Manifests) -> None:
    spec = deployed.one("HorizontalPodAutoscaler")["spec"]
    assert (spec["scaleTargetRef"]["kind"], spec["scaleTargetRef"]["name"]) == ("Deployment", "flowserver")
    (metric,) = spec["metrics"]
    name = metric["pods"]["metric"]["name"]
    documented = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert re.search(rf"^\| `{name}` \| gauge \|", documented, re.MULTILINE)
    (values,) = documents(KUBERNETES / "components" / "autoscaling" / "prometheus-adapter.values.yaml")
    (rule,) = values["rules"]["custom"]
    assert rule["seriesQuery"].partition("{")[0] == name
    assert rule["resources"]["overrides"] == {"namespace": {"resource": "namespace"}, "pod": {"resource": "pod"}}
    assert rule["metricsQuery"] == "sum(<<.Series>>{<<.LabelMatchers>>}) by (<<.GroupBy>>)"
    helped = (ROOT / "deploy" / "helm" / "flowserver" / "README.md").read_text(encoding="utf-8")
    assert "prometheus-adapter.values.yaml" in helped


# --- the image ---


def test_the_image_is_that_of_the_dockerfile(deployed: Manifests) -> None:
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert deployed.container["image"].rpartition(":")[2] == __version__
    user = deployed.pod["securityContext"]
    assert f"\nUSER {user['runAsUser']}:{user['runAsGroup']}\n" in dockerfile
    assert f"\nEXPOSE {deployed.port('http')}\n" in dockerfile
    for name in ("FLOW_LISTEN", "FLOW_ADMIN_LISTEN"):
        assert re.findall(rf"^ +{name}=(\S+)", dockerfile, re.MULTILINE) == [deployed.settings[name]]
    assert deployed.container.keys() & {"command", "args"} == set(), "the image has its own"
    assert dockerfile.endswith('ENTRYPOINT ["flowserver"]\nCMD ["serve"]\n')
    assert "\nSTOPSIGNAL SIGTERM\n" in dockerfile


# --- the files ---


def test_each_file_is_used() -> None:
    folders = [KUBERNETES / "base", KUBERNETES / "example", *(KUBERNETES / "components" / name for name in COMPONENTS)]
    for folder in folders:
        (kustomization,) = documents(folder / "kustomization.yaml")
        assert kustomization["kind"] == ("Component" if folder.parent.name == "components" else "Kustomization")
        named = {"kustomization.yaml", *kustomization["resources"]}
        for generator in kustomization.get("configMapGenerator", ()):
            named |= {*generator.get("envs", ()), *generator.get("files", ())}
        assert {path.name for path in folder.iterdir()} - {"prometheus-adapter.values.yaml"} <= named
        assert all((folder / name).exists() for name in named)
    (example,) = documents(KUBERNETES / "example" / "kustomization.yaml")
    assert example["components"] == [f"../components/{name}" for name in ("monitoring", "autoscaling", "redis")]
    assert len(COMPONENTS) == 3


def test_the_base_needs_nothing_that_a_cluster_may_lack() -> None:
    kinds = {kind for kind, _ in kustomized("base").all}
    assert kinds == {"ConfigMap", "Deployment", "NetworkPolicy", "PodDisruptionBudget", "Service"}
