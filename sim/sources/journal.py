"""The journals of our own nodes: what their allocators were asked (`cni.allocator.journal`).

This is the one record in which nothing about demand is guessed: each ADD is in it, with the
instant, whether it was served, waited or was refused, and each DEL.

- An ADD that waits in line keeps its place; it is served by `serve_waiting`.
- The kubelet makes another sandbox, of another id, 10 to 15 s after a refused one (1 to 1.5 s
  where the network was not ready), so that no id joins the two. The next ADD of a new sandbox
  that comes RETRY_MIN_S to RETRY_MAX_S after a refusal is taken for the retry of the pod refused
  the longest: a pod arrives with its first ADD and holds from the one that was served.
- A refused pod that does not come back was demand as well. Nobody knows how long it would have
  stayed; it lives until the retry that did not come.
- Every segment opens with who has an address and who waits for one. What was lost between two
  segments is told by that: sandboxes that are gone ended by then.
- Instants are the machine's monotonic clock. The names that the daemon gives to segments
  (`cni.daemon.journal_file`: 00000001-20260301T100000Z.jsonl) tell the time of day of the first
  line, in whole seconds, and lay nodes on one clock. Where one file is called otherwise, each
  node's first line is the trace's zero, and a note says so. A node is called as the folder of its
  files is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from cni.allocator.journal import FORMAT, VERSION
from sim.sources import fields
from sim.sources.importing import Advance, Importer, origin_of, read_each
from sim.sources.json_text import (
    CutOffError,
    Json,
    JsonText,
    Layout,
    located,
    open_bytes,
    records,
)
from sim.sources.lives import Choices, Fate, Imported, Life, Lives
from sim.sources.pods import TraceError

RETRY_MIN_S = 0.9
RETRY_MAX_S = 30.0
RETRY_S = 12.5
"""The middle of the kubelet's 10 to 15 s."""

_KEY = ("network", "container", "interface")
_JOINT = "\0"
"""No name has it."""
_ID_SHOWN = 12
_INSTANT_MAX = 1e11
_NAME = re.compile(r"(\d{8,})-(\d{8}T\d{6}Z)\.jsonl(\.gz)?")
_SAME_CLOCK_S = 2.0
"""Names are whole seconds: offsets closer to each other than this are one clock's."""
_NO_LIST = Layout(lists=())
_PASSED_OVER = frozenset({"next_action", "apply", "suspect"})

HOW_TO = """\
Each node keeps its journal in WARMBENCH_STATE_DIR/journal (/var/run/aws-node/journal), as long as
WARMBENCH_JOURNAL_MIB is not 0. Fetch a folder for each node, and import them all:

  for pod in $(kubectl -n kube-system get pods -l k8s-app=aws-node -o name); do
      node=$(kubectl -n kube-system get $pod -o jsonpath='{.spec.nodeName}')
      mkdir -p journals/$node
      kubectl -n kube-system exec $pod -c aws-node -- tar -C /var/run/aws-node/journal -c . |
          tar -C journals/$node -x
  done
  warmbench trace import journal journals/*/* --out trace.parquet

Demand is exact: every ADD is in the journal, refused ones too. CPU and memory are not, so replay
with nodes of the kind the pods ran on."""


@dataclass(slots=True)
class _Node:
    """What one node has told so far; everything by the key of the sandbox."""

    name: str = ""
    offset_s: float = 0.0
    """What makes an instant of its clock a time of the trace."""
    live: dict[str, Life] = field(default_factory=dict)
    trying: dict[str, Life] = field(default_factory=dict)
    """Pods without an address: waiting in line, or refused."""
    refused: dict[str, float] = field(default_factory=dict)
    """When those of them that do not wait were refused, the longest ago first."""


@dataclass(frozen=True, slots=True)
class _Segment:
    """Where a file's first header puts it."""

    path: Path
    node: str
    number: int
    """The daemon numbers segments through all its lives; 0 where the name does not tell."""
    now_s: float
    unix_s: float
    """The time of day at `now_s`; nan where the name does not tell."""

    @property
    def order(self) -> tuple[str, int, float]:
        """By node, and within it by time."""
        return self.node, self.number, self.now_s


