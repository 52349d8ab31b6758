"""10-aws.conflist: what the daemon writes for the runtime, and the shipped copy of it."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cni.daemon.install import CONFLIST, NETWORK, PLUGIN, STOCK, conflist
from cni.settings import Settings, parse
from cni.spec.command import Add
from cni.spec.command import parse as command_of
from tests.deploy.manifests import DEPLOY

PORTMAP = Path("/usr/lib/cni/portmap")


def written(**environ: str) -> dict[str, Any]:
    """Return what is written for these settings."""
    rendered: dict[str, Any] = json.loads(conflist(parse(environ, lenient=False).other))
    return rendered


def for_plugin(index: int) -> bytes:
    """Return what a runtime hands to one plug-in of the list: libcni, buildOneConfig."""
    whole = written()
    return json.dumps(
        {"cniVersion": whole["cniVersion"], "name": whole["name"], **whole["plugins"][index]}
    ).encode()


def test_the_shipped_copy_is_what_an_untouched_node_gets() -> None:
    """To the byte; write it anew with `conflist(Settings().other)`."""
    assert (DEPLOY / CONFLIST).read_text(encoding="utf-8") == conflist(Settings().other)


def test_runtimes_of_today_take_the_list() -> None:
    """Version 1.0.0, since containerd 1.6 and 1.7 refuse 1.1.0; ours first, then hostPort."""
    whole = written()

    assert (whole["cniVersion"], whole["name"]) == ("1.0.0", NETWORK)
    assert [one["type"] for one in whole["plugins"]] == [PLUGIN, "portmap"]
    assert whole["plugins"][1] == {
        "type": "portmap",
        "capabilities": {"portMappings": True},
        "snat": True,
    }
    assert "portmap" in STOCK
    assert whole["disableCheck"] is False


def test_settings_are_told() -> None:
    """Prefix, MTU and log as set; pods' MTU is that of ENIs unless it is set."""
    told = written(
        AWS_VPC_K8S_CNI_VETHPREFIX="cali",
        AWS_VPC_ENI_MTU="1500",
        AWS_VPC_K8S_PLUGIN_LOG_FILE="stderr",
        AWS_VPC_K8S_PLUGIN_LOG_LEVEL="WARN",
    )["plugins"][0]

    assert told == {
        "type": PLUGIN,
        "vethPrefix": "cali",
        "mtu": "1500",
        "pluginLogFile": "stderr",
        "pluginLogLevel": "Warn",
    }
    assert written(POD_MTU="1400")["plugins"][0]["mtu"] == "1400"


def test_our_own_reader_takes_it() -> None:
    """What a runtime hands to our plug-in for an ADD parses as the specification has it."""
    command = command_of(
        {
            "CNI_COMMAND": "ADD",
            "CNI_CONTAINERID": "c0ffee",
            "CNI_IFNAME": "eth0",
            "CNI_NETNS": "/run/netns/x",
            "CNI_PATH": "/opt/cni/bin",
        },
        for_plugin(0),
    )

    assert isinstance(command, Add)
    assert (command.conf.cni_version, command.conf.name, command.conf.type) == (
        "1.0.0",
        NETWORK,
        PLUGIN,
    )


@pytest.mark.root
def test_the_stock_portmap_speaks_this_version() -> None:
    """Debian's portmap, which the image ships, answers VERSION with the list's version among it."""
    if not PORTMAP.exists():
        pytest.skip("needs Debian's containernetworking-plugins")

    said = subprocess.run(  # noqa: S603, a fixed path
        [PORTMAP],
        input=for_plugin(1),
        env={"CNI_COMMAND": "VERSION"},
        capture_output=True,
        check=True,
    )

    assert written()["cniVersion"] in json.loads(said.stdout)["supportedVersions"]
