"""Upstream's checkpoint: a node on which its pods still live is not ours to manage yet."""

import json
from collections.abc import Collection
from dataclasses import dataclass

from cni.network.desired import host_link_name


class UnreadableCheckpoint(Exception):  # noqa: N818 - named for what it says
    """The file is not a checkpoint that upstream writes."""


@dataclass(frozen=True, slots=True)
class UpstreamPod:
    """A pod in upstream's checkpoint."""

    namespace: str
    name: str
    address: str


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
    assert isinstance(metadata, dict)
    return UpstreamPod(
        str(metadata.get("k8sPodNamespace", "")),
        str(metadata.get("k8sPodName", "")),
        str(one.get("ipv4") or one.get("ipv6") or "?"),
    )
