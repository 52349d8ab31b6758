"""A watch of all pods: `kubectl get pods -A -w -o json --output-watch-events`.

Every change of a pod comes as `{"type": "ADDED" | "MODIFIED" | "DELETED", "object": {…}}`, first
an ADDED for each pod that is there, by namespace and name. No event has a time of its own, so
times are those within the objects, in whole seconds.

- A pod arrives when it was scheduled (condition PodScheduled) and ends when its last
  container did. The last object of a DELETED pod mostly tells; else the end of the grace counts.
- The record begins with the last time that the first listing shows, and ends with the last one
  that anything shows.
- A watch that broke off and was started again lists what is there: a pod that is not in the new
  listing went while nobody looked, after it was last seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from sim.sources import fields, pod_object
from sim.sources.importing import Advance, Importer, origin_of, read_each
from sim.sources.json_text import Json, Layout
from sim.sources.lives import Choices, Fate, Imported, Life, Lives, greatest
from sim.sources.pods import TraceError

LAYOUT = Layout(lists=("items",))
_TYPES = frozenset({"ADDED", "MODIFIED", "DELETED"})
_PASSED_OVER = frozenset({"BOOKMARK", "ERROR"})

HOW_TO = """\
Let this run as long as you want to record; a day is good. It needs no more than the right to
watch pods. A watch ends by itself after some hours, hence the loop:

  while sleep 1; do
      kubectl get pods -A -w -o json --output-watch-events
  done >> pods.json

Stop it with Ctrl-C twice, cut off a half-written end, and import:

  warmbench trace import watch pods.json --out trace.parquet

Times are whole seconds. A pod that comes and goes within a break of the watch is missed."""


class _Reader:
    """Takes in the events of one watch after another."""

    def __init__(self) -> None:
        self.lives = Lives()
        self._sessions_end_s: list[float] = []
        """The last time that each watch so far shows."""
        self._lists_first = False
        """Whether the first listing still goes on."""
        self._seen_in: dict[str, int] = {}
        """The number of the watch that showed a pod last, of pods that are not deleted."""
        self._run: list[str] = []
        """Pods of the latest ADDED events in the order of a listing."""
        self._before_run_s = math.nan
        """The last time that was shown before these."""
        self._last_name = ("", "")

    def take(self, record: Json) -> None:
        """Take in an event, or the Pod of a plain listing."""
        kind = fields.text(record, "kind")
        event, pod = fields.text(record, "type"), fields.field(record, "object")
        if kind == "Pod":
            event, pod = "ADDED", record
        elif kind in {"List", "PodList"} or event in _PASSED_OVER:
            return
        if event not in _TYPES:
            allowed = ", ".join(sorted(_TYPES))
            raise TraceError("no event of a watch", field="type", value=event, allowed=allowed)
        if fields.text(pod, "kind") != "Pod":
            value = fields.text(pod, "kind")
            raise TraceError("not a pod", field="object.kind", value=value, allowed="Pod")
        uid = pod_object.uid_of(pod)
        self._follow(event, uid, pod)
        life = pod_object.absorb(self.lives, pod)
        latest = _latest(pod, life)
        self._sessions_end_s[-1] = greatest(self._sessions_end_s[-1], latest)
        if event == "DELETED":
            self._seen_in.pop(uid, None)
            _remove(life, pod, latest)
        else:
            self._seen_in[uid] = len(self._sessions_end_s)

    def _follow(self, event: str, uid: str, pod: Json) -> None:
        """Notice where a watch begins, and where the first listing ends."""
        name = (fields.text(pod, "metadata", "namespace"), fields.text(pod, "metadata", "name"))
        in_order = event == "ADDED" and name > self._last_name
        session = len(self._sessions_end_s)
        if not session:
            self._sessions_end_s.append(math.nan)
            self._lists_first = True
        elif event == "ADDED" and self._seen_in.get(uid) == session:
            # What was added just before, in order, opened the listing that shows this pod again.
            shown_s = math.nan
            if in_order and not math.isnan(self._before_run_s):
                shown_s = self._sessions_end_s[-1]
                self._sessions_end_s[-1] = self._before_run_s
                self._seen_in |= {one: session + 1 for one in self._run if one in self._seen_in}
            self._sessions_end_s.append(shown_s)
        if self._lists_first and session and not in_order:
            self._lists_first = False
            self.lives.saw(self._sessions_end_s[0])
        if in_order:
            self._run.append(uid)
        else:
            self._run = [uid] if event == "ADDED" else []
            self._before_run_s = self._sessions_end_s[-1]
        self._last_name = name

    def close(self) -> None:
        """Let the record end, and every pod that was gone when the watch began again."""
        for end_s in self._sessions_end_s:
            if not math.isnan(end_s):
                self.lives.saw(end_s)
        last = len(self._sessions_end_s)
        for uid, session in self._seen_in.items():
            life = self.lives.of(uid)
            if session < last:
                life.vanished_s = self._sessions_end_s[session - 1]
        self.lives.tally.add(Fate.READ, "times the watch was started again", max(last - 1, 0))


def _latest(pod: Json, life: Life) -> float:
    """Return the last time that a pod's object tells of something that has happened."""
    latest = greatest(life.created_s, life.scheduled_s)
    latest = greatest(latest, life.finished_s)
    status = fields.field(pod, "status")
    for condition in fields.items(status, "conditions"):
        latest = greatest(latest, fields.instant(condition, "lastTransitionTime"))
    for kind in ("initContainerStatuses", "containerStatuses"):
        for container in fields.items(status, kind):
            for state, when in (("running", "startedAt"), ("terminated", "finishedAt")):
                latest = greatest(latest, fields.instant(container, "state", state, when))
    # A grace that is being served out ends later than now; its beginning has happened.
    grace = fields.number(pod, "metadata", "deletionGracePeriodSeconds")
    return greatest(latest, life.deadline_s - grace)


def _remove(life: Life, pod: Json, latest: float) -> None:
    """Note how a deleted pod ended."""
    if not math.isnan(life.finished_s):
        return
    ended = pod_object.all_finished(fields.field(pod, "status"))
    if not math.isnan(ended):
        life.finished_s = ended
    elif not math.isnan(life.deadline_s):
        life.removed_s = life.deadline_s
        life.guess = "deleted while containers ran: end is the grace's end"
    else:
        life.removed_s = latest
        life.guess = "deleted without a word: end is the last time in the object"


def read(paths: Sequence[Path], choices: Choices, advance: Advance) -> Imported:
    """Return the trace in recorded watches; TraceError with file and line where one is broken."""
    reader = _Reader()
    read_each(paths, LAYOUT, advance, reader.lives.tally, reader.take)
    reader.close()
    return reader.lives.imported(origin_of(paths), choices)


WATCH = Importer("watch", "a recorded kubectl get pods --watch", HOW_TO, read)
