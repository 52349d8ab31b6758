"""Series of kube-state-metrics, as Prometheus' HTTP API gives them (`/api/v1/query_range`).

All series carry namespace, pod and uid, and are joined by uid.

- `kube_pod_info` is the one that is needed: which pods there were, between which samples, on which
  node and in which network.
- `kube_pod_status_scheduled_time` is the arrival, else `kube_pod_created`.
- `kube_pod_completion_time` is the end of a Job's pod; every other ends with its last sample of
  `kube_pod_info`, which is right to within a step. A last sample within a step of the
  record's end is no end.
- `kube_pod_container_resource_requests` gives CPU and memory.

A pod that comes and goes between two scrapes is in no series. `increase(awscni_add_ip_req_count
[1d])` counts every ADD and tells how many these are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from sim.sources import fields
from sim.sources.importing import Advance, Importer, origin_of, read_each
from sim.sources.json_text import Json, Layout
from sim.sources.lives import Choices, Fate, Imported, Lives, least
from sim.sources.pod_object import name_life
from sim.sources.pods import TraceError

LAYOUT = Layout(lists=("result",), under="data")
INFO = "kube_pod_info"
REQUESTS = "kube_pod_container_resource_requests"
_TIMES = {
    "kube_pod_created": "created_s",
    "kube_pod_status_scheduled_time": "scheduled_s",
    "kube_pod_completion_time": "finished_s",
}
METRICS = (INFO, *_TIMES, REQUESTS)
_MIB = 1 << 20
_MILLI = 1000
_STEP_MAX_S = 3600.0

HOW_TO = """\
kube-state-metrics must be scraped. Ask for a day, a minute a step; `last_over_time` over one
step misses no pod that was ever scraped, and keeps the metric's name:

  PROM=http://localhost:9090  END=$(date +%s)
  for metric in kube_pod_info kube_pod_created kube_pod_status_scheduled_time \\
                kube_pod_completion_time kube_pod_container_resource_requests; do
      curl -sfG $PROM/api/v1/query_range -d start=$((END - 86400)) -d end=$END -d step=60 \\
          --data-urlencode "query=last_over_time($metric[60s])" > $metric.json
  done
  warmbench trace import prometheus kube_pod_*.json --out trace.parquet

