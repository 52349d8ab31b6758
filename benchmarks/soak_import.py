"""Import a generated audit log of a gigabyte and more, and hold memory to its bound.

    python -m benchmarks.soak_import --mib 1024

exits with 1 where the import took more memory than --rss-mib, or lost a pod.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from itertools import takewhile
from pathlib import Path

from benchmarks.audit_log import Log, lines

_MIB = 1 << 20
_IMPORT = (
    "import sys\n"
    "from sim.cli import main\n"
    "sys.argv = ['warmbench', 'trace', 'import', 'audit', *sys.argv[1:], '--format', 'json']\n"
    "main()\n"
)


def write(path: Path, size: int, log: Log) -> int:
    """Write so many bytes of a log, in whole lines; return how many pods are in it."""
    pods = 0
    with path.open("w", encoding="utf-8") as file:
        for line, so_far in takewhile(lambda _line: file.tell() < size, lines(log)):
            file.write(line)
            pods = so_far
    return pods


def main() -> None:
    """Generate, import in a process of its own, and tell figures."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--mib", type=int, default=1024, help="size of the log")
    parser.add_argument("--rss-mib", type=int, default=512, help="memory the import may take")
    parser.add_argument("--others", type=int, default=Log().others_a_pod, help="records a pod")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        log, out = Path(name) / "audit.jsonl", Path(name) / "trace.parquet"
        pods = write(log, asked.mib * _MIB, Log(others_a_pod=asked.others))
        print(f"log: {log.stat().st_size / _MIB:,.0f} MiB, {pods:,} pods", flush=True)
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", _IMPORT, str(log), "--out", str(out)],
            capture_output=True,
            text=True,
            check=True,
        )
        took = time.monotonic() - began
    peak_mib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    counts = [json.loads(line) for line in done.stdout.splitlines()]
    kept = next(one["number"] for one in counts if one["what"] == "pods in the trace")
    print(f"import: {took:,.1f} s, {asked.mib / took:,.0f} MiB/s, at most {peak_mib:,.0f} MiB held")
    print(f"pods in the trace: {kept:,}")
    # The log is cut anywhere: of the last pods it may hold no record that tells of them.
    if peak_mib > asked.rss_mib or not pods - 10 <= kept <= pods:
        sys.exit(f"expected at most {asked.rss_mib} MiB and {pods:,} pods")


if __name__ == "__main__":
    main()
