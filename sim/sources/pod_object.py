"""What a Kubernetes Pod object, whole or as a patch of its status, tells of a life.

API conventions: times are RFC 3339 in whole seconds. `deletionTimestamp` is the request plus the
grace, not the end. A pod's address is held until its sandbox goes, which the kubelet removes once
every container has ended for good: `phase` Succeeded or Failed, whatever becomes of the object.
"""

from __future__ import annotations

import math

from sim.sources import fields
from sim.sources.json_text import Json
from sim.sources.lives import Life, Lives, greatest, least
from sim.sources.pods import TraceError

TERMINAL = frozenset({"Succeeded", "Failed"})
_MIB = 1 << 20
_MILLI = 1000


def uid_of(pod: Json) -> str:
    """Return a pod's uid; TraceError where it has none."""
    uid = fields.name(pod, "metadata", "uid")
    if not uid:
        raise TraceError("missing", field="metadata.uid", allowed="the uid of a pod")
    return uid


def absorb(lives: Lives, pod: Json) -> Life:
    """Take in a whole Pod object and return the life it is about."""
    life = lives.of(uid_of(pod))
    meta = fields.field(pod, "metadata")
    name_life(life, fields.name(meta, "namespace"), fields.name(meta, "name"))
    life.created_s = least(life.created_s, fields.instant(meta, "creationTimestamp"))
    life.deadline_s = greatest(life.deadline_s, fields.instant(meta, "deletionTimestamp"))
    for owner in fields.items(meta, "ownerReferences"):
        life.daemon_set |= fields.text(owner, "kind") == "DaemonSet"
    spec = fields.field(pod, "spec")
    if spec is not None:
        life.node = fields.name(spec, "nodeName") or life.node
        # The API leaves the field out where it is false.
        life.host_network = bool(fields.flag(spec, "hostNetwork")) or bool(life.host_network)
        cpu_m, memory_mib = _requests(spec)
        # Pods can be resized: the most they ever asked for, in whatever order that is read.
        life.cpu_m, life.memory_mib = max(life.cpu_m, cpu_m), max(life.memory_mib, memory_mib)
    absorb_status(life, fields.field(pod, "status"))
    return life


def name_life(life: Life, namespace: str, name: str) -> None:
    """Name a life as namespace/name."""
    if name:
        life.name = f"{namespace or 'default'}/{name}"


def absorb_status(life: Life, status: Json) -> None:
    """Take in the status of a pod, or what a patch has of it."""
    for condition in fields.items(status, "conditions"):
        of_kind = fields.text(condition, "type") == "PodScheduled"
        if of_kind and fields.text(condition, "status") == "True":
            seen = fields.instant(condition, "lastTransitionTime")
            life.scheduled_s = least(life.scheduled_s, seen)
    if math.isnan(life.scheduled_s):
        # The kubelet's first look at the pod: a moment after the binding.
        life.scheduled_s = fields.instant(status, "startTime")
    address, host = fields.text(status, "podIP"), fields.text(status, "hostIP")
    life.has_address |= bool(address)
    if address and address == host:
        life.host_network = True
    if fields.text(status, "phase") in TERMINAL:
        life.finished_s = least(life.finished_s, _finished(status))


def has_address(status: Json) -> bool:
    """Say whether a status, or a patch of one, tells an address."""
    return bool(fields.text(status, "podIP"))


def all_finished(status: Json) -> float:
    """Return when the last container ended, if all of them have; else nan."""
    containers = fields.items(status, "containerStatuses")
    ended = [fields.instant(one, "state", "terminated", "finishedAt") for one in containers]
    return max(ended) if ended and not any(map(math.isnan, ended)) else math.nan


def _finished(status: Json) -> float:
    """Return when the last container ended; nan where no container tells."""
    finished = math.nan
    for kind in ("initContainerStatuses", "containerStatuses"):
        for container in fields.items(status, kind):
            ended = fields.instant(container, "state", "terminated", "finishedAt")
            finished = greatest(finished, ended)
    return finished


def _requests(spec: Json) -> tuple[int, int]:
    """Return millicores and MiB as the scheduler counts them.

    The containers together or the largest init container, whichever is more, and the overhead.
    """
    cpu_m, memory_mib = 0, 0
    for resource in ("cpu", "memory"):
        together = sum(_asked(one, resource) for one in fields.items(spec, "containers"))
        largest = max(
            (_asked(one, resource) for one in fields.items(spec, "initContainers")), default=0.0
        )
        overhead = fields.field(spec, "overhead", resource)
        total = max(together, largest)
        if overhead is not None:
            total += fields.quantity(overhead, "spec.overhead", resource)
        if resource == "cpu":
            cpu_m = math.ceil(total * _MILLI)
        else:
            memory_mib = math.ceil(total / _MIB)
    return cpu_m, memory_mib


def _asked(container: Json, resource: str) -> float:
    value = fields.field(container, "resources", "requests", resource)
    if value is None:
        return 0.0
    return fields.quantity(value, "resources.requests", resource)
