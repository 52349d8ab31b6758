"""What each format has of its own: joins, guesses, and what its record cannot say."""

from __future__ import annotations

import gzip
import json
import math
import random
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest

from cni.allocator.behaviour import NATIVE
from cni.allocator.errors import NoFreeAddress
from cni.allocator.journal import Journaled, Start
from cni.allocator.model import (
    AttachedEni,
    BlockKind,
    EniId,
    Instant,
    NodeLimits,
    SandboxKey,
)
from cni.allocator.targets import WarmIp
from cni.daemon.journal_file import JournalFile
from sim.trace import Imported, TraceError, describe, import_files, load

SAMPLES = Path(__file__).parents[2] / "sim" / "examples" / "samples"
TRACES = Path(__file__).resolve().parents[2].parent / "shared/traces"


def written(path: Path, *lines: Any) -> Path:
    """Write a line for each: text as it is, everything else as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    texts = (line if isinstance(line, str) else json.dumps(line) for line in lines)
    path.write_text("".join(f"{text}\n" for text in texts))
    return path


def sample(name: str) -> list[dict[str, Any]]:
    """Return the records of a sample with one a line."""
    return [json.loads(line) for line in (SAMPLES / name).read_text().splitlines()]


def rows(found: Imported) -> dict[str, tuple[float, float]]:
    """Return arrival and life of each pod by its name."""
    trace = found.trace
    values = zip(trace.arrival_s.tolist(), trace.life_s.tolist(), strict=True)
    return dict(zip(trace.names or (), values, strict=True))


def counts(found: Imported) -> dict[str, int]:
    """Return counts by their words."""
    return {one.what: one.number for one in found.counts}


# The audit log.


def test_a_listing_adds_the_pods_that_were_there_all_along() -> None:
    """A pod that no record is about comes from `kubectl get pods`, one that is, is not doubled."""
    log, listing = SAMPLES / "audit.jsonl", SAMPLES / "audit-pods.json"
    alone, both = import_files("audit", [log]), import_files("audit", [listing, log])

    added = rows(both).keys() - rows(alone).keys()
    assert added == {"kube-system/coredns-1"}
    assert rows(both)["kube-system/coredns-1"] == (0.0, math.inf)
    assert counts(both)["pods in lists"] == 2
    with pytest.raises(TraceError, match="no pods"):
        import_files("audit", [listing])


def test_a_refused_pod_is_demand() -> None:
    """A pod that was bound and never had an address counts from its binding to its removal."""
    found = import_files("audit", [SAMPLES / "audit.jsonl"])

    assert rows(found)["shop/db-0"] == (240.5, 480.0)
    assert counts(found)["pods bound and gone without an address: demand all the same"] == 1


def test_a_job_ends_at_completion() -> None:
    """The pod of a Job gives its address back when it completes, not when its object goes."""
    found = import_files("audit", [SAMPLES / "audit.jsonl"])

    assert rows(found)["shop/import-1-q8z"] == (60.5, 74.0)


def test_the_log_of_another_component_is_refused(tmp_path: Path) -> None:
    """An export of all streams names the line of the first that is no audit log."""
    log = (SAMPLES / "audit.jsonl").read_text().splitlines()
    with pytest.raises(TraceError, match=r"no audit event.*kube-apiserver-audit") as caught:
        import_files("audit", [written(tmp_path / "a", *log[:3], {"ts": 1, "msg": "x"})])
    assert caught.value.line == 4
    with pytest.raises(TraceError, match=r"message.*not JSON") as caught:
        import_files("audit", [written(tmp_path / "a", {"events": [{"message": "time=x"}]})])
    assert caught.value.line == 1
    with pytest.raises(TraceError, match="fields @message"):
        import_files("audit", [written(tmp_path / "a", {"results": [[{"field": "verb"}]]})])


def test_a_field_of_another_type_is_named(tmp_path: Path) -> None:
    """A refusal names file, line, field and value."""
    log = sample("audit.jsonl")
    log[3]["responseObject"]["metadata"]["uid"] = 7
    with pytest.raises(TraceError) as caught:
        import_files("audit", [written(tmp_path / "log", *log)])
    assert str(caught.value) == (
        f'{tmp_path}/log, line 4, metadata.uid: "7": not a text (allowed: a JSON string)'
    )


# A watch.


def pod(name: str, seconds: int, *, uid: str = "", phase: str = "Running") -> dict[str, Any]:
    """Return a pod that was scheduled so many seconds after ten."""
    at = f"2026-03-01T10:{seconds // 60:02}:{seconds % 60:02}Z"
    return {
        "kind": "Pod",
        "metadata": {"namespace": "a", "name": name, "uid": uid or name, "creationTimestamp": at},
        "spec": {"nodeName": "n"},
        "status": {
            "phase": phase,
            "conditions": [{"type": "PodScheduled", "status": "True", "lastTransitionTime": at}],
        },
    }


def event(kind: str, one: dict[str, Any]) -> dict[str, Any]:
    """Return an event of a watch."""
    return {"type": kind, "object": one}


def added(*pods: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a listing."""
    return [event("ADDED", one) for one in pods]


