"""The files of deploy/, read once for the tests beside this one."""

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
TEXT = (DEPLOY / "aws-node.yaml").read_text(encoding="utf-8")
DOCUMENTS: list[dict[str, Any]] = list(yaml.safe_load_all(TEXT))
VERSION: str = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
    "version"
]


def document(kind: str) -> dict[str, Any]:
    """Return the only document of a kind."""
    (found,) = (one for one in DOCUMENTS if one["kind"] == kind)
    return found


def pod() -> dict[str, Any]:
    """Return the DaemonSet's pod."""
    spec: dict[str, Any] = document("DaemonSet")["spec"]["template"]["spec"]
    return spec


def containers() -> Iterator[dict[str, Any]]:
    """Yield the init container and the daemon's."""
    yield from (*pod()["initContainers"], *pod()["containers"])


def environ_of(container: dict[str, Any]) -> dict[str, str]:
    """Return a container's environment as its process sees it; field references by their path."""
    return {
        one["name"]: one["value"] if "value" in one else one["valueFrom"]["fieldRef"]["fieldPath"]
        for one in container["env"]
    }