Prometheus gives 11,000 steps at most: for more than a week, ask week by week into other files and
import them together. Pods that live shorter than the scrape interval are missed."""


class _Reader:
    """Takes in series in any order."""

    def __init__(self) -> None:
        self.lives = Lives()
        self._tally = self.lives.tally
        self._seen: dict[str, tuple[float, float]] = {}
        """The first and the last sample of each pod's kube_pod_info."""
        self._requests: dict[tuple[str, str, str], float] = {}
        self._step_s = math.inf

    def take(self, record: Json) -> None:
        """Take in one series, or an answer without any."""
        labels = fields.field(record, "metric")
        if labels is None:
            _take_answer(record)
            return
        metric = fields.name(labels, "__name__")
        if metric not in METRICS:
            if metric:
                self._tally.add(Fate.READ, "series of other metrics")
                return
            allowed = f"last_over_time({INFO}[60s]) and the like, which keep the name"
            raise TraceError("a series without a name", field="metric.__name__", allowed=allowed)
        uid = fields.name(labels, "uid")
        if not uid:
            allowed = "kube-state-metrics 2.0 or newer"
            raise TraceError("a series without uid", field="metric.uid", allowed=allowed)
        first_s, last_s, value = self._samples(record)
        life = self.lives.of(uid)
        name_life(life, fields.name(labels, "namespace"), fields.name(labels, "pod"))
        if metric == INFO:
            self.lives.saw(first_s)
            self.lives.saw(last_s)
            first, last = self._seen.get(uid, (first_s, last_s))
            self._seen[uid] = (min(first, first_s), max(last, last_s))
            life.node = fields.name(labels, "node") or life.node
            # Version 2.0 and newer have the label; what had no node yet says false as well.
            network = fields.name(labels, "host_network")
            if network:
                life.host_network = network == "true" or bool(life.host_network)
            life.daemon_set |= fields.name(labels, "created_by_kind") == "DaemonSet"
        elif metric == REQUESTS:
            self._request(uid, labels, value)
        elif not math.isnan(value):
            seen = fields.unix_time(value, value, metric)
            field = _TIMES[metric]
            setattr(life, field, least(getattr(life, field), seen))

    def _samples(self, record: Json) -> tuple[float, float, float]:
        """Return the first and the last time of a series and its last value."""
        samples = fields.items(record, "values")
        single = fields.items(record, "value")
        samples = samples or ([single] if single else [])
        if not samples:
            raise TraceError("a series without samples", field="values", allowed="a matrix")
        first_s, _ = _sample(samples[0])
        last_s, value = _sample(samples[-1])
        if last_s < first_s:
            raise TraceError("samples out of order", field="values", allowed="a matrix")
        if len(samples) > 1:
            step_s = _sample(samples[1])[0] - first_s
            if step_s > 0:
                self._step_s = min(self._step_s, step_s)
        return first_s, last_s, value

    def _request(self, uid: str, labels: Json, value: float) -> None:
        resource = fields.name(labels, "resource")
        if resource in {"cpu", "memory"} and not math.isnan(value):
            key = (uid, fields.name(labels, "container"), resource)
            self._requests[key] = fields.quantity(value, REQUESTS)

    def close(self) -> None:
        """Let pods end whose series did, and sum up what their containers ask for."""
        # Series of one sample alone tell no step; nobody records at more than an hour a step.
        step_s = self._step_s if self._step_s <= _STEP_MAX_S else 0.0
        for uid, (first_s, last_s) in self._seen.items():
            life = self.lives.of(uid)
            if first_s - step_s > self.lives.start_s:
                # Else it was there before; arrival() prefers what its other series tell.
                life.created_s = least(life.created_s, first_s)
            if math.isnan(life.finished_s) and last_s + step_s < self.lives.end_s:
                life.removed_s = last_s
                life.guess = "that ended with their last sample: right to within a step"
        for (uid, _, resource), value in self._requests.items():
            life = self.lives.of(uid)
            if resource == "cpu":
                life.cpu_m += math.ceil(value * _MILLI)
            else:
                life.memory_mib += math.ceil(value / _MIB)


def _take_answer(record: Json) -> None:
    """Pass over an answer that holds no series; refuse one that tells an error."""
    if fields.text(record, "status") == "error":
        value = fields.text(record, "error")
        raise TraceError("Prometheus answered with an error", field="error", value=value)
    if fields.text(record, "status") != "success":
        raise TraceError("no series of Prometheus", allowed="what /api/v1/query_range answers")


def _sample(sample: Json) -> tuple[float, float]:
    """Return time and value of a sample; a value may be NaN."""
    if not (isinstance(sample, list) and len(sample) == 2):  # noqa: PLR2004 - a pair
        fields.refuse(("values",), sample, "not a sample", '[seconds, "value"]')
    when = fields.unix_time(fields.as_number(sample[0], "values"), sample[0], "values")
    if isinstance(sample[1], str) and sample[1] == "NaN":
        return when, math.nan
    return when, fields.as_number(sample[1], "values")


def read(paths: Sequence[Path], choices: Choices, advance: Advance) -> Imported:
    """Return the trace in series; TraceError with file and line where they are broken."""
    reader = _Reader()
    read_each(paths, LAYOUT, advance, reader.lives.tally, reader.take)
    reader.close()
    if math.isnan(reader.lives.start_s):
        raise TraceError(f"no series of {INFO}", file=str(paths[0]), allowed=f"{INFO} among them")
    return reader.lives.imported(origin_of(paths), choices)


PROMETHEUS = Importer("prometheus", "series of kube-state-metrics from Prometheus", HOW_TO, read)
