"""Who holds which address, as lines of a ledger and as the book that these lines add up to.

Pure: `ledger.py` brings the bytes. Each line is one JSON object that ends in a CRC-32 of what
stands before it, so that a line that was cut off or changed is never believed. A ledger opens
with a header; then each line says what was true from then on:

- `assigned`: a sandbox holds an address;
- `released`: it does not any more, and the address cools;
- `cooling`: an address cools since then (what a compaction leaves of a release).

Where two lines contradict each other, as only a lost line or a defect can make them, **the later
line wins**, in the order of the file and not of any clock. An address is handed out again only
once its sandbox was released, so whoever wrote the later line knew that the earlier one was
over, and it was the release between the two that got lost. The sandbox of the earlier line is
dead or has nothing any more; the one of the later line may be a pod that runs. So an address
written for two sandboxes stays with the later one, and a sandbox written with two addresses keeps
the later one, while the earlier one cools. No address is ever held twice.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from json.encoder import encode_basestring_ascii
from math import isfinite
from zlib import crc32

from cni.allocator.encoding import (
    Json,
    to_address,
    to_int,
    to_number,
    to_object,
    to_sandbox,
    to_text,
)
from cni.allocator.model import EniId, SandboxKey

FORMAT = "warmbench-ledger"
VERSION = 1

COOLING_KEPT_S = 3600.0
"""For so long a release is remembered: a cooldown that is longer does not outlive a restart."""

PROBLEMS_MAX = 50
"""So many problems of one ledger are told, and how many more there are."""

_SEAL = b',"crc":"%08x"}'
_SEAL_BYTES = len(_SEAL % 0)
_EXCERPT = 400
_text = encode_basestring_ascii


@dataclass(frozen=True, slots=True)
class Holding:
    """An address that a sandbox holds, with all that is needed to take its network down again.

    `since_unix` is wall-clock time; `netns` is the path that the runtime named at ADD.
    """

    sandbox: SandboxKey
    address: IPv4Address
    eni_id: EniId
    device_index: int
    host_link: str
    pod_namespace: str
    pod_name: str
    netns: str
    since_unix: float


@dataclass(frozen=True, slots=True)
class Release:
    """A sandbox gave its address back, at a time of the wall clock."""

    sandbox: SandboxKey
    address: IPv4Address
    unix: float


@dataclass(frozen=True, slots=True)
class Cooling:
    """An address cools since a time of the wall clock."""

    address: IPv4Address
    unix: float


Entry = Holding | Release | Cooling


@dataclass(frozen=True, slots=True)
class Recovered:
    """What a ledger says after a restart.

    `cooling` are addresses with the wall-clock time of their release, never later than now;
    `problems` are lines for the log.
    """

    holdings: tuple[Holding, ...]
    cooling: tuple[tuple[IPv4Address, float], ...]
    problems: tuple[str, ...]


# Lines.


def header_line(boot_id: str) -> bytes:
    """Return the line that opens a ledger; its seal is the same in every version."""
    return _with_seal(f'{{"format":"{FORMAT}","version":{VERSION},"boot_id":{_text(boot_id)}')


def entry_line(entry: Entry) -> bytes:
    """Return an entry as a line, with its line feed; ValueError for a time that is no number."""
    # By hand, in a third of the time that `json` takes: each pod waits for it twice.
    match entry:
        case Holding():
            return _with_seal(
                f'{{"entry":"assigned","sandbox":{_sandbox(entry.sandbox)},'
                f'"address":"{entry.address}","eni":{_text(entry.eni_id)},'
                f'"device_index":{entry.device_index},"host_link":{_text(entry.host_link)},'
                f'"namespace":{_text(entry.pod_namespace)},"pod":{_text(entry.pod_name)},'
                f'"netns":{_text(entry.netns)},"unix":{_time(entry.since_unix)}'
            )
        case Release():
            return _with_seal(
                f'{{"entry":"released","sandbox":{_sandbox(entry.sandbox)},'
                f'"address":"{entry.address}","unix":{_time(entry.unix)}'
            )
        case Cooling():
            return _with_seal(
                f'{{"entry":"cooling","address":"{entry.address}","unix":{_time(entry.unix)}'
            )


def _sandbox(sandbox: SandboxKey) -> str:
    return f"[{_text(sandbox[0])},{_text(sandbox[1])},{_text(sandbox[2])}]"


def _time(unix: float) -> str:
    if not isfinite(unix):
        raise ValueError(f"{unix} is no time")
    return repr(unix)


def _with_seal(body: str) -> bytes:
    """Seal a JSON object that lacks its last brace.

    Everything but ASCII is escaped in it, so that no byte of a name can look like a line's end.
    """
    data = body.encode("ascii")
    return data + _SEAL % crc32(data) + b"\n"


def to_entry(one: Mapping[str, Json]) -> Entry:
    """Decode an entry; ValueError where it is none."""
    match one["entry"]:
        case "assigned":
            return Holding(
                to_sandbox(one["sandbox"]),
                to_address(one["address"]),
                EniId(to_text(one["eni"])),
                to_int(one["device_index"]),
                to_text(one["host_link"]),
                to_text(one["namespace"]),
                to_text(one["pod"]),
                to_text(one["netns"]),
                to_number(one["unix"]),
            )
        case "released":
            unix = to_number(one["unix"])
            return Release(to_sandbox(one["sandbox"]), to_address(one["address"]), unix)
        case "cooling":
            return Cooling(to_address(one["address"]), to_number(one["unix"]))
        case name:
            raise ValueError(f"{name!r} is no entry of a ledger")


def _unsealed(line: bytes) -> Mapping[str, Json]:
    """Return the fields of a line without its line feed; ValueError where it is not whole."""
    body = line[:-_SEAL_BYTES]
    if line[-_SEAL_BYTES:] != _SEAL % crc32(body):
        raise ValueError("it does not fit its checksum")
    return to_object(json.loads(line))


# The book.


class Book:
    """What the entries add up to."""

    def __init__(self) -> None:
        """Start empty."""
        self.holdings: dict[SandboxKey, Holding] = {}
        self.cooling: dict[IPv4Address, float] = {}
        self._holders: dict[IPv4Address, SandboxKey] = {}
        self.clock = 0.0
        """What the wall clock said last: when an entry came, or when the ledger was read."""

    def __len__(self) -> int:
        """Return how many lines say it all, without the header."""
        return len(self.holdings) + len(self.cooling)

    def enter(self, entry: Entry) -> list[str]:
        """Take an entry in; return what is wrong with it, in view of those before it."""
        match entry:
            case Holding():
                self.clock = entry.since_unix
                return self._assign(entry)
            case Release():
                self.clock = entry.unix
                return self._release(entry)
            case Cooling():
                if entry.address not in self._holders:
                    self.cooling[entry.address] = entry.unix
                return []

    def _assign(self, holding: Holding) -> list[str]:
        sandbox, address = holding.sandbox, holding.address
        problems = []
        # Taken out and put in again: holdings stand in the order of their last line.
        before = self.holdings.pop(sandbox, None)
        if before is not None and before.address != address:
            problems.append(
                f"sandbox {told(sandbox)} is written with {before.address} and later, without a "
                f"release between, with {address}: it keeps {address}, {before.address} cools"
            )
            del self._holders[before.address]
            self.cooling[before.address] = holding.since_unix
        other = self._holders.get(address, sandbox)
        if other != sandbox:
            problems.append(
                f"{address} is written for sandbox {told(other)} and later, without a release "
                f"between, for {told(sandbox)}: {told(sandbox)} keeps it"
            )
            del self.holdings[other]
        self.holdings[sandbox] = holding
        self._holders[address] = sandbox
        self.cooling.pop(address, None)
        return problems

    def _release(self, release: Release) -> list[str]:
        sandbox, address = release.sandbox, release.address
        holder = self._holders.get(address, sandbox)
        if holder != sandbox:
            told_holder = told(holder)
            problem = f"{address} is written as released by sandbox {told(sandbox)}, while "
            return [problem + f"{told_holder} holds it: {told_holder} keeps it"]
        if self._holders.pop(address, None) is not None:
            del self.holdings[sandbox]
        self.cooling[address] = release.unix
        return []

    def void(self) -> None:
        """Forget all holdings: the node was rebooted, no sandbox lives."""
        self.holdings.clear()
        self._holders.clear()

    def forget_cold(self) -> None:
        """Forget releases of long ago."""
        # Not the latest time of all entries: a clock that once was ahead would end all cooldowns.
        since = self.clock - COOLING_KEPT_S
        self.cooling = {address: at for address, at in self.cooling.items() if at > since}

    def lines(self) -> Iterator[bytes]:
        """Yield the lines that say it all, after the header."""
        yield from map(entry_line, self.holdings.values())
        for address, at in self.cooling.items():
            yield entry_line(Cooling(address, at))


def told(sandbox: SandboxKey) -> str:
    """Return a sandbox for people: the container's ID says most.

    >>> told(SandboxKey("aws-cni", "0123456789abcdef", "eth0"))
    '0123456789ab/eth0'
    """
    return f"{sandbox.container_id[:12]}/{sandbox.ifname}"


# Recovery.


@dataclass(slots=True)
class Reading:
    """What came out of a ledger's bytes."""

    book: Book
    problems: list[str]
    damaged: int = 0
    """Lines that could not be read."""


