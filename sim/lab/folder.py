"""The folder of a lab, removed whole."""

import re
import shutil
import subprocess
from pathlib import Path

from sim.lab.errors import LabError
from sim.lab.namespace import PATH

_UMOUNT_TIMEOUT_S = 30.0


def remove_folder(folder: Path) -> None:
    """Remove a folder with all in it, after what is mounted below; none there is fine.

    What is mounted there by a container runtime belongs to somebody else: deleting through the
    mount would reach it.
    """
    for point in reversed(_mounts_below(folder)):
        done = subprocess.run(
            ["umount", "--lazy", point],
            env={"PATH": PATH, "LANG": "C.UTF-8"},
            capture_output=True,
            text=True,
            timeout=_UMOUNT_TIMEOUT_S,
            check=False,
        )
        if done.returncode != 0:
            raise LabError(f"cannot unmount {point}: {done.stderr.strip()}")
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        return
    except OSError as error:
        raise LabError(f"cannot remove {folder}: {error}") from error


def _mounts_below(folder: Path) -> list[str]:
    """List the mount points at or below a folder, outer ones first (proc(5), mountinfo)."""
    points = []
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        point = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), line.split()[4])
        if Path(point).is_relative_to(folder):
            points.append(point)
    return points
