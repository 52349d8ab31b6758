"""The audit log of a Kubernetes API server (audit.k8s.io/v1), as EKS gives it to CloudWatch.

What EKS logs (audit policy in the EKS best practices guide): changes of pods with request and
response, the kubelets' patches of pods/status with the request alone.

- A pod arrives when it is bound to its node: `create` of `pods/binding`.
- It ends when the kubelet's patch tells a terminal phase (a Job's pod, an evicted one), else when
  the object is removed, which the kubelet does once the sandbox is gone (`delete` with a grace of
  0 s). Where both lie outside the log, the end of the grace that was asked for counts.
- Everything is joined by uid: `deletecollection` names no pod, names come again.
- The log may come in any order and with records twice. Files of `kubectl get pods -A -o json`
  may be among it: they tell of the pods that were there all along and that no record is about.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from sim.sources import fields, pod_object
from sim.sources.importing import Advance, Importer, origin_of, read_each
from sim.sources.json_text import Json
from sim.sources.lives import Choices, Fate, Imported, Life, Lives, least
from sim.sources.log_records import LAYOUT, message_of
from sim.sources.pods import TraceError

_GROUP = "audit.k8s.io/"
_FAILED = 300
"""Status codes from here on changed nothing."""

HOW_TO = """\
Control plane logging of type "audit" must be on. One day, by an export to S3:

  aws logs create-export-task --log-group-name /aws/eks/CLUSTER/cluster \\
      --log-stream-name-prefix kube-apiserver-audit \\
      --from $(date -d '1 day ago' +%s000) --to $(date +%s000) \\
      --destination BUCKET --destination-prefix audit
  aws s3 sync s3://BUCKET/audit audit
  kubectl get pods -A -o json > pods.json
  warmbench trace import audit pods.json audit/*/*/*.gz --out trace.parquet

Less, without a bucket (all pages are fetched; a day of a large cluster takes long):

  aws logs filter-log-events --log-group-name /aws/eks/CLUSTER/cluster \\
      --log-stream-name-prefix kube-apiserver-audit \\
      --filter-pattern '{ $.objectRef.resource = "pods" && $.verb != "get" }' \\
      --start-time $(date -d '2 hours ago' +%s000) --output json > audit.json

Elsewhere: the files of --audit-log-path, with a policy that logs pods at RequestResponse.

