"""Tells metrics of actions, and health whether the node's role may do them."""

from collections.abc import Callable

from cni.daemon.health import EC2_PERMISSION, HealthBook
from cni.daemon.metrics import Metrics


class ActionWatch:
    """Hears of every action, and of what the pool has lost."""

    def __init__(self, metrics: Metrics, health: HealthBook, now: Callable[[], float]) -> None:
        """Count the permission as given: EC2 has answered when this is made."""
        self._metrics = metrics
        self._health = health
        self._now = now
        self._denied: dict[str, None] = {}
        """Kinds of action that were denied the last time; a set that keeps its order."""
        health.ok(EC2_PERMISSION, now())

    def action_started(self, kind: str) -> None:
        """Hear that an action of this kind was handed out."""
        self._metrics.action_started(kind)

    def action_ended(self, kind: str, seconds: float, failure: str) -> None:
        """Hear that it ended, and why it failed: empty where it did not.

        What is denied stays denied until an action of that very kind succeeds: a role that may
        describe ENIs may not create them yet.
        """
        self._metrics.action_ended(kind, seconds, failure)
        if failure == "denied":
            self._denied[kind] = None
        elif not failure:
            self._denied.pop(kind, None)
        if self._denied:
            why = f"{', '.join(self._denied)} denied; see iam-policy.json"
            self._health.failing(EC2_PERMISSION, why, self._now())
        else:
            self._health.ok(EC2_PERMISSION, self._now())

    def vanished(self, *, enis: int, addresses: int) -> None:
        """Hear of ENIs and addresses that EC2 shows no more while sandboxes hold them."""
        self._metrics.vanished(enis=enis, addresses=addresses)
