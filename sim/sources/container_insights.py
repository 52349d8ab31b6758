"""Performance log of CloudWatch Container Insights: a record of each pod each minute.

Records of `"Type": "Pod"` carry `Timestamp` in milliseconds, `NodeName`, `pod_status`, requests,
and `kubernetes` with pod_id (the uid), pod_name, namespace_name and pod_owners.

- A pod is known by the minutes in which it was looked at. It came up to a minute before the
  first look and went up to a minute after the last, so that half a minute is added at either end.
- Looks of one node fall into one second, and so do the arrivals between two of them: bursts of up
  to a minute look sharper than they were.
- Which pods use the host's network the log does not say. `aws-node` and `kube-proxy`, which
  always do, are dropped; name others with --drop.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from sim.sources import fields
from sim.sources.importing import Advance, Importer, origin_of, read_each
from sim.sources.json_text import Json
from sim.sources.lives import Choices, Fate, Imported, Life, Lives, greatest, least
from sim.sources.log_records import LAYOUT, message_of
from sim.sources.pod_object import TERMINAL, name_life
from sim.sources.pods import TraceError

PERIOD_S = 60.0
"""The agent's default between two looks."""
_MILLI = 1000.0
_MIB = 1 << 20
_REQUEST_MAX = 1e15
HOST_NETWORK = frozenset({"aws-node", "kube-proxy"})
"""DaemonSets of every EKS cluster whose manifests ask for the host's network."""

HOW_TO = """\
Container Insights must be on for the cluster. One day, by an export to S3:

  aws logs create-export-task \\
      --log-group-name /aws/containerinsights/CLUSTER/performance \\
      --from $(date -d '1 day ago' +%s000) --to $(date +%s000) \\
      --destination BUCKET --destination-prefix insights
  aws s3 sync s3://BUCKET/insights insights
  warmbench trace import container-insights insights/*/*/*.gz --out trace.parquet

Less, without a bucket:

  aws logs filter-log-events --log-group-name /aws/containerinsights/CLUSTER/performance \\
      --filter-pattern '{ $.Type = "Pod" }' \\
      --start-time $(date -d '2 hours ago' +%s000) --output json > insights.json

Pods are seen once a minute: shorter ones are missed, and times are right to half a minute."""


class _Reader:
    """Takes in looks at pods in any order."""

    def __init__(self) -> None:
        self.lives = Lives()
        self._tally = self.lives.tally
        self._looks: dict[str, tuple[float, float, float]] = {}
        """First look at each pod, last one while it ran, first one when it had ended."""

    def take(self, record: Json) -> None:
        """Take in one record."""
        one = message_of(record)
        kind = fields.text(one, "Type")
        if not kind:
            allowed = "records of the log group /aws/containerinsights/CLUSTER/performance"
            raise TraceError("no performance record", field="Type", allowed=allowed)
        if kind != "Pod":
            self._tally.add(Fate.READ, "records about other things")
            return
        when = fields.number(one, "Timestamp") / _MILLI
        now_s = fields.unix_time(when, fields.field(one, "Timestamp"), "Timestamp")
        about = fields.field(one, "kubernetes")
        namespace, pod = fields.name(about, "namespace_name"), fields.name(about, "pod_name")
        uid = fields.name(about, "pod_id")
        if not uid and not pod:
            raise TraceError("missing", field="kubernetes.pod_id", allowed="the uid of a pod")
        life = self.lives.of(uid or f"{namespace}/{pod}")
        if not uid:
            life.guess = "without a uid: one pod by namespace and name"
        self.lives.saw(now_s)
        name_life(life, namespace, pod)
        life.node = fields.name(one, "NodeName") or fields.name(about, "host") or life.node
        self._owners(life, about)
        life.cpu_m = max(life.cpu_m, _request(one, "pod_cpu_request", 1))
        life.memory_mib = max(life.memory_mib, _request(one, "pod_memory_request", _MIB))
        self._look(uid or life.name, now_s, ended=fields.text(one, "pod_status") in TERMINAL)

    def _look(self, key: str, now_s: float, *, ended: bool) -> None:
        first, ran, done = self._looks.get(key, (now_s, math.nan, math.nan))
        if ended:
            done = least(done, now_s)
        else:
            ran = greatest(ran, now_s)
        self._looks[key] = (min(first, now_s), ran, done)

    def _owners(self, life: Life, about: Json) -> None:
        for owner in fields.items(about, "pod_owners"):
            is_daemon_set = fields.text(owner, "owner_kind") == "DaemonSet"
            life.daemon_set |= is_daemon_set
            if is_daemon_set and fields.text(owner, "owner_name") in HOST_NETWORK:
                life.host_network = True

    def close(self) -> None:
        """Turn looks into lives."""
        start_s, end_s = self.lives.start_s, self.lives.end_s
        for key, (first_s, ran_s, done_s) in self._looks.items():
            life = self.lives.of(key)
            came_s = first_s - PERIOD_S / 2 if first_s != done_s else first_s - PERIOD_S
            # What was there at the first look of all may have been there for long.
            if first_s - PERIOD_S >= start_s:
                life.asked_s = came_s
            if not math.isnan(done_s):
                life.removed_s = done_s - PERIOD_S / 2
            elif ran_s + PERIOD_S <= end_s:
                life.removed_s = ran_s + PERIOD_S / 2
            if not life.guess:
                life.guess = "known by looks a minute apart: half a minute is added at either end"


def _request(one: Json, name: str, unit: int) -> int:
    asked = fields.number(one, name)
    if math.isnan(asked):
        return 0
    if not 0 <= asked <= _REQUEST_MAX:
        fields.refuse((name,), asked, "not a request", f"from 0 to {_REQUEST_MAX:g}")
    return math.ceil(asked / unit)


def read(paths: Sequence[Path], choices: Choices, advance: Advance) -> Imported:
    """Return the trace in a performance log; TraceError with file and line where it is broken."""
    reader = _Reader()
    read_each(paths, LAYOUT, advance, reader.lives.tally, reader.take)
    reader.close()
    return reader.lives.imported(origin_of(paths), choices)


CONTAINER_INSIGHTS = Importer(
    "container-insights", "performance log of CloudWatch Container Insights", HOW_TO, read
)
