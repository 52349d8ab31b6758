"""The instance metadata: a copy of EC2 that lags behind.

Each ENI has a line of versions, every one with the instant from which it is shown. Versions of
one ENI appear in the order in which they came about, so the copy is always a state that EC2
once had; different ENIs may lag differently. Nothing is scheduled: reading catches up.
"""

from collections import deque

from cni.allocator.model import AttachedEni, EniId
from cni.cloud.calls import Interface, InterfacesDescribed
from sim.vpc import EniDescription

_Versions = deque[tuple[float, EniDescription | None]]


class MetadataCopy:
    """What the metadata of one instance shows, and what it will show."""

    __slots__ = ("_versions",)

    def __init__(self) -> None:
        """Start with no ENI at all."""
        self._versions: dict[EniId, _Versions] = {}

    def note(self, eni: EniDescription, visible_at: float, now: float) -> None:
        """Show this version of an ENI from an instant on, but after its earlier versions."""
        self._append(eni.eni_id, eni, visible_at, now)

    def forget(self, eni_id: EniId, visible_at: float, now: float) -> None:
        """Stop showing an ENI from an instant on."""
        self._append(eni_id, None, visible_at, now)

    def _append(
        self, eni_id: EniId, eni: EniDescription | None, visible_at: float, now: float
    ) -> None:
        versions = self._versions.setdefault(eni_id, deque())
        if versions:
            # A node that changes blocks for weeks and never reads must not pile versions up.
            _catch_up(versions, now)
            visible_at = max(visible_at, versions[-1][0])
        versions.append((visible_at, eni))

    def read(self, now: float) -> InterfacesDescribed:
        """Return the ENIs that are shown, by device index; the metadata has no attachment ids."""
        shown = []
        gone = []
        for eni_id, versions in self._versions.items():
            _catch_up(versions, now)
            visible_at, eni = versions[0]
            if visible_at > now:
                continue
            if eni is None:
                gone.append(eni_id)
            else:
                shown.append(Interface(attached_eni(eni), ""))
        for eni_id in gone:
            del self._versions[eni_id]
        return InterfacesDescribed(
            tuple(sorted(shown, key=lambda interface: interface.eni.device_index))
        )


def _catch_up(versions: _Versions, now: float) -> None:
    """Drop the versions that a later one has replaced by now."""
    while len(versions) > 1 and versions[1][0] <= now:
        versions.popleft()


def attached_eni(eni: EniDescription) -> AttachedEni:
    """Return an ENI in the allocator's words; its device index is -1 where it is detached."""
    device_index = -1 if eni.attachment is None else eni.attachment.device_index
    return AttachedEni(eni.eni_id, device_index, eni.primary_ip, eni.blocks)