pods.json is optional. It adds the pods that were there all along and that the log does not
mention. Without it they are missing, and so are their addresses."""


class _Reader:
    """Takes in events and pods in any order."""

    def __init__(self) -> None:
        self.lives = Lives()
        self._tally = self.lives.tally

    def take(self, record: Json) -> None:
        """Take in one record of the log, or a pod of a list."""
        one = message_of(record)
        kind = fields.text(one, "kind")
        if kind == "Pod":
            self._tally.add(Fate.READ, "pods in lists")
            pod_object.absorb(self.lives, one)
        elif kind == "Event" and fields.text(one, "apiVersion").startswith(_GROUP):
            self._take_event(one)
        elif kind in {"List", "PodList", "EventList"}:
            return  # It has no items.
        else:
            found = kind or "no kind"
            reason = "no audit event"
            allowed = f"kind Event of {_GROUP}v1; export the streams kube-apiserver-audit alone"
            raise TraceError(reason, field="kind", value=found, allowed=allowed)

    def _take_event(self, event: Json) -> None:
        now_s = fields.instant(event, "stageTimestamp")
        asked_s = fields.instant(event, "requestReceivedTimestamp")
        if math.isnan(now_s):
            now_s = asked_s
        if math.isnan(now_s):
            raise TraceError("missing", field="stageTimestamp", allowed="the time of the event")
        self.lives.saw(now_s)
        about = fields.field(event, "objectRef")
        if fields.text(about, "resource") != "pods" or fields.text(about, "apiGroup"):
            self._tally.add(Fate.READ, "records about other things")
            return
        code = fields.number(event, "responseStatus", "code")
        if fields.text(event, "stage") != "ResponseComplete" or not code < _FAILED:
            self._tally.add(Fate.READ, "requests that changed nothing")
            return
        if "dryRun=" in fields.text(event, "requestURI"):
            self._tally.add(Fate.READ, "requests that changed nothing")
            return
        verb = fields.text(event, "verb")
        match verb, fields.text(about, "subresource"):
            case "create", "binding":
                self._bound(event, about, now_s)
            case "create" | "update" | "patch", _:
                self._changed(event, about, now_s)
            case "delete", "":
                self._deleted(event, about, min(now_s, asked_s))
            case "deletecollection", "":
                self._collected(event)
            case _:
                self._tally.add(Fate.READ, "requests that changed nothing")

    def _pod_in(self, event: Json) -> Life | None:
        """Take in the pod that a response holds."""
        response = fields.field(event, "responseObject")
        if _kind(response) != "Pod" or fields.field(response, "metadata", "uid") is None:
            return None
        return pod_object.absorb(self.lives, response)

    def _life(self, event: Json, about: Json) -> Life | None:
        """Return the life an event is about, by whatever uid is in it."""
        life = self._pod_in(event)
        if life is not None:
            return life
        request = _request(event)
        uid = (
            fields.name(about, "uid")
            or fields.name(request, "metadata", "uid")
            or fields.name(request, "preconditions", "uid")
        )
        if not uid:
            return None
        life = self.lives.of(uid)
        pod_object.name_life(life, fields.name(about, "namespace"), fields.name(about, "name"))
        return life

    def _bound(self, event: Json, about: Json, now_s: float) -> None:
        life = self._life(event, about)
        if life is None:
            self._tally.add(Fate.DROPPED, "bindings without the pod's uid")
            return
        life.asked_s = least(life.asked_s, now_s)
        life.node = fields.name(_request(event), "target", "name") or life.node

    def _changed(self, event: Json, about: Json, now_s: float) -> None:
        life = self._life(event, about)
        if life is None:
            self._tally.add(Fate.READ, "changes of pods without their uid")
            return
        status = fields.field(_request(event), "status")
        if status is None:
            return
        pod_object.absorb_status(life, status)
        if pod_object.has_address(status):
            life.addressed_s = least(life.addressed_s, now_s)
        if fields.text(status, "phase") in pod_object.TERMINAL:
            life.completed_s = least(life.completed_s, now_s)

    def _deleted(self, event: Json, about: Json, now_s: float) -> None:
        life = self._life(event, about)
        if life is None:
            self._tally.add(Fate.DROPPED, "deletions without the pod's uid")
        elif _removes(event):
            life.removed_s = least(life.removed_s, now_s)

    def _collected(self, event: Json) -> None:
        """Take in the pods that a deletion of many answered with."""
        response = fields.field(event, "responseObject")
        for pod in fields.items(response, "items"):
            pod_object.absorb(self.lives, pod)

    def close(self) -> None:
        """Notice the pods that were bound and went without ever having an address."""
        for life in self.lives:
            went = not (math.isnan(life.removed_s) and math.isnan(life.completed_s))
            life.is_unserved = went and not math.isnan(life.asked_s) and not life.has_address


def _request(event: Json) -> Json:
    """Return the body of a request; a JSON patch, a list of operations, tells nothing of a life."""
    body = fields.field(event, "requestObject")
    return None if isinstance(body, list) else body


def _kind(response: Json) -> str:
    return fields.text(response, "kind")


def _removes(event: Json) -> bool:
    """Say whether a deletion removes the object, rather than start its grace.

    Registry strategy of pods: no grace for those without a node and for those that have ended.
    """
    if fields.number(_request(event), "gracePeriodSeconds") == 0:
        return True
    if "gracePeriodSeconds=0" in fields.text(event, "requestURI"):
        return True
    response = fields.field(event, "responseObject")
    if _kind(response) != "Pod":
        return False
    return (
        fields.number(response, "metadata", "deletionGracePeriodSeconds") == 0
        or not fields.text(response, "spec", "nodeName")
        or fields.text(response, "status", "phase") in pod_object.TERMINAL
    )


def read(paths: Sequence[Path], choices: Choices, advance: Advance) -> Imported:
    """Return the trace in an audit log; TraceError with file and line where it is broken."""
    reader = _Reader()
    read_each(paths, LAYOUT, advance, reader.lives.tally, reader.take)
    reader.close()
    return reader.lives.imported(origin_of(paths), choices)


AUDIT = Importer("audit", "Kubernetes or EKS audit log, bare or from CloudWatch", HOW_TO, read)
