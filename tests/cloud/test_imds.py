"""The metadata is read whole or not at all, from the lab's service and from broken ones."""

import asyncio
from ipaddress import IPv4Network
from typing import Any

import pytest

from cni.allocator.model import BlockKind, EniId
from cni.cloud.calls import CallError, ReadMetadata
from cni.cloud.identity import Identity
from cni.cloud.imds import Imds, MetadataError
from sim.cloud_numbers import CloudNumbers, Delay
from sim.lab.account import NewEni
from sim.lab.faults import Answer, LabFault
from tests.lab.harness import DEADLINE_S, GROUP, INSTANCE, SUBNET, Lab, Sleeps, in_a_lab

MACS = "meta-data/network/interfaces/macs/"


def imds_of(lab: Lab, sleeps: Sleeps | None = None, **more: Any) -> Imds:
    """Make a reader of the lab's metadata that never really sleeps."""
    return Imds(sleep=Sleeps() if sleeps is None else sleeps, endpoint=lab.imds_url, **more)


def attach(lab: Lab, kind: BlockKind = BlockKind.SECONDARY_IP, blocks: int = 2) -> EniId:
    """Attach an ENI without asking over HTTP."""
    account, now = lab.cloud.account, lab.clock.now()
    new = NewEni(SUBNET, kind, blocks, "", (), "", "interface", {})
    eni_id = account.create(new, now).eni_id
    account.attach(eni_id, INSTANCE, 1, now)
    return eni_id


def test_the_identity() -> None:
    """Everything that the daemon must know of its node is read, as the lab launched it."""

    async def script(lab: Lab) -> None:
        assert await imds_of(lab).identity() == Identity(
            instance_id=INSTANCE,
            instance_type="m5.large",
            region="us-west-2",
            zone="us-west-2a",
            mac=lab.cloud.mac_of(lab.primary),
            vpc_id=lab.cloud.account.facts.vpc_id,
            subnet_id=SUBNET,
            security_group_ids=(GROUP,),
            vpc_cidrs=(IPv4Network("10.0.0.0/16"),),
            private_ip=lab.primary.primary_ip,
        )

    in_a_lab(script)


@pytest.mark.parametrize("kind", BlockKind)
def test_enis_with_their_blocks(kind: BlockKind) -> None:
    """ENIs come by device index, the primary address apart from the blocks of either kind."""

    async def script(lab: Lab) -> None:
        eni_id = attach(lab, kind, 3)
        first, second = await imds_of(lab).enis()
        described = lab.cloud.account.eni(eni_id, lab.clock.now())
        assert (first.eni.eni_id, first.eni.device_index) == (lab.primary.eni_id, 0)
        assert (second.eni.eni_id, second.eni.device_index) == (eni_id, 1)
        assert second.eni.primary_ip == described.primary_ip
        assert set(second.eni.blocks) == set(described.blocks)
        assert second.subnet == IPv4Network("10.0.0.0/24")
        assert second.mac == lab.cloud.account.note(eni_id).mac
        reply = await imds_of(lab).reply(ReadMetadata())
        assert [each.eni for each in reply.interfaces] == [first.eni, second.eni]

    in_a_lab(script)


def test_the_metadata_lags_behind() -> None:
    """An ENI is shown when its delay is over, and no earlier, whatever EC2 says."""

    async def script(lab: Lab) -> None:
        attach(lab)
        assert len(await imds_of(lab).enis()) == 1
        await lab.clock.advance(3)
        assert len(await imds_of(lab).enis()) == 2

    visible = CloudNumbers.instant()
    in_a_lab(script, numbers=_with(visible, eni_visible=Delay(3.0, 0.0)))


def _with(numbers: CloudNumbers, **changes: Any) -> CloudNumbers:
    from dataclasses import replace

    return replace(numbers, **changes)


