"""Values below /proc/sys, of the network namespace that the thread is in."""

import os
from collections.abc import Iterable

from cni.network.desired import Sysctl
from cni.network.errors import refused


def write_sysctls(root: str, wanted: Iterable[Sysctl]) -> None:
    """Write what differs; `root` is /proc/sys. Raises NetworkError.

    Reading first is cheaper than writing, takes no lock of the kernel, and is enough where
    /proc/sys is read-only but right.
    """
    for sysctl in wanted:
        try:
            if _read(root, sysctl) != sysctl.value:
                _write(root, sysctl)
        except FileNotFoundError as error:
            if not sysctl.optional:
                raise refused(f"set {sysctl.path}", error.errno or 0) from error
        except OSError as error:
            raise refused(f"set {sysctl.path} to {sysctl.value}", error.errno or 0) from error


def missing_sysctls(root: str, wanted: Iterable[Sysctl]) -> list[str]:
    """List those that have another value. Raises NetworkError."""
    missing = []
    for sysctl in wanted:
        try:
            value = _read(root, sysctl)
        except FileNotFoundError:
            if sysctl.optional:
                continue
            value = "missing"
        except OSError as error:
            raise refused(f"read {sysctl.path}", error.errno or 0) from error
        if value != sysctl.value:
            missing.append(f"{sysctl.path} is {value}, not {sysctl.value}")
    return missing


def _read(root: str, sysctl: Sysctl) -> str:
    opened = os.open(f"{root}/{sysctl.path}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(opened, 64).decode().strip()
    finally:
        os.close(opened)


def _write(root: str, sysctl: Sysctl) -> None:
    opened = os.open(f"{root}/{sysctl.path}", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(opened, sysctl.value.encode())
    finally:
        os.close(opened)
