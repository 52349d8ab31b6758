"""What goes wrong on purpose: with a request to the lab's EC2, or with a read of its metadata.

Whoever injects a fault hands over a function that is asked at the start of every attempt, with
what was asked and by whom; nearly always it answers None.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Answer(Enum):
    """What the client sees of a faulty request."""

    ERROR = "EC2's error, or the true answer where the fault has no code"
    NOTHING = "no answer at all, until the client gives up"
    RESET = "the connection is cut"
    GARBLED = "text that is no answer of EC2, as a proxy in between sends it"


@dataclass(frozen=True, slots=True)
class LabFault:
    """One attempt's fault: it fails before the effect or, if `takes_effect`, after it.

    `delay_s` is added to the latency; `http_status` 0 is the status that EC2 sends with the
    code.
    """

    code: str = ""
    message: str = "injected"
    takes_effect: bool = False
    delay_s: float = 0.0
    answer: Answer = Answer.ERROR
    http_status: int = 0

    @property
    def fails(self) -> bool:
        """Tell whether the client gets anything but the true answer."""
        return bool(self.code) or self.answer is not Answer.ERROR


NO_FAULT = LabFault()


@dataclass(frozen=True, slots=True)
class LabRequest:
    """A request as EC2 takes it in; `caller` is the instance whose credentials signed it."""

    api: str
    parameters: Mapping[str, Any] = field(hash=False)
    caller: str


Faults = Callable[[LabRequest], LabFault | None]
"""Asked at the start of every attempt at EC2."""

MetadataFaults = Callable[[str, str], LabFault | None]
"""Asked at every metadata request: the instance and the path below `/latest/`."""


@dataclass(frozen=True, slots=True)
class CallRecord:
    """One attempt at the lab's EC2, for tests and reports; `code` is empty for success.

    `code` names the answer where there was none that EC2 would send: NOTHING, RESET, GARBLED.
    """

    api: str
    start: float
    end: float
    code: str
    parameters: Mapping[str, Any] = field(hash=False)
    caller: str