@pytest.mark.parametrize(
    "piece", ["device-number", "interface-id", "local-ipv4s", "subnet-ipv4-cidr-block"]
)
@pytest.mark.parametrize("answer", ["missing", "empty", "garbled"])
def test_an_eni_half_shown_is_not_shown(piece: str, answer: str) -> None:
    """An ENI of which a piece is missing or makes no sense would look like a smaller one."""

    async def script(lab: Lab) -> None:
        mac = lab.cloud.account.note(attach(lab)).mac
        fault = {
            "missing": LabFault(http_status=404, message=""),
            "empty": LabFault(http_status=200, message=""),
            "garbled": LabFault(http_status=200, message="¿?"),
        }[answer]
        lab.cloud.metadata_faults = lambda _, path: (
            fault if path.endswith(f"{mac}/{piece}") else None
        )
        assert [each.eni.device_index for each in await imds_of(lab, attempts=1).enis()] == [0]

    in_a_lab(script)


def test_an_eni_on_another_network_card_is_left_out() -> None:
    """Its device index says nothing about the first card, which is the one we manage."""

    async def script(lab: Lab) -> None:
        mac = lab.cloud.account.note(attach(lab)).mac
        card = LabFault(http_status=200, message="1")
        lab.cloud.metadata_faults = lambda _, path: (
            card if path.endswith(f"{mac}/network-card") else None
        )
        assert [each.eni.device_index for each in await imds_of(lab).enis()] == [0]

    in_a_lab(script)


def test_a_dead_token_is_replaced() -> None:
    """After six hours the service answers 401; the reader asks for a token and goes on."""

    async def script(lab: Lab) -> None:
        sleeps = Sleeps()
        imds = imds_of(lab, sleeps)
        before = await imds.enis()
        await lab.clock.advance(21601)
        assert await imds.enis() == before
        assert sleeps == []

    in_a_lab(script)


@pytest.mark.parametrize(
    "fault",
    [
        LabFault(http_status=500),
        LabFault(http_status=503),
        LabFault(answer=Answer.RESET),
        LabFault(answer=Answer.NOTHING),
        LabFault(http_status=401),
    ],
    ids=["500", "503", "reset", "silent", "401"],
)
@pytest.mark.parametrize("failures", [2, 3])
def test_attempts_are_bounded(fault: LabFault, failures: int) -> None:
    """Two failures are survived with growing pauses; a third is told in one line."""

    async def script(lab: Lab) -> None:
        left = [fault] * failures * (2 if fault.http_status == 401 else 1)
        lab.cloud.metadata_faults = lambda _, path: (
            left.pop() if left and path == "meta-data/mac" else None
        )
        sleeps = Sleeps()
        imds = imds_of(lab, sleeps, timeout_s=0.7 if fault.answer is Answer.NOTHING else DEADLINE_S)
        if failures == 2:
            assert (await imds.identity()).instance_id == INSTANCE
        else:
            with pytest.raises(MetadataError) as caught:
                await imds.identity()
            assert "meta-data/mac" in str(caught.value)
            assert "\n" not in str(caught.value)
        assert sleeps == [0.1, 0.2]

    in_a_lab(script)


@pytest.mark.parametrize(
    ("status", "text"), [(403, "switched off"), (400, "instead of a token"), (200, "of a token")]
)
def test_no_token(status: int, text: str) -> None:
    """Metadata that is switched off, or a service that is none, is told as what it is."""

    async def script(lab: Lab) -> None:
        fault = LabFault(http_status=status, message="")
        lab.cloud.metadata_faults = lambda _, path: fault if path == "api/token" else None
        with pytest.raises(MetadataError, match=text):
            await imds_of(lab).enis()

    in_a_lab(script)


def test_a_missing_piece_of_the_identity_is_named() -> None:
    """The node cannot be known in part: the message names what is missing."""

    async def script(lab: Lab) -> None:
        gone = LabFault(http_status=404)
        lab.cloud.metadata_faults = lambda _, path: (
            gone if path.endswith("/security-group-ids") else None
        )
        with pytest.raises(MetadataError, match="security-group-ids"):
            await imds_of(lab).identity()

    in_a_lab(script)