def test_the_first_listing_is_not_churn(tmp_path: Path) -> None:
    """What is listed when a watch begins was there before; what is added out of order comes."""
    lines = added(pod("a", 0), pod("b", 60), pod("c", 30)) + added(pod("aa", 90))
    found = import_files("watch", [written(tmp_path / "w", *lines)])

    assert rows(found) == {f"a/{n}": (0.0, math.inf) for n in "abc"} | {"a/aa": (30.0, math.inf)}


def test_a_watch_that_began_again_knows_who_went(tmp_path: Path) -> None:
    """A pod that the second listing lacks went when last seen; one that opens it is new."""
    first = added(pod("b", 0), pod("c", 10)) + added(pod("bb", 20))
    second = added(pod("a", 50), pod("b", 0), pod("bb", 20))
    for files in ([[*first, *second]], [first, second]):
        paths = [written(tmp_path / f"{n}", *lines) for n, lines in enumerate(files)]
        found = import_files("watch", paths)

        assert rows(found)["a/c"] == (0.0, 10.0)
        assert rows(found)["a/a"] == (40.0, math.inf)
        assert rows(found)["a/bb"] == (10.0, math.inf)
        assert counts(found)["times the watch was started again"] == 1


def test_a_deleted_pod_that_does_not_tell_its_end(tmp_path: Path) -> None:
    """Without a container's end, the end of the grace counts, else the last time in the object."""
    silent, graced = pod("a", 60), pod("b", 60)
    graced["metadata"] |= {
        "deletionTimestamp": "2026-03-01T10:03:30Z",
        "deletionGracePeriodSeconds": 30,
    }
    lines = [*added(pod("0", 0)), event("MODIFIED", pod("0", 0)), *added(silent, graced)]
    later = pod("z", 300)
    lines += [event("DELETED", silent), event("DELETED", graced), *added(later)]
    found = import_files("watch", [written(tmp_path / "w", *lines)])

    assert rows(found)["a/a"] == (60.0, 1.0)
    assert rows(found)["a/b"] == (60.0, 150.0)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ({"type": "CHANGED", "object": pod("a", 0)}, "no event of a watch"),
        ({"type": "ADDED", "object": {"kind": "Node"}}, "not a pod"),
        ({"type": "ADDED", "object": {"kind": "Pod", "metadata": {}}}, "missing"),
    ],
)
def test_what_is_no_watch_of_pods(tmp_path: Path, line: object, reason: str) -> None:
    """Other events, other objects and pods without a uid are refused by line."""
    path = written(tmp_path / "w", *added(pod("a", 0)), line)
    with pytest.raises(TraceError, match=reason) as caught:
        import_files("watch", [path])
    assert caught.value.line == 2


# Prometheus.


def answer(*series: dict[str, Any]) -> dict[str, Any]:
    """Return what Prometheus answers."""
    return {"status": "success", "data": {"resultType": "matrix", "result": list(series)}}


