"""A daemon that only looks ready: a configuration list, and a socket that takes connections.

Its first argument may change that: `dies` ends at once with a last word, `hangs` is never ready.
"""

import json
import os
import socket
import sys
import time
from pathlib import Path


def main() -> None:
    """Be ready, and wait for a signal."""
    print("stub daemon of", os.environ["MY_NODE_NAME"], flush=True)  # noqa: T201 - its log
    if "dies" in sys.argv:
        sys.exit("no allocator today")
    state = Path(os.environ["WARMBENCH_STATE_DIR"])
    (state / "cni.sock").unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(state / "cni.sock"))
        listener.listen()
        if "hangs" not in sys.argv:
            conf_dir = Path(os.environ["HOST_CNI_CONFDIR_PATH"])
            plugins = [{"type": "aws-cni", "mtu": "9001"}, {"type": "not-installed-anywhere"}]
            conf = {"cniVersion": "1.0.0", "name": "aws-cni", "plugins": plugins}
            (conf_dir / "writing").write_text(json.dumps(conf))
            (conf_dir / "writing").replace(conf_dir / "10-aws.conflist")
        while True:
            time.sleep(60)


if __name__ == "__main__":
    main()
