"""The daemon, unchanged, with a kill at a step: `python crashing_daemon.py STEP [N]`.

The N-th time (the first, unless told) that the step is reached the process kills itself with
SIGKILL: no handler runs, nothing is written, as when a node's power fails for one process.
"""

import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from cni.daemon.__main__ import main


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
    main(Fuse(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1))
