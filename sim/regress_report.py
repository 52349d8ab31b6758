"""What the gate found, as text for people and as JUnit XML for what shows test results.

The text is for pages without a terminal: a CI log, a failed test, a JUnit file. No markup, no
colour, names whole.
"""

import re
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

from sim.regress import DIGITS, WALL_CLOCK, Change, Today, this_version
from sim.suite import Suite
from sim.tables import NONE

HEADS = ("figure", "baseline", "today", "difference", "status")
_GAP = "  "
_DIGITS = 8
_ORDER = ("broken", "worse", "new", "gone", "better")
"""Statuses, the worst first."""
_FORBIDDEN = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def cells(change: Change) -> tuple[str, ...]:
    """Return a change as the texts under HEADS.

    >>> cells(Change("a", "wait_s.p99", 2.0, 3.5, "worse"))
    ('wait_s.p99', '2', '3.5', '+1.5 (+75.0%)', 'worse')
    """
    return (
        change.figure,
        _shown(change.baseline),
        _shown(change.today),
        _difference(change),
        change.status,
    )


def text(changes: Sequence[Change]) -> str:
    """Return all changes, a table for each scenario; the last line has no end.

    >>> print(text([Change("small (native)", "served", 10, 9, "worse")]))
    small (native)
      figure  baseline  today   difference  status
      served        10      9  -1 (-10.0%)  worse
    """
    cases = dict.fromkeys(change.case for change in changes)
    return "\n\n".join(
        "\n".join(_of_one(case, [change for change in changes if change.case == case]))
        for case in cases
    )


def _of_one(case: str, changes: Sequence[Change]) -> list[str]:
    told = [f"{case}: {change.status}: {change.told}" for change in changes if change.told]
    rows = [cells(change) for change in changes if not change.told]
    if not rows:
        return told
    widths = [max(map(len, column)) for column in zip(HEADS, *rows, strict=True)]
    lines = [*told, case]
    for row in (HEADS, *rows):
        first, *numbers, last = row
        padded = [cell.rjust(width) for cell, width in zip(numbers, widths[1:-1], strict=True)]
        lines.append(f"  {_GAP.join([first.ljust(widths[0]), *padded, last])}")
    return lines


def counted(changes: Sequence[Change]) -> str:
    """Count changes by status, the worst first.

    >>> counted([Change("a", "b", 2, 1, "better"), Change("a", "c", 1, 2, "worse")])
    '1 worse, 1 better'
    """
    counts: Counter[str] = Counter(change.status for change in changes)
    return ", ".join(f"{counts[status]} {status}" for status in _ORDER if counts[status])


def accepting(suite: Path, baseline: Path | None, *, wall_clock: bool = False) -> str:
    """Return the command that accepts what was measured, ready for a shell.

    >>> accepting(Path("my suite.toml"), None)
    "warmbench regress 'my suite.toml' --update"
    """
    named = ["--baseline", str(baseline)] if baseline else []
    timed = ["--wall-clock"] if wall_clock else []
    return shlex.join(["warmbench", "regress", str(suite), *named, *timed, "--update"])


def junit(suite: Suite, baseline: Path, today: Today, changes: Sequence[Change]) -> str:
    """Return a JUnit XML document: one test suite, one test case for each scenario's case.

    A broken run is an `error`; what closes the gate otherwise is a `failure`; better figures are
    told in `system-out`. The structure is the one that Jenkins' xunit plug-in checks
    (junit-10.xsd) and that GitHub's and GitLab's readers take.
    """
    names = dict.fromkeys([*(case.name for case in suite.cases), *(c.case for c in changes)])
    if today.wall_clock is not None:
        names[WALL_CLOCK] = None
    root = ET.Element("testsuites")
    listed = ET.SubElement(root, "testsuite")
    properties = ET.SubElement(listed, "properties")
    for name, value in (
        ("warmbench", this_version()),
        ("suite", str(suite.path)),
        ("baseline", str(baseline)),
    ):
        ET.SubElement(properties, "property", {"name": name, "value": _allowed(value)})
    found: Counter[str] = Counter()
    for name in names:
        own = [change for change in changes if change.case == name]
        took_s = today.took_s.get(name, 0.0)
        found[_test_case(listed, suite.path.stem, name, took_s, own)] += 1
    totals = {
        "name": _allowed(f"warmbench regress {suite.path.name}"),
        "tests": str(len(names)),
        "failures": str(found["failure"]),
        "errors": str(found["error"]),
        "time": f"{sum(today.took_s.values()):.3f}",
    }
    root.attrib.update(totals)
    listed.attrib.update({**totals, "skipped": "0"})
    ET.indent(root)
    written: str = ET.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{written}\n'


def _test_case(
    parent: ET.Element, suite: str, name: str, took_s: float, changes: Sequence[Change]
) -> str:
    """Add one test case; return what became of it: failure, error, or system-out, or nothing."""
    told = {"classname": _allowed(suite), "name": _allowed(name), "time": f"{took_s:.3f}"}
    case = ET.SubElement(parent, "testcase", told)
    if not changes:
        return ""
    statuses = {change.status for change in changes}
    tag = "error" if "broken" in statuses else "failure"
    if statuses == {"better"}:
        tag = "system-out"
    found = ET.SubElement(case, tag)
    if tag != "system-out":
        found.attrib.update(message=_allowed(_message(changes)), type=_worst(changes))
    found.text = _allowed(text(changes))
    return tag


def _message(changes: Sequence[Change]) -> str:
    """Say in one line what closes the gate: readers show it without the table."""
    first = next(change for change in changes if change.status == _worst(changes))
    if first.told:
        return f"{first.status}: {first.told}"
    figure, old, new, *_ = cells(first)
    return f"{counted(changes)}: {figure} {old} -> {new}"


def _worst(changes: Sequence[Change]) -> str:
    return min((change.status for change in changes), key=_ORDER.index)


def _allowed(words: str) -> str:
    r"""Replace what XML 1.0 cannot hold, escaped or not (its production "Char").

    >>> _allowed("a\x00b\ud800") == "a\ufffdb\ufffd"
    True
    """
    return _FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", words)


def _shown(value: float | None) -> str:
    """Write a figure with eight digits, but no more than six behind the point.

    A terminal of 80 columns has room for three such numbers; what they hide, their difference
    shows.

    >>> _shown(1234567), _shown(0.05), _shown(74.797927), _shown(7726.447271)
    ('1,234,567', '0.05', '74.797927', '7,726.4473')
    """
    if value is None:
        return NONE
    behind = max(min(_DIGITS - len(str(int(abs(value)))), DIGITS), 1)
    written = f"{value:,.{behind}f}"
    return written.rstrip("0").rstrip(".")


def _difference(change: Change) -> str:
    if change.difference is None:
        return NONE
    sign = "+" if change.difference > 0 else ""
    share = f" ({change.difference / change.baseline:+.1%})" if change.baseline else ""
    return f"{sign}{_shown(change.difference)}{share}"
