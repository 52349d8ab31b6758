"""Journals as tables: what happened on nodes, and what they held."""

from pathlib import Path

import pytest

from cni.allocator.behaviour import UPSTREAM
from cni.settings import Settings
from sim import journals, trace
from sim.node_type import explicit
from sim.questions import Question
from sim.replay import replay_file
from sim.simulation import run

FILES = sorted(trace.sample("journals").glob("*/*.jsonl"))


def test_a_row_for_each_node_adds_its_files_up() -> None:
    """Every ADD of every file is in one row, and today's allocator gives the same answers."""
    table = journals.nodes(FILES)

    assert list(table.index) == ["ip-10-0-0-11", "ip-10-0-0-12", "ip-10-0-0-13"]
    assert table["adds"].sum() == sum(replay_file(path).day.adds for path in FILES)
    assert (table["adds"] == table["at_once"] + table["refused"]).all()
    assert set(table["setting"]) == {"WARM_IP_TARGET=2"}
    assert set(table["cause"]) <= {"pool_empty", "all_cooling"}
    assert table["as_today"].all()


def test_bands_add_up_at_every_instant() -> None:
    """What is held is assigned, cooling or idle; time goes forward, and every node is there."""
    frame = journals.steps(FILES)

    assert (frame["held"] == frame["assigned"] + frame["cooling"] + frame["idle"]).all()
    assert frame["node"].nunique() == 3
    for _, one in frame.groupby("node", observed=True):
        assert one["t"].is_monotonic_increasing
        assert one["t"].iloc[0] == 0


def test_nodes_together_are_their_sum() -> None:
    """At the end all of them hold what each holds."""
    frame = journals.steps(FILES)

    whole = journals.together(frame)

    last = frame.groupby("node", observed=True)[["held", "enis"]].last().sum()
    assert whole[["held", "enis"]].iloc[-1].to_dict() == last.to_dict()


def test_limits_are_those_of_the_type() -> None:
    """The journals are of m5.xlarge, which has 4 ENIs of 15 addresses."""
    assert journals.limits(FILES) == {"max_enis": 4, "ips_per_eni": 15}


def test_a_replay_of_the_pods_is_like_the_journals() -> None:
    """Same setting, same pods, other chance: the addresses held agree within 2 %."""
    pods = trace.import_files("journal", FILES).trace
    kind = explicit(**journals.limits(FILES))
    question = Question(pods, kind, "10.0.0.0/24", 3, behaviour=UPSTREAM, max_pods=58)
    record = run(question.scenario(Settings(warm_ip_target=2)), pods)

    table = journals.likeness(FILES, record)

    told, simulated = table.loc["addresses held, mean"]
    assert simulated == pytest.approx(told, rel=0.02)
    assert table.loc["ADDs", "journals"] == journals.nodes(FILES)["adds"].sum()
    assert table.loc["ADDs", "simulated"] >= len(pods)


def test_a_broken_file_is_named_with_its_line(tmp_path: Path) -> None:
    """One line tells where; nothing at all is an error as well."""
    path = tmp_path / "node" / "00000001-20261110T080000Z.jsonl"
    path.parent.mkdir()
    path.write_text(FILES[0].read_text().splitlines()[0] + "\n{broken\n{}\n")

    for ask in (journals.nodes, journals.steps):
        with pytest.raises(ValueError, match=rf"{path.name}: line 2: "):
            ask([path])
    with pytest.raises(ValueError, match="no journal: name at least one file"):
        journals.nodes([])


def test_another_answer_ends_a_nodes_steps(tmp_path: Path) -> None:
    """Where today's allocator decides otherwise, what follows is not made up."""
    lines = FILES[0].read_text().splitlines()
    at = next(n for n, line in enumerate(lines) if '"in":"release"' in line)
    path = tmp_path / "node" / FILES[0].name
    path.parent.mkdir()
    changed = lines[at].rsplit('"answer":', 1)[0] + '"answer":"192.0.2.1"}'
    path.write_text("\n".join([*lines[:at], changed, *lines[at + 1 :]]) + "\n")

    assert not journals.nodes([path])["as_today"].iloc[0]
    whole = journals.steps([FILES[0]])
    cut = journals.steps([path])
    assert len(cut) < len(whole)
    assert cut["held"].tolist() == whole["held"].tolist()[: len(cut)]
