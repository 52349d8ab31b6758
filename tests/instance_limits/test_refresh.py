"""Rewriting the table: what each source may change, and what stays."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber
from moto import mock_aws

from instance_limits import refresh

EC2_SOURCE = "moto 5.2.5 (October 2026)"


def record(instance_type: str = "x9.large", enis: int = 3, **changes: Any) -> dict[str, Any]:
    """Build one InstanceTypeInfo with a single network card."""
    return {
        "InstanceType": instance_type,
        "BareMetal": False,
        "Hypervisor": "nitro",
        "VCpuInfo": {"DefaultVCpus": 2},
        "MemoryInfo": {"SizeInMiB": 8192},
        "NetworkInfo": {
            "DefaultNetworkCardIndex": 0,
            "Ipv4AddressesPerInterface": 10,
            "MaximumNetworkInterfaces": enis,
            "NetworkCards": [{"NetworkCardIndex": 0, "MaximumNetworkInterfaces": enis}],
        },
    } | changes


def published(**changes: str) -> dict[str, str]:
    """Build one row of a published table that agrees with `record()`."""
    return {
        "instance_type": "x9.large",
        "eni_limit": "3",
        "ipv4_per_eni_incl_primary": "10",
        "hypervisor": "nitro",
        "bare_metal": "false",
        "default_network_card": "0",
        "max_enis_per_card": "0:3",
    } | changes


def merged(*records: dict[str, Any], table: tuple[dict[str, str], ...] = ()) -> refresh.Row:
    """Merge into an empty table that then has one row."""
    tables = {row["instance_type"]: refresh.table_type_of(row, "a table") for row in table}
    (row,) = refresh.merge([], refresh.by_name(records, "EC2"), tables)
    return row


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sign calls with nobody's credentials, whatever the machine has."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


@pytest.fixture
def aws(credentials: None) -> Iterator[None]:  # noqa: ARG001, wanted for what it sets
    """Answer EC2 calls from moto."""
    with mock_aws():
        yield


@pytest.fixture
def ec2(credentials: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stubber]:  # noqa: ARG001, as above
    """Answer EC2 calls from what the test puts in, and expect all of them to be made."""
    client = boto3.client("ec2")
    monkeypatch.setattr(boto3, "client", lambda *_, **__: client)
    with Stubber(client) as stubber:
        yield stubber
        stubber.assert_no_pending_responses()


@pytest.mark.usefixtures("aws")
def test_asking_ec2_gives_the_committed_table_byte_for_byte(tmp_path: Path) -> None:
    """DescribeInstanceTypes as moto answers it, put into today's table, changes nothing."""
    out = tmp_path / "limits.csv"

    code = refresh.main(["--from-ec2", "--ec2-source", EC2_SOURCE, "--out", str(out)])

    assert code == 0
    assert out.read_bytes() == refresh.PRESENT.read_bytes()


@pytest.mark.usefixtures("aws")
def test_the_published_columns_alone_bring_the_table_back(tmp_path: Path) -> None:
    """With EC2's columns emptied, asking EC2 fills them again: no cell is made by hand."""
    rows = [
        {name: "" if name.startswith("ec2_") else cell for name, cell in row.items()}
        for row in refresh.read_csv(refresh.PRESENT)
        if row["table_source"]
    ]
    bare, out = tmp_path / "bare.csv", tmp_path / "limits.csv"
    bare.write_text(refresh.text_of(rows), encoding="utf-8")

    asked = ["--from-ec2", "--ec2-source", EC2_SOURCE]
    code = refresh.main([*asked, "--present", str(bare), "--out", str(out)])

    assert code == 0
    assert out.read_bytes() == refresh.PRESENT.read_bytes()


def test_merging_nothing_changes_nothing() -> None:
    """Each source keeps its cells when a run is not given it."""
    rows = refresh.merge(refresh.read_csv(refresh.PRESENT), {}, {})

    assert refresh.text_of(rows).encode() == refresh.PRESENT.read_bytes()


def test_pages_of_ec2_are_followed_to_the_last(ec2: Stubber) -> None:
    """EC2 answers 100 types a page; the next page is asked for until there is none."""
    first = {"InstanceTypes": [record("x9.large")], "NextToken": "more"}
    ec2.add_response("describe_instance_types", first, {})
    last = {"InstanceTypes": [record("x9.xlarge")]}
    ec2.add_response("describe_instance_types", last, {"NextToken": "more"})

    names = [found["InstanceType"] for found in refresh.ask_ec2([])]

    assert names == ["x9.large", "x9.xlarge"]