class _Reader:
    """Takes in the segments of one node after another, in order of time."""

    def __init__(self) -> None:
        self.lives = Lives()
        self._tally = self.lives.tally
        self._made = 0
        self._node = _Node()

    def turn_to(self, name: str, offset_s: float) -> None:
        """Go on with a segment of this node, whose clock is that far from the trace's."""
        if name != self._node.name:
            self.close()
            self._node = _Node(name)
        self._node.offset_s = offset_s

    def close(self) -> None:
        """Count what a node's journal leaves open."""
        what = "pods still without an address when their journal ends"
        self._tally.add(Fate.KEPT, what, len(self._node.trying))

    def take(self, one: Json) -> None:
        """Take in one line."""
        now_s = _instant(one) + self._node.offset_s
        self.lives.saw(now_s)
        if "format" in one:
            _check_header(one)
            self._open(one, now_s)
            return
        what = fields.text(one, "in")
        if what in _PASSED_OVER:
            self._tally.add(Fate.READ, "inputs that are no demand")
            return
        self._give_up(now_s)
        if what == "serve_waiting":
            for served in fields.items(one, "answer"):
                self._serve(_key(_first_of(served)), now_s)
            return
        key = _key(fields.field(one, "sandbox"))
        match what:
            case "assign":
                refused = isinstance(fields.field(one, "answer"), dict)
                self._assign(key, now_s, refused=refused)
            case "wait":
                self._try(key, now_s)
                self._node.refused.pop(key, None)
            case "stop_waiting" if key in self._node.trying:
                self._refuse(key, now_s)
            case "release" if key in self._node.live:
                self._node.live.pop(key).removed_s = now_s
            case "stop_waiting" | "release":
                pass
            case _:
                raise TraceError("no input of an allocator", field="in", value=what)

    # Inputs.

    def _open(self, header: Json, now_s: float) -> None:
        """Compare with what a segment opens with: lines may be lost between two segments."""
        node = self._node
        # A life's begin names its assignments, a snapshot has them in its state.
        state = fields.field(header, "state")
        held = fields.items(state, "pool", "held") or fields.items(header, "assignments")
        there = {_key(fields.field(one, "sandbox")): fields.number(one, "since") for one in held}
        waiting = {
            _key(_first_of(one)): fields.as_number(one[1], "state", "waiting")
            for one in fields.items(state, "waiting")
        }
        for key in [key for key in node.live if key not in there]:
            life = node.live.pop(key)
            life.removed_s = now_s
            life.guess = "gone between two segments: end is the second one's first line"
        for key, since_s in there.items():
            if key not in node.live:
                # The clock of an earlier daemon on this machine is the same one.
                known_s = now_s if math.isnan(since_s) else since_s + node.offset_s
                self._serve(key, min(known_s, now_s))
        for key in [*node.trying]:
            if key not in waiting and key not in node.refused:
                self._refuse(key, now_s)
        for key, since_s in waiting.items():
            self._try(key, min(since_s + node.offset_s, now_s))
            node.refused.pop(key, None)

    def _assign(self, key: str, now_s: float, *, refused: bool) -> None:
        if key in self._node.live:
            return
        if refused:
            self._tally.add(Fate.READ, "ADDs that found no address at once")
            self._try(key, now_s)
            # It may be put in line by the next input; until then it is refused.
            self._refuse(key, now_s)
        else:
            self._serve(key, now_s)

    def _try(self, key: str, now_s: float) -> Life:
        """Return the pod whose ADD this is: it tries already, or comes back, or is new."""
        node = self._node
        life = node.trying.get(key)
        if life is None:
            life = node.trying[key] = self._came_back(now_s) or self._new(key)
        if math.isnan(life.asked_s):
            life.asked_s = now_s
        return life

    def _refuse(self, key: str, now_s: float) -> None:
        # Out and in again: the order is that of the last refusal.
        self._node.refused.pop(key, None)
        self._node.refused[key] = now_s

    def _serve(self, key: str, now_s: float) -> None:
        node = self._node
        life = self._try(key, now_s)
        del node.trying[key]
        node.refused.pop(key, None)
        life.served_s = now_s
        node.live[key] = life

    # Pods behind sandboxes.

    def _new(self, key: str) -> Life:
        self._made += 1
        life = self.lives.of(f"{self._made}")
        container = key.split(_JOINT)[1][:_ID_SHOWN]
        life.name = f"{self._node.name}/{container or self._made}"
        life.node = self._node.name
        life.host_network = False
        return life

    def _came_back(self, now_s: float) -> Life | None:
        """Return the pod whose retry an ADD at this instant is taken for."""
        node = self._node
        for key, refused_s in node.refused.items():
            # Those refused later are too fresh as well.
            if now_s < refused_s + RETRY_MIN_S:
                return None
            del node.refused[key]
            return node.trying.pop(key)
        return None

    def _give_up(self, now_s: float) -> None:
        """Let go of refused pods whose retry did not come."""
        node = self._node
        late = []
        for key, refused_s in node.refused.items():
            if now_s <= refused_s + RETRY_MAX_S:
                break
            late.append(key)
        for key in late:
            life = node.trying.pop(key)
            life.removed_s = node.refused.pop(key) + RETRY_S
            life.guess = "refused and never served: end is the retry that did not come"