def read_ledger(data: bytes, boot_id: str, now_unix: float) -> Reading:
    """Read a ledger's bytes; raises ValueError for a version that is newer than this one.

    A last line without its line feed was never answered for: it is left out without a word,
    unless it is whole. Other lines that cannot be read are told and left out.
    """
    found = Reading(Book(), [])
    boot: str | None = None
    lines = data.split(b"\n")
    tail = len(lines)
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            one = _unsealed(line)
            if "format" in one:
                boot = _boot_of(one)
                continue
            found.problems += found.book.enter(to_entry(one))
        except NewerLedgerError:
            raise
        except (ValueError, RecursionError) as error:
            if number != tail:
                found.damaged += 1
                excerpt = line[:_EXCERPT].decode("ascii", "backslashreplace")
                found.problems.append(f"line {number} is left out, for {error}; it is: {excerpt}")
    _judge_boot(found, boot, boot_id)
    book = found.book
    book.clock = now_unix
    # A clock that was set back meanwhile must not let an address cool for years.
    book.cooling = {
        address: min(at, now_unix)
        for address, at in book.cooling.items()
        if at > now_unix - COOLING_KEPT_S
    }
    return found


class NewerLedgerError(ValueError):
    """A ledger in a format that is newer than this program."""


def _boot_of(header: Mapping[str, Json]) -> str:
    if header["format"] != FORMAT:
        raise ValueError(f"{header['format']!r} is no ledger")
    version = to_int(header["version"])
    if version > VERSION:
        raise NewerLedgerError(
            f"it has format {version} and this version of the daemon knows {VERSION}: run the "
            "newer version again, or drain the node, remove the file and reboot"
        )
    return to_text(header["boot_id"])


def _judge_boot(found: Reading, boot: str | None, boot_id: str) -> None:
    """Void the holdings of another boot; where nobody knows which boot it was, keep them.

    To keep what is void costs an address until its link is found missing; to void what is
    not would give a pod's address to another.
    """
    held = len(found.book.holdings)
    if boot is None:
        if held:
            found.problems.append(
                f"no header tells which boot it is of: its {held} assignments are kept"
            )
    elif boot != boot_id and held:
        found.problems.append(
            f"the node was rebooted since (boot {boot} then, {boot_id} now): "
            f"{held} assignments are void"
        )
        found.book.void()
