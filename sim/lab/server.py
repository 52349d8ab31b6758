"""The background process of `warmbench lab up`: a `Lab`, until somebody ends it.

Started as `python -m sim.lab.server DIRECTORY` with the plan in that directory. It tells what it
is doing in `state.json`, answers `status` on a Unix socket, and starts daemons anew that have
ended, as the kubelet does. SIGTERM ends it, and all it has made with it.
"""

import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

from aiohttp import web

from sim.lab.errors import LabError, MachineError
from sim.lab.lab import Lab
from sim.lab.plan import PLAN, SOCKET, STATE, LabPlan

RESTART_PAUSE_S = 2.0
"""How long an ended daemon stays ended; the kubelet waits longer from failure to failure."""


class _Ended(BaseException):
    """SIGTERM or SIGINT: under a name that nobody below catches."""


def _end(_signal: int, _frame: object) -> None:
    # One is enough: a second signal must not interrupt the cleaning up.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    raise _Ended


class _Progress:
    """What `up` and `status` read: written to a new file, then moved into its place."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / STATE
        self._told: dict[str, Any] = {"phase": "starting", "steps": [], "error": ""}

    def step(self, text: str) -> None:
        """Tell what is being done now."""
        self._told["steps"].append(text)
        self._write()

    def phase(self, phase: str, error: str = "") -> None:
        """Tell that the lab is ready, or that it has failed and why."""
        self._told["phase"] = phase
        self._told["error"] = error
        self._write()

    def _write(self) -> None:
        writing = self._path.with_suffix(".writing")
        writing.write_text(json.dumps(self._told), encoding="utf-8")
        writing.replace(self._path)


def serve(directory: Path) -> int:
    """Be the lab of a directory until SIGTERM; return the exit code."""
    progress = _Progress(directory)
    try:
        plan = LabPlan.from_json((directory / PLAN).read_text(encoding="utf-8"))
        with Lab(plan, on_step=progress.step, keep_files=True) as lab:
            lab.services.serve_path(_status_app(lab), directory / SOCKET)
            progress.phase("ready")
            while True:
                time.sleep(RESTART_PAUSE_S)
                lab.restart_ended_daemons()
    except _Ended:
        return 0
    except (LabError, MachineError, ValueError, OSError) as error:
        progress.phase("failed", str(error))
        return 1


def _status_app(lab: Lab) -> web.Application:
    async def status(_: web.Request) -> web.Response:
        return web.json_response(lab.status())

    app = web.Application()
    app.router.add_get("/status", status)
    return app


def main() -> None:
    """Run the server; its one argument is the lab's directory."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    (directory,) = sys.argv[1:]
    sys.exit(serve(Path(directory)))


if __name__ == "__main__":
    main()
