"""An audit log of any size, made up: what `make soak` and the tests of its reader feed on.

Pods come by the second in the order of a real log: creation, binding, the kubelet's first patch,
the last one, the deletions; between them the records that are most of a real log and that an
importer passes over. The shape of each record is that of `audit.k8s.io/v1`.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from heapq import heappop, heappush
from random import Random

START_S = 1_772_359_200
NODES = 50
LIFE_MEAN_S = 120.0
OTHERS_A_POD = 12
_PADDING = {"kubernetes.io/description": "x" * 900}


@dataclass(frozen=True, slots=True)
class Log:
    """Parameters of a log: how many pods a second, how many records about other things."""

    seed: int = 0
    pods_a_second: float = 5.0
    others_a_pod: int = OTHERS_A_POD


def lines(log: Log) -> Iterator[tuple[str, int]]:
    """Give lines without end, each with the number of pods that have come so far."""
    random = Random(log.seed)
    now, pods = float(START_S), 0
    pending: list[tuple[float, int, str]] = []
    order = 0
    while True:
        now += random.expovariate(log.pods_a_second)
        while pending and pending[0][0] <= now:
            yield heappop(pending)[2], pods
        node = f"ip-10-0-{random.randrange(NODES)}-10.ec2.internal"
        pods += 1
        for when, record in _life(pods, node, now, random.expovariate(1 / LIFE_MEAN_S)):
            order += 1
            heappush(pending, (when, order, _line(record, when)))
        for _ in range(log.others_a_pod):
            order += 1
            heappush(pending, (now, order, _line(_lease(node), now)))


def _line(record: dict[str, object], when: float) -> str:
    text = datetime.fromtimestamp(when, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    whole = record | {"requestReceivedTimestamp": text, "stageTimestamp": text}
    return json.dumps(whole, separators=(",", ":")) + "\n"


def _event(verb: str, code: int, **more: object) -> dict[str, object]:
    return {
        "kind": "Event",
        "apiVersion": "audit.k8s.io/v1",
        "level": "RequestResponse",
        "stage": "ResponseComplete",
        "verb": verb,
        "responseStatus": {"metadata": {}, "code": code},
        **more,
    }


def _lease(node: str) -> dict[str, object]:
    about = {"resource": "leases", "namespace": "kube-node-lease", "name": node}
    user = {"username": f"system:node:{node}"}
    return _event("update", 200, user=user, objectRef=about, annotations=_PADDING)


def _life(
    number: int, node: str, came: float, life_s: float
) -> Iterator[tuple[float, dict[str, object]]]:
    """Give the records of one pod, with their times."""
    uid = f"{number:08x}-0000-4000-8000-000000000000"
    name = f"web-{number:x}"
    meta = {"name": name, "namespace": "shop", "uid": uid, "annotations": _PADDING}
    about = {"resource": "pods", "namespace": "shop", "name": name, "apiVersion": "v1"}
    kubelet = {"username": f"system:node:{node}"}
    container = {"name": "main", "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}}}
    pod = {"kind": "Pod", "metadata": meta, "spec": {"containers": [container]}}
    yield came, _event("create", 201, objectRef=about, responseObject=pod)
    yield (
        came + 0.02,
        _event(
            "create",
            201,
            objectRef=about | {"subresource": "binding", "uid": uid},
            requestObject={"kind": "Binding", "target": {"kind": "Node", "name": node}},
        ),
    )
    for after, status in (
        (1.5, {"phase": "Running", "podIP": f"10.1.{number >> 8 & 255}.{number & 255}"}),
        (1.6 + life_s, {"phase": "Succeeded"}),
    ):
        patch = {"metadata": {"uid": uid}, "status": status}
        patched = about | {"subresource": "status"}
        yield (
            came + after,
            _event("patch", 200, user=kubelet, objectRef=patched, requestObject=patch),
        )
    options = {"gracePeriodSeconds": 0, "preconditions": {"uid": uid}}
    gone = came + life_s + 5.0
    yield gone, _event("delete", 200, user=kubelet, objectRef=about, requestObject=options)