def test_weeks_asked_one_by_one_are_one_record(tmp_path: Path) -> None:
    """Series cut in the middle, in any order of files, make the same trace."""
    (whole,) = sample("prometheus.json")
    expected = import_files("prometheus", [SAMPLES / "prometheus.json"])
    parts: list[list[dict[str, Any]]] = [[], []]
    for series in whole["data"]["result"]:
        middle = 1772359200 + 1800
        for part, early in zip(parts, (True, False), strict=True):
            values = [one for one in series["values"] if (one[0] < middle) == early]
            if values:
                part.append(series | {"values": values})
    files = [written(tmp_path / f"{n}", answer(*part)) for n, part in enumerate(parts)]
    for order in (files, files[::-1]):
        assert rows(import_files("prometheus", order)) == rows(expected)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (
            {"status": "error", "errorType": "bad_data", "error": "too many points"},
            '"too many points": Prometheus answered with an error',
        ),
        (answer({"metric": {"pod": "x"}, "values": [[1772359200, "1"]]}), "without a name"),
        (
            answer({"metric": {"__name__": "kube_pod_info"}, "values": [[1772359200, "1"]]}),
            "without uid.*kube-state-metrics 2.0",
        ),
        (answer({"metric": {"__name__": "kube_pod_info", "uid": "u"}, "values": []}), "samples"),
        (
            answer({"metric": {"__name__": "kube_pod_info", "uid": "u"}, "values": [[1, "1"]]}),
            "not a time",
        ),
        (answer({"metric": {"__name__": "up"}, "values": [[1772359200, "1"]]}), "no series of"),
        (answer(), "no records"),
        ({"status": "success"}, "no series of kube_pod_info"),
    ],
)
def test_an_answer_that_is_no_use(tmp_path: Path, line: object, reason: str) -> None:
    """Errors of Prometheus and queries that lose what is needed are told in one line."""
    with pytest.raises(TraceError, match=reason):
        import_files("prometheus", [written(tmp_path / "p", line)])


# Google's trace.


def test_json_is_read_as_csv_is(tmp_path: Path) -> None:
    """BigQuery exports both; its JSON writes whole numbers as texts."""
    header, *lines = (SAMPLES / "google2019.csv").read_text().splitlines()
    records = [
        {
            name: value or None
            for name, value in zip(header.split(","), line.split(","), strict=True)
        }
        for line in lines
    ]
    expected = import_files("google2019", [SAMPLES / "google2019.csv"])
    found = import_files("google2019", [written(tmp_path / "g", *records)])
    assert rows(found) == rows(expected)
    packed = tmp_path / "g.gz"
    packed.write_bytes(gzip.compress((tmp_path / "g").read_bytes()))
    assert rows(import_files("google2019", [packed])) == rows(expected)


def test_a_large_file_is_read_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of any size give the same pods, and a broken line in a later one is named."""
    monkeypatch.setattr("sim.sources.json_text.CHUNK_BYTES", 50)
    expected = import_files("google2019", [SAMPLES / "google2019.csv"])
    lines = (SAMPLES / "google2019.csv").read_text().splitlines()
    for size in (50, 120, 500):
        monkeypatch.setattr("sim.sources.google2019._BLOCK_BYTES", size)
        found = import_files("google2019", [SAMPLES / "google2019.csv"])
        assert rows(found) == rows(expected)
        for number in range(1, len(lines)):
            broken = [*lines[:number], lines[number].replace(",", ",x", 1), *lines[number + 1 :]]
            with pytest.raises(TraceError) as caught:
                import_files("google2019", [written(tmp_path / "g", *broken)])
            assert (caught.value.line, caught.value.field) == (number + 1, "type")


def test_events_come_in_any_order_and_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exports in shards have no order and may overlap; pairing in pieces parts no instance."""
    expected = import_files("google2019", [SAMPLES / "google2019.csv"])
    head, *lines = (SAMPLES / "google2019.csv").read_text().splitlines()
    for seed, piece in enumerate((1, 2, 5, 100)):
        monkeypatch.setattr("sim.sources.google2019._PIECE", piece)
        random.Random(seed).shuffle(lines)
        shards = [lines[:15], lines[10:]]
        files = [written(tmp_path / f"{n}", head, *shard) for n, shard in enumerate(shards)]
        found = import_files("google2019", files)
        assert rows(found) == rows(expected)
        assert found.trace.node.tolist() == expected.trace.node.tolist()
    huge = f"1,3,1,{2**31},1,0,0"
    with pytest.raises(TraceError, match=r"shard, instance_index: out of range"):
        import_files("google2019", [written(tmp_path / "shard", head, huge)])


# Journals of our own nodes.


def sandbox(number: int) -> SandboxKey:
    """Return a sandbox."""
    return SandboxKey("aws-cni", f"{number:012x}{0:052}", "eth0")


def start(now: float) -> Start:
    """Return what a node with one ENI of two addresses starts from."""
    blocks = (IPv4Network("10.0.0.5/32"), IPv4Network("10.0.0.6/32"))
    eni = AttachedEni(EniId("eni-1"), 0, IPv4Address("10.0.0.4"), blocks)
    limits = NodeLimits(1, 2, 29)
    return Start(WarmIp(0), limits, BlockKind.SECONDARY_IP, NATIVE, Instant(now), (eni,))


