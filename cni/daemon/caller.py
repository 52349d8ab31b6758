"""Who sent a command: the namespace it passed along, and whether it is still there."""

import asyncio
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class Caller:
    """One plug-in process; `netns` is a descriptor that the server closes after the answer."""

    netns: int | None = None
    gone: asyncio.Event = field(default_factory=asyncio.Event)
