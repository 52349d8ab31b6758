"""The commands of the lab: a VPC and its nodes on this machine, with the unchanged daemon."""

import json
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from sim import cli_options as opt

if TYPE_CHECKING:
    from sim.lab.background import BackgroundLab

lab_app = typer.Typer(
    help="Run plug-in, nodes and EC2 on this machine (root).",
    no_args_is_help=True,
    rich_markup_mode=None,
)
pod_app = typer.Typer(
    help="Add and delete pods, as a container runtime does.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
lab_app.add_typer(pod_app, name="pod")

_INTERNET = "198.51.100.10"


class PluginName(StrEnum):
    """Which of the two plug-in executables the nodes have."""

    PYTHON = "python"
    C = "c"


Name = Annotated[str, typer.Option("--name", help="Which lab.")]
RunDir = Annotated[Path, typer.Option("--run-dir", help="Where labs keep their files.")]
Nodes = Annotated[int, typer.Option("--nodes", help="Number of nodes.", min=1, max=16)]
Instance = Annotated[
    str, typer.Option("--instance", help="Instance type of the nodes.", metavar="TYPE")
]
SubnetOption = Annotated[
    str, typer.Option("--subnet", help="The subnet all ENIs are in.", metavar="CIDR")
]
VpcCidrs = Annotated[
    list[str] | None,
    typer.Option("--vpc-cidr", help="A CIDR of the VPC; repeatable.", metavar="CIDR"),
]
Latency = Annotated[
    float,
    typer.Option("--latency", help="Factor on EC2's latencies; 0: at once, never throttled."),
]
PluginOption = Annotated[
    PluginName, typer.Option("--plugin", help="The plug-in executable; c needs gcc.")
]
Daemon = Annotated[
    str | None, typer.Option("--daemon", help="Start this in place of the daemon.", hidden=True)
]
PluginPath = Annotated[
    Path | None, typer.Option("--plugin-path", help="Install this plug-in.", hidden=True)
]
PodName = Annotated[str, typer.Argument(help="Name of the pod, such as web-1.")]

_RUN_DIR = Path("/run/warmbench-lab")


@contextmanager
def _told() -> Iterator[None]:
    """End the command with one clear message where the lab says that something failed."""
    from sim.lab.errors import LabError

    try:
        yield
    except LabError as error:
        console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
        console.print(f"warmbench: {error}")
        raise typer.Exit(1) from error


def _lab(name: str, run_dir: Path) -> "BackgroundLab":
    from sim.lab.background import BackgroundLab
    from sim.lab.machine import require_machine

    require_machine()
    return BackgroundLab(name, run_dir.absolute())


@lab_app.command("up")
def up(
    name: Name = "lab",
    nodes: Nodes = 2,
    instance: Instance = "m5.large",
    subnet: SubnetOption = "10.0.0.0/20",
    vpc_cidrs: VpcCidrs = None,
    settings: opt.Set = None,
    behaviour: opt.BehaviourOption = opt.BehaviourName.NATIVE,
    latency: Latency = 1.0,
    plugin: PluginOption = PluginName.PYTHON,
    seed: opt.Seed = 0,
    run_dir: RunDir = _RUN_DIR,
    daemon: Daemon = None,
    plugin_path: PluginPath = None,
) -> None:
    """Start a lab in the background, and return when its nodes are ready.

    Nothing outside of its own network namespaces changes; `warmbench lab down` ends it.
    """
    from sim.lab.plan import LabPlan

    lab = _lab(name, run_dir)
    opt.settings_of(settings, behaviour.preset)
    given = dict(pair.split("=", 1) for pair in settings or ())
    if behaviour is not opt.BehaviourName.NATIVE:
        given.setdefault("WARMBENCH_BEHAVIOUR", behaviour.value)
    more: dict[str, Any] = {} if daemon is None else {"daemon": tuple(shlex.split(daemon))}
    plan = LabPlan(
        name=name,
        run_dir=run_dir.absolute(),
        nodes=nodes,
        instance=instance,
        vpc_cidrs=tuple(vpc_cidrs) if vpc_cidrs else ("10.0.0.0/16",),
        subnet=subnet,
        settings=given,
        latency=latency,
        plugin=plugin.value if plugin_path is None else str(plugin_path.absolute()),
        seed=seed,
        **more,
    )
    console = Console(stderr=True, highlight=False, markup=False)
    with _told(), console.status("starting the lab") as status:
        lab.up(plan, os.environ, status.update)
    _print_next(lab, name)


def _print_next(lab: "BackgroundLab", name: str) -> None:
    """Tell what there is, and what to try."""
    other = "" if name == "lab" else f" --name {name}"
    typer.echo(f"The lab is up; its files are in {lab.directory}. Try")
    # Not a table, which would fold commands that are to be copied.
    for words, meaning in (
        (f"pod add web-1{other}", "a pod, by the plug-in's ADD"),
        (f"status{other}", "nodes, ENIs, addresses, pods"),
        (f"exec web-1{other} -- curl -s {_INTERNET}", "as whom the internet sees the pod"),
        (f"down{other}", "the end of it all"),
    ):
        typer.echo(f"  warmbench lab {words:44} # {meaning}")


@pod_app.command("add")
def pod_add(
    pod: PodName,
    node: Annotated[
        str | None, typer.Option("--node", help="On which node; else the one with fewest pods.")
    ] = None,
    name: Name = "lab",
    run_dir: RunDir = _RUN_DIR,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result of ADD.")] = False,
) -> None:
    """Make a pod: a network namespace, and the plug-in's ADD."""
    lab = _lab(name, run_dir)
    with _told():
        if any(pod == known.name for one in lab.runtimes() for known in one.pods()):
            raise ValueError(f"there is a pod {pod} already: choose another name")
        runtime = lab.emptiest() if node is None else lab.runtime(node)
        made = runtime.add(pod)
    if as_json:
        typer.echo(json.dumps(made.result))
        return
    typer.echo(f"{made.name} on {made.node} has {made.address}, in {made.namespace.name}")


@pod_app.command("del")
def pod_del(
    pods: Annotated[list[str], typer.Argument(help="Names of the pods.")],
    name: Name = "lab",
    run_dir: RunDir = _RUN_DIR,
) -> None:
    """Delete pods: the plug-in's DEL, the namespace, and DEL again, as containerd does."""
    lab = _lab(name, run_dir)
    with _told():
        for pod in pods:
            runtime, _ = lab.pod(pod)
            runtime.delete(pod)
            typer.echo(f"{pod} is gone from {runtime.node_name}")


@lab_app.command("exec", context_settings={"ignore_unknown_options": True})
def run_in(
    where: Annotated[str, typer.Argument(help="A pod or a node, or internet, peer or vpc.")],
    command: Annotated[list[str], typer.Argument(help="The command and its arguments.")],
    name: Name = "lab",
    run_dir: RunDir = _RUN_DIR,
) -> None:
    """Run a command in the network of a pod, a node, the internet or the VPC's router.

    Put -- before the command, so that its options are its own.
    """
    namespace = _lab(name, run_dir).namespace(where)
    words = namespace.command(command)
    os.execvp(words[0], words)  # noqa: S606 - the user's own command, in place of this process


@lab_app.command("status")
def status(
    name: Name = "lab",
    run_dir: RunDir = _RUN_DIR,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show the nodes, their ENIs and addresses, and the pods."""
    lab = _lab(name, run_dir)
    with _told():
        told = lab.status()
    if as_json:
        typer.echo(json.dumps(told))
        return
    opt.print_rows(
        [_node_row(node) for node in told["nodes"]],
        ("node", "daemon", "ENIs", "addresses", "pods"),
        opt.Format.TABLE,
    )
    enis = [_eni_row(node["name"], eni) for node in told["nodes"] for eni in node["enis"]]
    typer.echo()
    opt.print_rows(enis, ("ENI", "node", "index", "primary address", "blocks"), opt.Format.TABLE)
    pods = [
        (pod["name"], node["name"], pod["address"] or "ADD failed", pod["namespace"])
        for node in told["nodes"]
        for pod in node["pods"]
    ]
    if pods:
        typer.echo()
        opt.print_rows(pods, ("pod", "node", "address", "namespace"), opt.Format.TABLE)
    typer.echo()
    free = ", ".join(f"{one['cidr']} has {one['free']:,} free" for one in told["subnets"])
    typer.echo(f"subnet {free}; packets dropped for a false source: {told['spoofed_packets']:,}")


def _node_row(node: dict[str, Any]) -> tuple[object, ...]:
    daemon = "ended" if node["daemon_pid"] is None else f"pid {node['daemon_pid']}"
    if node["daemon_starts"] > 1:
        daemon += f", start {node['daemon_starts']}"
    addresses = sum(_addresses(eni) for eni in node["enis"])
    return (node["name"], daemon, len(node["enis"]), addresses, len(node["pods"]))


def _eni_row(node: str, eni: dict[str, Any]) -> tuple[object, ...]:
    blocks = " ".join(block.removesuffix("/32") for block in eni["blocks"])
    return (eni["eni_id"], node, eni["device_index"], eni["primary_ip"], blocks)


def _addresses(eni: dict[str, Any]) -> int:
    """Count the addresses that pods can have of an ENI."""
    return sum(1 << (32 - int(block.rpartition("/")[2])) for block in eni["blocks"])


@lab_app.command("down")
def down(name: Name = "lab", run_dir: RunDir = _RUN_DIR) -> None:
    """End a lab: its processes, namespaces and files. Again, or after a crash, is fine."""
    lab = _lab(name, run_dir)
    with _told():
        found = lab.down()
    typer.echo(f"lab {name!r} is gone" if found else f"there is no lab {name!r}")