def test_what_an_allocator_wrote_is_read(tmp_path: Path) -> None:
    """The journal of a real allocator gives the ADDs and DELs that it was asked for."""
    lines: list[str] = []
    node = Journaled(start(500.0), lines.append)
    node.assign(sandbox(1), Instant(510.0))
    node.assign(sandbox(2), Instant(520.0))
    with pytest.raises(NoFreeAddress):
        node.assign(sandbox(3), Instant(530.0))
    node.wait(sandbox(3), Instant(530.0))
    node.release(sandbox(1), Instant(535.0))
    assert not node.serve_waiting(Instant(540.0))
    (served,) = node.serve_waiting(Instant(570.0))
    assert served.sandbox == sandbox(3)
    node.release(sandbox(3), Instant(600.0))
    found = import_files("journal", [written(tmp_path / "node-x" / "1", *lines)])

    assert list(rows(found).values()) == [(10.0, 25.0), (20.0, math.inf), (30.0, 30.0)]
    assert found.trace.node_names == ("node-x",)
    assert counts(found)["nodes whose journals tell no time of day: each begins at 0"] == 1


def test_segments_of_a_daemon_are_one_journal(tmp_path: Path) -> None:
    """What `JournalFile` parts into segments, each opened by a snapshot, is read as a whole."""
    whole: list[str] = []
    folder = tmp_path / "node-x"
    clock = [500.0]
    file = JournalFile(folder, 1 << 21, unix=lambda: 1_772_359_200.5 + clock[0], tell=pytest.fail)

    def write(line: str) -> None:
        whole.append(line)
        clock[0] = json.loads(line)["now"]
        file.write(line)

    node = Journaled(start(500.0), write)
    file.snapshot_by(node.snapshot)
    for number in range(400):
        now = 600.0 + 70.0 * number
        one, other, third = (sandbox(3 * number + n) for n in (1, 2, 3))
        node.assign(one, Instant(now))
        node.assign(other, Instant(now + 1))
        with pytest.raises(NoFreeAddress):
            node.assign(third, Instant(now + 2))
        if number % 3 == 0:
            node.wait(third, Instant(now + 2))
            node.stop_waiting(third, Instant(now + 20))
        node.release(one, Instant(now + 30.0))
        node.release(other, Instant(now + 31.0))
        node.next_action(Instant(now + 32))
    file.close()
    segments = sorted(folder.iterdir())
    assert len(segments) > 1
    together = import_files("journal", segments)
    alone = import_files("journal", [written(tmp_path / "w" / "node-x" / "1", *whole)])

    assert len(rows(alone)) == 3 * 400
    assert rows(together) == rows(alone)
    told = counts(together)
    assert not [what for what in told if "time of day" in what or "between two" in what]


def test_nodes_are_laid_on_one_clock(tmp_path: Path) -> None:
    """The names of segments tell when each node began; a machine started anew begins later."""
    lines = [header(50.0), told("assign", 60.0, 1, "10.0.0.5"), told("release", 90.0, 1)]
    for name in (
        "a/00000001-20260301T100000Z.jsonl",
        "b/00000007-20260301T101000Z.jsonl",
        "b/00000008-20260301T103000Z.jsonl",
    ):
        written(tmp_path / name, *lines)
    found = import_files("journal", sorted(tmp_path.glob("*/*")))

    assert sorted(rows(found).values()) == [(10.0, 30.0), (610.0, 30.0), (1810.0, 30.0)]


def header(now: float) -> dict[str, Any]:
    """Return a segment's header."""
    one: dict[str, Any] = json.loads(start(now).encode())
    return one


def told(what: str, now: float, number: int, answer: object = None) -> dict[str, Any]:
    """Return a line of a journal."""
    return {"in": what, "now": now, "sandbox": list(sandbox(number)), "answer": answer}


REFUSED = {"refused": "pool_empty", "may_come": True}


def test_a_refused_pod_comes_back_as_another_sandbox(tmp_path: Path) -> None:
    """Three refusals and the ADD that is served are one pod, which arrives with the first."""
    lines = [
        header(0.0),
        told("assign", 10.0, 1, REFUSED),
        told("assign", 22.0, 2, REFUSED),
        told("assign", 22.5, 3, "10.0.0.5"),
        told("assign", 35.0, 4, REFUSED),
        told("assign", 47.0, 5, "10.0.0.6"),
        told("release", 100.0, 5, "10.0.0.6"),
    ]
    found = import_files("journal", [written(tmp_path / "n" / "1", *lines)])

    assert sorted(rows(found).values()) == [(10.0, 53.0), (22.5, math.inf)]


