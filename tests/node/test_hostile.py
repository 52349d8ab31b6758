"""Whatever is written to the daemon's socket: a valid CNI answer or a close, and nothing grows."""

import json
import os
import random
import socket
from pathlib import Path

import pytest

from cni import wire
from sim.lab.lab import Lab
from sim.lab.node import LabNode
from sim.lab.plan import LabPlan
from tests.node.books import wait_settled

pytestmark = pytest.mark.root

INPUTS = int(os.environ.get("WARMBENCH_FUZZ", "1000"))
"""Hostile inputs: `make soak` asks for 10,000."""

WORDS = (
    b"", b"ADD", b"DEL", b"CHECK", b"GC", b"STATUS", b"VERSION", b"eth0", b"..", b"/", b"a" * 300,
    b"\xff\xfe", b"\0", b"0123456789abcdef" * 4, b"/proc/self/ns/net", b"/nowhere", b"K=V;=;;",
    b"K8S_POD_NAME=x;K8S_POD_NAMESPACE=\xc3\xa9",
)  # fmt: skip
NAMES = (
    b"CNI_COMMAND", b"CNI_CONTAINERID", b"CNI_NETNS", b"CNI_IFNAME", b"CNI_ARGS", b"CNI_PATH",
)  # fmt: skip
CONFIG = {
    "cniVersion": "1.0.0",
    "name": "aws-cni",
    "type": "aws-cni",
    "prevResult": {"cniVersion": "1.0.0", "interfaces": [], "ips": [{"address": "10.0.0.9/32"}]},
    "cni.dev/valid-attachments": [{"containerID": "x", "ifname": "eth0"}],
}


def hostile(rng: random.Random) -> bytes:
    """Make up a request: right in most respects, wrong in one or several."""
    values: list[object] = [None, 1, -1, "", "x" * 5000, [], {}, [1], True, 1e308, "9.9.9", "0.4.0"]
    conf: dict[str, object] = dict(CONFIG)
    for _ in range(rng.randint(0, 2)):
        conf[rng.choice(list(conf))] = rng.choice(values)
    text = json.dumps(conf).encode()
    if rng.random() < 0.2:
        text = text[: rng.randrange(len(text))]
    if rng.random() < 0.05:
        text = b"[" * 200_000
    variables = {name: rng.choice(WORDS) for name in NAMES if rng.random() < 0.9}
    variables = {name: value for name, value in variables.items() if b"\0" not in value}
    if rng.random() < 0.5:
        variables[b"CNI_COMMAND"] = rng.choice(WORDS[1:7])
        variables[b"CNI_CONTAINERID"] = b"fuzz-%d" % rng.randrange(50)
        variables[b"CNI_IFNAME"] = b"eth0"
    frame = bytearray(wire.encode_request(variables, text))
    if rng.random() < 0.3:
        frame[rng.randrange(len(frame))] = rng.randrange(256)
    if rng.random() < 0.1:
        del frame[rng.randrange(len(frame)) :]
    return bytes(frame)


def exchange(path: Path, frame: bytes) -> bytes:
    """Send a frame, end the sending side, and return all that comes back."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(15.0)
        client.connect(str(path))
        got = b""
        try:
            client.sendall(frame)
            client.shutdown(socket.SHUT_WR)
            while part := client.recv(65536):
                got += part
        except (BrokenPipeError, ConnectionResetError):
            pass
        return got


def check_answer(answer: bytes) -> str:
    """Return what kind of answer it is; AssertionError where a runtime could not read it."""
    if not answer:
        return "closed"
    assert wire.reply_length(answer[: wire.HEADER_BYTES]) == len(answer) - wire.HEADER_BYTES
    code, output = wire.decode_reply(answer[wire.HEADER_BYTES :])
    if code == 0:
        return "done"
    error = json.loads(output)
    assert isinstance(error["code"], int)
    assert error["msg"]
    assert "\n" not in error["msg"]
    return f"error {error['code']}"


def figures(node: LabNode) -> tuple[int, int]:
    """Return the daemon's resident memory in KiB, and its open descriptors."""
    pid = node.daemon_pid
    assert pid is not None, f"the daemon died: {node.log_tail()}"
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    memory = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(memory.split()[1]), len(list(Path(f"/proc/{pid}/fd").iterdir()))


def test_hostile_requests_change_nothing(tmp_path: Path) -> None:
    """Every input ends in an answer or a close; memory and descriptors stay where they were."""
    rng = random.Random(20)
    plan = LabPlan(
        name=f"t{os.getpid():x}", run_dir=tmp_path, latency=0, settings={"WARM_IP_TARGET": "2"}
    )
    with Lab(plan) as lab:
        (node,) = lab.nodes
        pod = node.add_pod("bystander")
        path = node.runtime.state_dir / "cni.sock"
        kinds = {check_answer(exchange(path, hostile(rng))) for _ in range(INPUTS // 5)}
        memory, descriptors = figures(node)
        kinds |= {check_answer(exchange(path, hostile(rng))) for _ in range(INPUTS)}
        memory_after, descriptors_after = figures(node)
        assert {"closed", "done", "error 4", "error 7"} <= kinds
        assert descriptors_after <= descriptors + 2
        assert memory_after <= memory + 8 * 1024
        node.check_pod(pod)
        wait_settled(lab, node)
