"""The formats that `warmbench trace import` knows; to add one, write its file and add it here."""

from __future__ import annotations

from types import MappingProxyType

from sim.sources.audit import AUDIT
from sim.sources.container_insights import CONTAINER_INSIGHTS
from sim.sources.dlrm import DLRM
from sim.sources.google2019 import GOOGLE2019
from sim.sources.importing import Importer
from sim.sources.journal import JOURNAL
from sim.sources.openb import OPENB
from sim.sources.pods import TraceError, near
from sim.sources.prometheus import PROMETHEUS
from sim.sources.watch import WATCH

IMPORTERS = MappingProxyType(
    {
        one.name: one
        for one in (
            AUDIT,
            PROMETHEUS,
            WATCH,
            CONTAINER_INSIGHTS,
            JOURNAL,
            OPENB,
            DLRM,
            GOOGLE2019,
        )
    }
)


def find(name: str) -> Importer:
    """Return the importer of a format, or raise TraceError with the names like it."""
    found = IMPORTERS.get(name)
    if found is None:
        reason = f"unknown format{near(name, IMPORTERS)}"
        allowed = ", ".join(IMPORTERS)
        raise TraceError(reason, field="FORMAT", value=name, allowed=allowed)
    return found