def _instant(one: Json) -> float:
    if not isinstance(one, dict):
        fields.refuse((), one, "no line of a journal", "a JSON object")
    now_s = fields.number(one, "now")
    if not 0 <= now_s <= _INSTANT_MAX:
        raise TraceError("no instant", field="now", value=str(now_s), allowed="seconds, 0 or more")
    return now_s


def _first_of(served: Json) -> Json:
    if not (isinstance(served, list) and len(served) == 2):  # noqa: PLR2004 - a pair
        fields.refuse(("answer",), served, "not served", "[sandbox, address]")
    return served[0]


def _key(sandbox: Json) -> str:
    """Return a sandbox's key as one text, which is smaller than three."""
    if not (isinstance(sandbox, list) and len(sandbox) == len(_KEY)):
        fields.refuse(("sandbox",), sandbox, "not a sandbox", "[network, container id, interface]")
    parts = dict(zip(_KEY, sandbox, strict=True))
    return _JOINT.join(fields.name(parts, name) for name in _KEY)


def _check_header(one: Json) -> None:
    found = fields.text(one, "format")
    if found != FORMAT:
        raise TraceError("no journal", field="format", value=found, allowed=FORMAT)
    version = fields.field(one, "version")
    if version != VERSION:
        reason = "another version of the journal"
        raise TraceError(reason, field="version", value=repr(version), allowed=str(VERSION))


def _segment_of(path: Path) -> _Segment:
    """Return what the first line of a file says about it."""
    with open_bytes(path, lambda _count: None) as chunks:
        for line, one in records(JsonText(chunks, str(path)), _NO_LIST):
            try:
                now_s = _instant(one)
                _check_header(one)
            except TraceError as err:
                raise located(err, str(path), line) from None
            number, unix_s = _told_by(path.name)
            return _Segment(path, path.resolve().parent.name or "node", number, now_s, unix_s)
    raise TraceError("the file is empty", file=str(path), allowed="a journal")


def _told_by(name: str) -> tuple[int, float]:
    """Return the number of a segment and the time of day it was opened, by its name.

    >>> _told_by("00000012-20260301T100000Z.jsonl"), _told_by("mine.jsonl")
    ((12, 1772359200.0), (0, nan))
    """
    found = _NAME.fullmatch(name)
    if found is None:
        return 0, math.nan
    try:
        return int(found[1]), datetime.fromisoformat(found[2]).timestamp()
    except ValueError:
        return 0, math.nan


def read(paths: Sequence[Path], choices: Choices, advance: Advance) -> Imported:
    """Return the trace in journals; TraceError with file and line where one is broken."""
    segments = sorted((_segment_of(path) for path in paths), key=lambda one: one.order)
    reader = _Reader()
    tally = reader.lives.tally
    has_clock = not any(math.isnan(one.unix_s) for one in segments)
    offsets: dict[str, float] = {}
    for segment in segments:
        # Without the time of day each node begins at the trace's zero.
        begins_s = segment.unix_s if has_clock else 0.0
        offset_s = offsets.setdefault(segment.node, begins_s - segment.now_s)
        if has_clock and abs(begins_s - segment.now_s - offset_s) > _SAME_CLOCK_S:
            # The machine was started again, or somebody set its clock.
            offset_s = offsets[segment.node] = begins_s - segment.now_s
        reader.turn_to(segment.node, offset_s)
        try:
            read_each([segment.path], _NO_LIST, advance, tally, reader.take)
        except CutOffError:
            # A crash or a full disk leaves it so, and the next segment tells what came of it.
            tally.add(Fate.DROPPED, "lines cut off at the end of a segment")
    reader.close()
    if not has_clock:
        what = "nodes whose journals tell no time of day: each begins at 0"
        tally.add(Fate.GUESSED, what, len(offsets))
    return reader.lives.imported(origin_of(paths), choices)


JOURNAL = Importer("journal", "journals of our own nodes' allocators", HOW_TO, read)
