"""The ledger with health and metrics looking over its shoulder."""

from collections.abc import Callable
from ipaddress import IPv4Address

from cni.allocator.model import SandboxKey
from cni.daemon.health import LEDGER, HealthBook
from cni.daemon.holdings import Holding
from cni.daemon.ledger import Ledger, LedgerError


class WatchedLedger:
    """Writes to a ledger, and reports how long that took or why it failed."""

    def __init__(
        self,
        ledger: Ledger,
        health: HealthBook,
        now: Callable[[], float],
        synced: Callable[[float], None],
    ) -> None:
        """Report to `health`, and the seconds of every append to `synced`."""
        self._ledger = ledger
        self._health = health
        self._now = now
        self._synced = synced
        health.ok(LEDGER, now())

    async def assigned(self, holding: Holding) -> None:
        """As `Ledger.assigned`."""
        started = self._now()
        try:
            await self._ledger.assigned(holding)
        except LedgerError as error:
            self._failed(error)
            raise
        self._wrote(started)

    async def released(self, sandbox: SandboxKey, address: IPv4Address, now_unix: float) -> None:
        """As `Ledger.released`."""
        started = self._now()
        try:
            await self._ledger.released(sandbox, address, now_unix)
        except LedgerError as error:
            self._failed(error)
            raise
        self._wrote(started)

    def _failed(self, error: LedgerError) -> None:
        self._health.failing(LEDGER, str(error), self._now())

    def _wrote(self, started: float) -> None:
        now = self._now()
        self._synced(now - started)
        self._health.ok(LEDGER, now)
