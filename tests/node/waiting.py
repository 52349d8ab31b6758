"""Waiting for real processes: look again and again until something holds, never for long."""

import time
from collections.abc import Callable

LOOK_AGAIN_S = 0.01


def wait_until(holds: Callable[[], bool], seconds: float, what: str) -> None:
    """Return as soon as `holds()` does; raise TimeoutError, naming `what`, after `seconds`."""
    give_up_at = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > give_up_at:
            raise TimeoutError(f"waited {seconds:g} s in vain: {what}")
        time.sleep(LOOK_AGAIN_S)
