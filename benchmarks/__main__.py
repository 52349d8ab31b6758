"""Run every benchmark, print the results, and write them beside this file."""

import json
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import allocator, ledger, network, plugin, replay, scale

HERE = Path(__file__).parent
PARTS = (
    ("a. assign + release", allocator.measure),
    ("b. replay rate", replay.measure),
    ("c. a million pods", scale.million),
    ("d. growth of cost", scale.growth),
    ("e. one pod's network", network.measure),
    ("f. ledger", ledger.measure),
    ("g. the plug-in as a runtime pays for it", plugin.measure),
)


def main() -> None:
    """Measure, print, write; an argument such as `b` runs that part alone and writes nothing."""
    chosen = sys.argv[1:]
    results: dict[str, list[tuple[str, str, str]]] = {}
    for title, measure in PARTS:
        if chosen and title[0] not in chosen:
            continue
        print(f"{title} ...", flush=True)
        results[title] = rows = measure()
        for row in rows:
            print("   ", " | ".join(row), flush=True)
    if not chosen:
        _write(results)


def _write(results: dict[str, list[tuple[str, str, str]]]) -> None:
    machine = f"Python {platform.python_version()}, {platform.machine()}, {_cores()} cores"
    lines = ["# Results of `make bench`", "", f"{datetime.now(UTC):%Y-%m-%d}, {machine}.", ""]
    for title, rows in results.items():
        lines += [f"## {title}", "", "| what | measured | wanted |", "|--|--|--|"]
        lines += [f"| {' | '.join(row)} |" for row in rows] + [""]
    (HERE / "results.md").write_text("\n".join(lines), encoding="utf-8")
    text = json.dumps({"machine": machine, "results": results}, indent=1)
    (HERE / "results.json").write_text(text + "\n", encoding="utf-8")
    print(f"written: {HERE.name}/results.md, {HERE.name}/results.json")


def _cores() -> int:
    import os  # noqa: PLC0415 - only this line needs it

    return os.cpu_count() or 1


if __name__ == "__main__":
    main()
