"""From a request's bytes to its reply: parse, do, render. Every request ends in a valid answer."""

from contextlib import suppress
from typing import assert_never

import structlog

from cni.daemon.caller import Caller
from cni.daemon.sandboxes import Sandboxes
from cni.daemon.server import Reply
from cni.spec.command import Add, Check, Command, Del, Gc, Status, Version, asked_version, parse
from cni.spec.errors import CniError, Code, error_json
from cni.spec.result import result_json, version_json


class Commands:
    """Answers the plug-in's requests."""

    def __init__(self, sandboxes: Sandboxes, log: structlog.stdlib.BoundLogger) -> None:
        """Answer for these sandboxes."""
        self._sandboxes = sandboxes
        self._log = log

    async def answer(self, variables: dict[bytes, bytes], stdin: bytes, caller: Caller) -> Reply:
        """Return exit code and standard output; a fault of ours is error 999, never silence."""
        try:
            command = parse(_texts(variables), stdin)
            return 0, await self._do(command, caller)
        except CniError as error:
            self._log.warning(
                "command refused",
                command=_texts(variables).get("CNI_COMMAND", ""),
                container=_texts(variables).get("CNI_CONTAINERID", ""),
                code=int(error.code),
                error=error.message,
            )
            return 1, error_json(error, asked_version(stdin))
        except Exception as error:  # noqa: BLE001 - a runtime must have its answer
            self._log.exception("command broke")
            fault = CniError(
                Code.INTERNAL, f"a fault of the daemon: {type(error).__name__}", "see its log"
            )
            return 1, error_json(fault, asked_version(stdin))

    async def _do(self, command: Command, caller: Caller) -> bytes:
        sandboxes = self._sandboxes
        match command:
            case Add():
                return result_json(await sandboxes.add(command, caller), command.conf.cni_version)
            case Del():
                await sandboxes.delete(command)
            case Check():
                await sandboxes.check(command, caller)
            case Gc():
                await sandboxes.collect(command)
            case Status():
                sandboxes.status()
            case Version():
                return version_json()
            case _:
                assert_never(command)
        return b""

    async def unheard(self, variables: dict[bytes, bytes], stdin: bytes, reply: Reply) -> None:
        """Undo an ADD that succeeded when its caller had gone."""
        if reply[0] != 0:
            return
        with suppress(CniError):
            command = parse(_texts(variables), stdin)
            if isinstance(command, Add):
                await self._sandboxes.unheard(command)


def _texts(variables: dict[bytes, bytes]) -> dict[str, str]:
    """Decode what the runtime passed; bytes that are no UTF-8 survive into messages."""
    return {
        name.decode(errors="backslashreplace"): value.decode(errors="backslashreplace")
        for name, value in variables.items()
    }