def test_no_service_at_all() -> None:
    """Where nothing listens the error names the endpoint, and is a CallError for recipes."""
    heard: list[tuple[str, str]] = []
    imds = Imds(
        sleep=Sleeps(),
        endpoint="http://127.0.0.1:1",
        on_failure=lambda what, code: heard.append((what, code)),
    )

    with pytest.raises(CallError, match=r"http://127\.0\.0\.1:1: PUT api/token: Connection"):
        asyncio.run(imds.reply(ReadMetadata()))
    assert heard == [("enis", "MetadataUnavailable")] * 3


@pytest.mark.parametrize("endpoint", ["169.254.169.254", "https://169.254.169.254", "http://"])
def test_an_endpoint_must_be_a_url(endpoint: str) -> None:
    """A wrong endpoint is refused at once, with what would be right."""
    with pytest.raises(ValueError, match="must be http://HOST"):
        Imds(sleep=Sleeps(), endpoint=endpoint)


def test_proxies_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The service is link-local: a proxy would show its own host's metadata, or none."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")

    async def script(lab: Lab) -> None:
        assert (await imds_of(lab).identity()).private_ip == lab.primary.primary_ip

    in_a_lab(script)


# The lab's service, seen by others than our own reader.


def asked(lab: Lab, method: str, path: str, **headers: str) -> tuple[int, str]:
    """Ask the lab's metadata service once."""
    from http.client import HTTPConnection

    connection = HTTPConnection(lab.imds_url.removeprefix("http://"), timeout=DEADLINE_S)
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, headers=names)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


def test_the_lab_serves_imds_v2() -> None:
    """Without a living token 401; what is not there 404; folders are listed with slashes."""

    async def script(lab: Lab) -> None:
        def check() -> None:
            assert asked(lab, "GET", "/latest/meta-data/mac")[0] == 401
            for ttl in ("0", "21601", "x", ""):
                headers = {"X-aws-ec2-metadata-token-ttl-seconds": ttl}
                assert asked(lab, "PUT", "/latest/api/token", **headers)[0] == 400
            ttl = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
            token = asked(lab, "PUT", "/latest/api/token", **ttl)[1]
            with_token = {"X-aws-ec2-metadata-token": token}
            mac = lab.cloud.mac_of(lab.primary)
            for path, expected in (
                ("meta-data/mac", (200, mac)),
                (MACS, (200, f"{mac}/")),
                (f"{MACS}{mac}/ipv4-prefix", (404, "")),
                ("meta-data/nothing", (404, "")),
                ("meta-data/placement/", (200, "availability-zone\nregion")),
            ):
                assert asked(lab, "GET", f"/latest/{path}", **with_token) == expected
            lab.clock.seconds += 61
            assert asked(lab, "GET", "/latest/meta-data/mac", **with_token)[0] == 401

        await asyncio.to_thread(check)

    in_a_lab(script)


def test_boto3_finds_credentials_and_region_there() -> None:
    """Botocore's own fetchers read the lab, and EC2 then knows which instance calls."""
    from botocore.utils import IMDSRegionProvider, InstanceMetadataFetcher

    async def script(lab: Lab) -> None:
        config = {"ec2_metadata_service_endpoint": lab.imds_url}
        fetcher = InstanceMetadataFetcher(timeout=DEADLINE_S, num_attempts=1, config=config)
        found = await asyncio.to_thread(fetcher.retrieve_iam_role_credentials)
        assert lab.cloud.account.caller_of(found["access_key"]) == INSTANCE
        assert found["role_name"] == "warmbench-node"
        import botocore.session

        session = botocore.session.Session()
        session.set_config_variable("ec2_metadata_service_endpoint", lab.imds_url)
        region = await asyncio.to_thread(IMDSRegionProvider(session).provide)
        assert region == "us-west-2"

    in_a_lab(script)
