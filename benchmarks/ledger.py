"""(e) An append to the ledger, against a bare write and fdatasync of the same bytes.

Both take turns in one run on one disk, since a disk's mood changes by the second. On a disk in
memory a sync costs nothing, and what is left is the way to the worker thread and back.
"""

import asyncio
import os
import tempfile
from ipaddress import IPv4Address
from pathlib import Path
from statistics import median
from time import perf_counter

from cni.allocator.model import EniId, SandboxKey
from cni.daemon.holdings import Holding, Release, entry_line
from cni.daemon.ledger import Ledger

PAIRS, ROUNDS = 150, 5
BURST = 100
WANTED_RATIO = 1.2
IN_MEMORY = Path("/dev/shm")  # noqa: S108 - in memory, and made unique below


def measure() -> list[tuple[str, str, str]]:
    """Return rows of (what, measured, wanted)."""
    rows = []
    for name, folder, wanted in (
        ("disk", Path(tempfile.gettempdir()), f"<= {WANTED_RATIO}"),
        ("memory", IN_MEMORY, ""),
    ):
        if not folder.is_dir():
            continue
        few = many = (float("inf"), float("inf"))
        for _ in range(ROUNDS):
            # In alternation, so that both meet the same noise; the best of several rounds.
            few = min(few, _both_us(folder, 20))
            many = min(many, _both_us(folder, 700))
        for held, (ours, bare) in ((20, few), (700, many)):
            what = f"{name}, {held} held:"
            rows.append((f"{what} write and fdatasync", f"{bare:,.0f} us", ""))
            rows.append((f"{what} append", f"{ours:,.0f} us", ""))
            rows.append((f"{what} append over bare", f"{ours / bare:.2f}", wanted))
    with tempfile.TemporaryDirectory() as place:
        burst_us, syncs = asyncio.run(_burst_us(Path(place)))
    rows.append((f"disk: {BURST} appends at once", f"{burst_us / 1000:.1f} ms", ""))
    rows.append((f"disk: {BURST} appends at once, syncs", f"{syncs}", "<= 2"))
    return rows


def _both_us(folder: Path, held: int) -> tuple[float, float]:
    """Return the median microseconds of an append, and of its bytes written and synced bare."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        return asyncio.run(_appends_us(Path(place), held))


def _opened(place: Path) -> Ledger:
    ledger, recovered = Ledger.open(place / "ledger.jsonl", boot_id="benchmark", now_unix=0.0)
    assert recovered.problems == ()
    return ledger


async def _appends_us(place: Path, held: int) -> tuple[float, float]:
    ledger = _opened(place)
    await asyncio.gather(*(ledger.assigned(_holding(n)) for n in range(held)))
    # Its bytes are as many, and are written at the end of a file as long.
    bare = os.open(place / "bare", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(bare, (place / "ledger.jsonl").read_bytes())
    os.fsync(bare)
    ours_s, bare_s = [], []
    for turn in range(PAIRS):
        holding = _holding(held + turn)
        release = Release(holding.sandbox, holding.address, 0.0)
        for entry, append in (
            (holding, ledger.assigned(holding)),
            (release, ledger.released(release.sandbox, release.address, 0.0)),
        ):
            line = entry_line(entry)
            started = perf_counter()
            os.write(bare, line)
            os.fdatasync(bare)
            between = perf_counter()
            await append
            bare_s.append(between - started)
            ours_s.append(perf_counter() - between)
    os.close(bare)
    await ledger.close()
    return median(ours_s) * 1e6, median(bare_s) * 1e6


async def _burst_us(place: Path) -> tuple[float, int]:
    ledger = _opened(place)
    started = perf_counter()
    await asyncio.gather(*(ledger.assigned(_holding(n)) for n in range(BURST)))
    elapsed = perf_counter() - started
    syncs = ledger.syncs
    await ledger.close()
    return elapsed * 1e6, syncs


def _holding(number: int) -> Holding:
    return Holding(
        SandboxKey("aws-cni", f"{number:064x}", "eth0"),
        IPv4Address("10.0.0.0") + number,
        EniId("eni-0123456789abcdef0"),
        number % 15,
        f"eni{number:011x}",
        "shop",
        f"web-7d4b9c6f5-{number:05d}",
        f"/var/run/netns/cni-01234567-89ab-cdef-0123-{number:012d}",
        1.7e9 + number,
    )