def test_a_refusal_of_ec2_is_one_line(ec2: Stubber, capsys: pytest.CaptureFixture[str]) -> None:
    """Missing rights end the run with exit code 2 and no traceback; nothing is written."""
    before = refresh.PRESENT.read_bytes()
    ec2.add_client_error("describe_instance_types", "UnauthorizedOperation")

    code = refresh.main(["--from-ec2"])

    assert code == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert refresh.PRESENT.read_bytes() == before


def test_two_sources_that_say_the_same_agree() -> None:
    """One limit, counted alike."""
    row = merged(record(), table=(published(),))

    assert (row["agreement"], row["used"]) == ("agree", "ec2")
    assert (row["vcpus"], row["memory_mib"]) == ("2", "8192")


def test_the_sum_over_cards_is_another_count_and_no_conflict() -> None:
    """EC2's headline number adds up all cards; the default card's number is the limit."""
    network = {
        "DefaultNetworkCardIndex": 1,
        "Ipv4AddressesPerInterface": 10,
        "MaximumNetworkInterfaces": 7,
        "NetworkCards": [
            {"NetworkCardIndex": 1, "MaximumNetworkInterfaces": 3},
            {"NetworkCardIndex": 0, "MaximumNetworkInterfaces": 4},
        ],
    }
    table = published(default_network_card="1", max_enis_per_card="0:4 1:3")

    row = merged(record(NetworkInfo=network), table=(table,))

    assert row["agreement"] == "counted_differently"
    assert (row["enis"], row["ec2_enis_total"], row["network_cards"]) == ("3", "7", "2")
    assert row["ec2_enis_by_card"] == row["table_enis_by_card"] == "4 3"


@pytest.mark.parametrize(
    "change",
    [
        {"eni_limit": "4", "max_enis_per_card": "0:4"},
        {"ipv4_per_eni_incl_primary": "12"},
        {"hypervisor": "xen"},
        {"bare_metal": "true"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_sources_that_contradict_are_a_conflict_won_by_ec2(change: dict[str, str]) -> None:
    """The record of EC2 is used, and what the table says stays beside it."""
    row = merged(record(), table=(published(**change),))

    assert (row["agreement"], row["used"]) == ("conflict", "ec2")
    assert (row["enis"], row["ipv4_per_eni"], row["hypervisor"]) == ("3", "10", "nitro")
    assert row["table_enis"] == change.get("eni_limit", "3")


def test_a_hypervisor_left_out_is_no_contradiction() -> None:
    """EC2 names no hypervisor for bare metal; the table's word then counts."""
    bare = record(BareMetal=True)
    del bare["Hypervisor"]

    row = merged(bare, table=(published(bare_metal="true"),))

    assert (row["agreement"], row["hypervisor"]) == ("agree", "nitro")
    assert row["ec2_hypervisor"] == "unknown"


def test_a_type_that_vanishes_from_its_source_keeps_its_dated_row() -> None:
    """EC2 stops listing retired types, whose nodes may still run."""
    first = merged(record(), table=(published(),))

    (row,) = refresh.merge([first], {}, {})

    assert row == first
    assert row["ec2_source"] == "EC2"


def test_regions_that_contradict_each_other_are_refused() -> None:
    """Which region is right is for a person to say."""
    with pytest.raises(ValueError, match=r"x9\.large: regions differ"):
        refresh.by_name([record(enis=3), record(enis=4)], "EC2")


def test_an_answer_saved_by_the_aws_command_can_be_read(tmp_path: Path) -> None:
    """Whoever has no boto3 refreshes from a file."""
    saved, out = tmp_path / "types.json", tmp_path / "limits.csv"
    saved.write_text(json.dumps({"InstanceTypes": [record("x9.large")]}), encoding="utf-8")

    code = refresh.main(["--from-json", str(saved), "--out", str(out)])

    rows = {row["instance_type"]: row for row in csv.DictReader(out.read_text().splitlines())}
    assert code == 0
    assert len(rows) == len(refresh.read_csv(refresh.PRESENT)) + 1
    assert rows["x9.large"]["ec2_source"] == "types.json"


@pytest.mark.parametrize("option", ["--table", "--from-json"])
def test_a_missing_file_is_named(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong path ends in one line with the path in it, never in an empty table."""
    out = tmp_path / "limits.csv"

    code = refresh.main([option, str(tmp_path / "none"), "--out", str(out)])

    assert code == 2
    assert str(tmp_path / "none") in capsys.readouterr().err
    assert not out.exists()