def test_segments_are_read_in_order_of_time() -> None:
    """However files are named and given, a node's segments follow each other by their headers."""
    files = sorted((SAMPLES / "journal").glob("*/*"))
    expected = import_files("journal", files)
    assert rows(import_files("journal", files[::-1])) == rows(expected)


def test_a_line_that_a_crash_cut_off_is_counted(tmp_path: Path) -> None:
    """Of a segment that ends in the middle of a line everything before it is taken."""
    lines = [header(0.0), told("assign", 10.0, 1, "10.0.0.5")]
    path = written(tmp_path / "n" / "1", *lines)
    path.write_text(path.read_text() + json.dumps(told("release", 20.0, 1))[:40])
    found = import_files("journal", [path])

    assert list(rows(found).values()) == [(10.0, math.inf)]
    assert counts(found)["lines cut off at the end of a segment"] == 1


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ({"in": "assign", "now": 1.0, "answer": None}, "not a sandbox"),
        (told("asign", 1.0, 1), "no input of an allocator"),
        ({"in": "assign"}, "no instant"),
        (header(1.0) | {"version": 1}, "another version"),
        (header(1.0) | {"state": {"waiting": [[["a", "b", "c"], "x"]]}}, "not a number"),
        ({"in": "serve_waiting", "now": 1.0, "answer": [1]}, "not served"),
    ],
)
def test_what_is_no_journal(tmp_path: Path, line: object, reason: str) -> None:
    """A line that no allocator writes is refused with its number."""
    path = written(tmp_path / "n" / "1", header(0.0), told("assign", 1.0, 1, "10.0.0.5"), line)
    with pytest.raises(TraceError, match=reason) as caught:
        import_files("journal", [path])
    assert caught.value.line == 3
    with pytest.raises(TraceError, match="no journal"):
        import_files("journal", [written(tmp_path / "n" / "2", told("assign", 1.0, 1))])


# Published traces, where they are at hand.


def test_openb_is_the_same_by_import_and_by_itself() -> None:
    """Two doors, one reader."""
    path = SAMPLES / "openb.csv"
    assert import_files("openb", [path]).trace.notes == load(path).notes
    with pytest.raises(TraceError, match="one file"):
        import_files("openb", [path, path])


def test_the_real_openb_list() -> None:
    """The figures counted by hand come out of the import."""
    path = TRACES / "openb_pod_list_default.csv"
    if not path.exists():
        pytest.skip(f"not beside the checkout: {path}")
    found = import_files("openb", [path])

    assert counts(found)["pods in the trace"] == 8152
    assert counts(found)["pods never scheduled: arrival is the creation"] == 897


def test_the_real_dlrm_trace() -> None:
    """The figures counted by hand: 7,280 there at the start, 12,390 whole lives."""
    path = TRACES / "disaggregated_DLRM_trace.csv"
    if not path.exists():
        pytest.skip(f"not beside the checkout: {path}")
    found = import_files("dlrm", [path])

    assert describe(found.trace).pods == 23_871
    assert counts(found)["pods there before the record begins: they arrive at its start"] == 7280


@pytest.mark.parametrize(
    ("row", "field", "reason"),
    [
        ("p,1,1,10,9,20", "scheduled_time", "earlier than creation_time"),
        ("p,1,1,10,10,9", "deletion_time", "earlier than"),
        ("p,-1,1,10,10,19", "cpu_request", "negative"),
        ("p,1,nan,10,10,19", "memory_request", "not a number"),
        ("q,1,1,10,10,19", "instance_sn", "given twice"),
    ],
)
def test_a_broken_instance_is_named(tmp_path: Path, row: str, field: str, reason: str) -> None:
    """A row of the DLRM trace that cannot be is refused with line and field."""
    head = "instance_sn,cpu_request,memory_request,creation_time,scheduled_time,deletion_time"
    with pytest.raises(TraceError, match=reason) as caught:
        import_files("dlrm", [written(tmp_path / "d.csv", head, "q,1,1,1,1,2", row)])
    assert (caught.value.line, caught.value.field) == (3, field)
