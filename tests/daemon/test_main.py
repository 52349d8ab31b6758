"""The process itself: what it asks of the system before it serves."""

import subprocess
import sys


def test_as_many_descriptors_as_may_be_are_allowed() -> None:
    """A burst of ADDs needs two for each; what a container begins with is soon used up."""
    program = (
        "import resource as r; from cni.daemon.__main__ import raise_descriptor_limit;"
        "r.setrlimit(r.RLIMIT_NOFILE, (100, 2000)); raise_descriptor_limit();"
        "print(*r.getrlimit(r.RLIMIT_NOFILE))"
    )
    done = subprocess.run(  # noqa: S603 - this interpreter
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["2000", "2000"], "")
