#!/usr/bin/python3 -ISE
"""A plug-in that notes each call in the node's state folder and gives the address 10.0.0.77.

A pod called `refused` is refused; a pod called `stuck` cannot be deleted either.
"""

import json
import os
import sys
from pathlib import Path


def main() -> int:
    """Serve one command."""
    conf = json.load(sys.stdin)
    told = {name: value for name, value in os.environ.items() if name.startswith("CNI_")}
    with Path(os.environ["WARMBENCH_STATE_DIR"], "calls").open("a") as calls:
        calls.write(json.dumps({**told, "stdin": conf}) + "\n")
    command, pod = told["CNI_COMMAND"], told.get("CNI_ARGS", "")
    if (command == "ADD" and "POD_NAME=refused" in pod) or (
        command in ("ADD", "DEL") and "POD_NAME=stuck" in pod
    ):
        error = {"cniVersion": "1.0.0", "code": 11, "msg": "no address", "details": "pool_empty"}
        print(json.dumps(error))  # noqa: T201 - a plug-in prints its answer
        return 1
    if command == "ADD":
        result = {"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.77/32"}]}
        print(json.dumps(result))  # noqa: T201 - as above
    return 0


if __name__ == "__main__":
    sys.exit(main())
