"""Prometheus' text format, with upstream's counters under the names that upstream gives them.

prometheus_client ends every counter's name in `_total`, in what it collects and in what it
prints. Upstream's end in `_count` or in nothing, and its dashboards ask for exactly those, so the
text is written here. Format 0.0.4: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from collections.abc import Iterable, Mapping
from math import inf, isnan
from typing import Protocol

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

WITHOUT_TOTAL = frozenset(
    f"awscni_{name}"
    for name in (
        "add_ip_req_count",
        "aws_api_error_count",
        "aws_utils_error_count",
        "del_ip_req_count",
        "ec2api_error_count",
        "ec2api_req_count",
        "force_removed_enis",
        "force_removed_ips",
        "ipamd_error_count",
        "no_available_ip_addresses",
        "reconcile_count",
        "unrecovered_checkpoint_entries",
    )
)
"""Upstream's counters whose name does not end in `_total`."""


class Sample(Protocol):
    """One number, as prometheus_client collects it."""

    @property
    def name(self) -> str:
        """The full name, suffix included."""
        ...

    @property
    def labels(self) -> Mapping[str, str]:
        """The labels by name."""
        ...

    @property
    def value(self) -> float:
        """The number."""
        ...


class Family(Protocol):
    """Numbers of one name, as prometheus_client collects them."""

    @property
    def name(self) -> str:
        """The name without any suffix."""
        ...

    @property
    def documentation(self) -> str:
        """What it means."""
        ...

    @property
    def type(self) -> str:
        """Counter, gauge, histogram, summary or info."""
        ...

    @property
    def samples(self) -> Iterable[Sample]:
        """The numbers."""
        ...


def exposition(families: Iterable[Family]) -> bytes:
    """Write families as text, each with its meaning and type, in the order given."""
    lines: list[str] = []
    for family in families:
        name, kind = _head(family)
        text = family.documentation.replace("\\", r"\\").replace("\n", r"\n")
        lines += (f"# HELP {name} {text}", f"# TYPE {name} {kind}")
        bare = family.name in WITHOUT_TOTAL
        for sample in family.samples:
            # When a series was made is OpenMetrics' to tell; this format would call it a gauge.
            if not sample.name.endswith("_created"):
                shown = family.name if bare else sample.name
                lines.append(f"{shown}{_labels(sample.labels)} {_number(sample.value)}")
    return "\n".join([*lines, ""]).encode()


def _head(family: Family) -> tuple[str, str]:
    """Return name and type for the two lines above the samples."""
    match family.type:
        case "counter" if family.name not in WITHOUT_TOTAL:
            return f"{family.name}_total", "counter"
        case "info":
            return f"{family.name}_info", "gauge"
        case kind:
            return family.name, kind


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(text)}"' for name, text in labels.items()) + "}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _number(value: float) -> str:
    """Write a number as Go reads it.

    >>> _number(3), _number(0.25), _number(inf)
    ('3.0', '0.25', '+Inf')
    """
    if isnan(value):
        return "NaN"
    if value in (inf, -inf):
        return "+Inf" if value > 0 else "-Inf"
    return repr(float(value))
