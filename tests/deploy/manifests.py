"""The manifests of deploy/: from their files, as Kustomize builds them, and as Helm renders them."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.peers import program

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")

ROOT = Path(__file__).resolve().parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"
COMPONENTS = sorted(path.name for path in (KUBERNETES / "components").iterdir())
CHART = ROOT / "deploy" / "helm" / "flowserver"
EVERYTHING = ("redis.enabled=true", "autoscaling.enabled=true", "serviceMonitor.enabled=true")
"""What gives the chart all that the components have."""
NAME = "flowserver"

Manifest = dict[str, Any]


class Manifests:
    """All that is deployed together, by kind and name."""

    def __init__(self, found: list[Manifest]) -> None:
        self.all = {(each["kind"], each["metadata"]["name"]): each for each in found}
        assert len(self.all) == len(found), "one name twice"

    def of(self, kind: str) -> list[Manifest]:
        return [each for (its, _), each in self.all.items() if its == kind]

    def one(self, kind: str, name: str = NAME) -> Manifest:
        return self.all[kind, name]

    @property
    def pods(self) -> list[Manifest]:
        """The templates of all pods."""
        return [each["spec"]["template"] for kind in ("Deployment", "StatefulSet") for each in self.of(kind)]

    @property
    def pod(self) -> Manifest:
        """What the relay's pods are made from: its specification."""
        spec: Manifest = self.one("Deployment")["spec"]["template"]["spec"]
        return spec

    @property
    def container(self) -> Manifest:
        (container,) = self.pod["containers"]
        assert isinstance(container, dict)
        return container

    @property
    def settings(self) -> dict[str, str]:
        """Those of the ConfigMap."""
        data: dict[str, str] = self.one("ConfigMap", f"{NAME}-env")["data"]
        return data

    def port(self, name: str) -> int:
        """The number of one of the relay's ports."""
        (number,) = [port["containerPort"] for port in self.container["ports"] if port["name"] == name]
        return int(number)


def documents(path: Path) -> list[Manifest]:
    return parsed(path.read_text(encoding="utf-8"))


def parsed(text: str) -> list[Manifest]:
    return [document for document in yaml.safe_load_all(text) if document is not None]


def resources(folder: Path) -> Iterator[Path]:
    """The files that a kustomization lists."""
    (kustomization,) = documents(folder / "kustomization.yaml")
    yield from (folder / name for name in kustomization["resources"] if name.endswith(".yaml"))


def from_files() -> Manifests:
    """Base and components, without what Kustomize does to them."""
    base = KUBERNETES / "base"
    folders = [base, *(KUBERNETES / "components" / name for name in COMPONENTS)]
    found = [document for folder in folders for path in resources(folder) for document in documents(path)]
    lines = (base / "flowserver.env").read_text(encoding="utf-8").splitlines()
    env = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    file = {"flowserver.toml": (base / "flowserver.toml").read_text(encoding="utf-8")}
    for name, data in ((f"{NAME}-env", env), (f"{NAME}-config", file)):
        found.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
    return Manifests(found)


def kustomized(folder: str) -> Manifests:
    return Manifests(parsed(kustomize(folder)))


def kustomize(folder: str) -> str:
    """What it prints, without the hashes in the names of ConfigMaps."""
    built = _run(program("kubectl"), "kustomize", str(KUBERNETES / folder))
    return re.sub(r"\b(flowserver-(?:env|config))-[0-9a-z]{10}$", r"\1", built, flags=re.MULTILINE)


def rendered(*values: str, release: str = NAME) -> Manifests:
    return Manifests(parsed(helm("template", release, str(CHART), *_set(values))))


def helm(*arguments: str) -> str:
    return _run(program("helm"), *arguments)


def refused(*values: str) -> str:
    """Why the chart does not take these values."""
    command = [program("helm"), "template", NAME, str(CHART), *_set(values)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode, "taken"
    return done.stderr


def _set(values: tuple[str, ...]) -> list[str]:
    return [argument for value in values for argument in ("--set", value)]


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
