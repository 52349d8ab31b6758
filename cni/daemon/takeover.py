"""Upstream's checkpoint: a node on which its pods still live is not ours to manage yet.

Asked twice: by the init container, before upstream's plug-in is replaced, since that can still
take its own pods down; and by the daemon, before it touches anything.
"""

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from cni.network.desired import host_link_name


class UnreadableCheckpoint(Exception):  # noqa: N818 - named for what it says
    """The file is not a checkpoint that upstream writes."""


@dataclass(frozen=True, slots=True)
class UpstreamPod:
    """A pod in upstream's checkpoint."""

    namespace: str
    name: str
    address: str


def objection(path: Path, host_links: Collection[str], prefix: str) -> str:
    """Return in one line why this node is not ours to manage, by the checkpoint at `path`.

    Empty where there is none, or where no pod in it lives. Blocks.
    """
    try:
        text = path.read_text(encoding="utf-8")
        pods = live_pods(text, host_links, prefix)
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"{path} cannot be read ({error.strerror}): whose pods live here is not known"
    except (UnicodeDecodeError, UnreadableCheckpoint) as error:
        return (
            f"{path} is no checkpoint of amazon-vpc-cni-k8s ({error}); remove it if no pod of"
            " that plug-in lives here"
        )
    if not pods:
        return ""
    shown = ", ".join(f"{pod.namespace}/{pod.name} {pod.address}" for pod in pods[:3])
    return (
        f"{len(pods)} pods of amazon-vpc-cni-k8s live here ({shown}, …): taking over live"
        f" pods is not built yet; drain this node first, then remove {path}"
    )


def live_pods(checkpoint: str, host_links: Collection[str], prefix: str) -> tuple[UpstreamPod, ...]:
    """Return the pods of a checkpoint whose host link exists; UnreadableCheckpoint otherwise.

    An entry without a pod's name (a sandbox that no Kubernetes made) counts as live: nothing
    tells that it is not. Source: amazon-vpc-cni-k8s `datastore/checkpoint.go`.
    """
    try:
        data = json.loads(checkpoint)
        allocations = data["allocations"]
        pods = [_pod(one) for one in allocations]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UnreadableCheckpoint(str(error)) from error
    return tuple(
        pod
        for pod in pods
        if not pod.name or host_link_name(prefix, pod.namespace, pod.name) in host_links
    )


def _pod(one: dict[str, object]) -> UpstreamPod:
    metadata = one.get("metadata") or {}
    if not isinstance(metadata, dict):
        raise TypeError(f"{metadata!r} is no pod")
    return UpstreamPod(
        str(metadata.get("k8sPodNamespace", "")),
        str(metadata.get("k8sPodName", "")),
        str(one.get("ipv4") or one.get("ipv6") or "?"),
    )
