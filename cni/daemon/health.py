"""Whether the daemon can serve: what its parts report, and what follows from their silence.

Not *ready* means that ADDs would fail now; a roll-out stops at such a node. Not *live* means that
a restart is the best next step, so only parts that a restart can mend ever lead there, and only
after their patience: a disk that is full for a second must not cost the node its daemon.
Upstream's health service says SERVING for ever (`rpc_handler.go:526`).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the daemon that must work for it to serve.

    `patience_s` is how long it may fail before the daemon is to be restarted; infinite where a
    restart mends nothing. A part that reports nothing for longer than `silence_s` counts as
    failing; infinite for parts that report changes only.
    """

    name: str
    patience_s: float
    silence_s: float = inf


EVENT_LOOP = Part("event loop", patience_s=0.0, silence_s=30.0)
"""Reports every few seconds by a timer. A loop that is stuck answers no probe at all."""

LEDGER = Part("ledger", patience_s=inf)
"""A restart frees no disk: until the next ADD can be written, the node is not ready."""

NETLINK = Part("netlink", patience_s=60.0)
SERVER = Part("plug-in socket", patience_s=10.0)
EC2_PERMISSION = Part("EC2 permission", patience_s=inf)
"""A role that lacks a permission lacks it after a restart too, and warm addresses still serve."""

FIRST_REFILL = Part("first refill", patience_s=inf)

PARTS = (EVENT_LOOP, LEDGER, NETLINK, SERVER, EC2_PERMISSION, FIRST_REFILL)
"""The parts of our daemon."""


@dataclass(frozen=True, slots=True)
class Health:
    """What a probe is told; a daemon that is not live is not ready either."""

    live: bool
    ready: bool
    reasons: tuple[str, ...]
    """One line for each part that does not work; empty exactly when ready."""


@dataclass(frozen=True, slots=True)
class _Report:
    """The last thing a part said: working at an instant, or failing since one."""

    at: float
    why: str


class HealthBook:
    """Keeps the last report of each part; instants are the caller's, on one monotonic clock."""

    def __init__(self, parts: Iterable[Part], now: float) -> None:
        """Wait for the first report of each part: until then the daemon starts and is not ready."""
        self._parts = {part.name: part for part in parts}
        self._reports: dict[str, _Report] = {}
        self._born = now

    def ok(self, part: Part, now: float) -> None:
        """Hear that a part works."""
        self._reports[self._known(part)] = _Report(now, "")

    def failing(self, part: Part, why: str, now: float) -> None:
        """Hear that a part does not work; said again, it has failed since it was first said."""
        name = self._known(part)
        before = self._reports.get(name)
        since = before.at if before is not None and before.why else now
        self._reports[name] = _Report(since, why)

    def health(self, now: float) -> Health:
        """Tell what follows from all reports."""
        live = True
        reasons = []
        for part in self._parts.values():
            since, why = self._fault(part, now)
            if not why:
                continue
            failing_s = now - since
            live = live and failing_s <= part.patience_s
            reasons.append(f"{part.name}: {why}" + _for(failing_s))
        return Health(live, not reasons, tuple(reasons))

    def _fault(self, part: Part, now: float) -> tuple[float, str]:
        """Return since when a part fails, and why; no reason where it works."""
        report = self._reports.get(part.name)
        if report is not None and report.why:
            return report.at, report.why
        heard = self._born if report is None else report.at
        if now - heard > part.silence_s:
            return heard + part.silence_s, f"silent for more than {part.silence_s:.0f} s"
        # A start may take minutes while EC2 is slow: the startup probe says how long.
        return (now, "not up yet") if report is None else (now, "")

    def _known(self, part: Part) -> str:
        assert self._parts.get(part.name) == part, f"{part.name} is not a part of this daemon"
        return part.name


def _for(seconds: float) -> str:
    return f" (for {seconds:.0f} s)" if seconds >= 1 else ""
