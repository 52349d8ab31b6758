"""The daemon, unchanged, with a kill at a step: `python crashing_daemon.py STEP [N]`.

The N-th time (the first, unless told) that the step is reached the process kills itself with
SIGKILL: no handler runs, nothing is written, as when a node's power fails for one process.
Upstream's manner shrinks in seconds here, where it would take a minute: its steps are the same.
"""

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from cni.allocator.behaviour import PRESETS, UPSTREAM
from cni.daemon.__main__ import main

HURRIED = replace(UPSTREAM, tick_s=0.4, tick_phase_s=0.2, shrink_period_s=0.5, eni_min_age_s=1.0)


class Fuse:
    """Counts how often a step is reached, and burns through at the last."""

    def __init__(self, step: str, times: int) -> None:
        self._step = step
        self._left = times

    def __call__(self, step: str) -> None:
        if step != self._step:
            return
        self._left -= 1
        if self._left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    PRESETS["upstream"] = HURRIED
    main(Fuse(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1))
