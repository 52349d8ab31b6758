"""The table of limits: what it says, how sure it is, and how it refuses."""

import csv
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import instance_limits
from instance_limits import UnknownInstanceType, all_types, get

PUBLISHED = Path(__file__).parents[3] / "shared" / "reference" / "instance_limits_upstream.csv"


@pytest.mark.parametrize(
    ("instance_type", "enis", "ipv4_per_eni", "prefixes"),
    [
        ("m4.4xlarge", 8, 30, False),
        ("m5.large", 3, 10, True),
        ("t3.small", 3, 4, True),
        ("c5n.metal", 15, 50, True),
        # 64 ENIs on 32 cards, of which the default card has 2.
        ("p5.48xlarge", 2, 50, True),
    ],
)
def test_well_known_types_have_their_documented_limits(
    *, instance_type: str, enis: int, ipv4_per_eni: int, prefixes: bool
) -> None:
    """The numbers are those of the EC2 User Guide, for the default network card."""
    limits = get(instance_type)

    assert (limits.enis, limits.ipv4_per_eni) == (enis, ipv4_per_eni)
    assert limits.prefixes == prefixes


def test_every_row_is_sane() -> None:
    """Each type has an ENI, a secondary address, and numbers that follow from its sources."""
    assert list(all_types()) == sorted(all_types())
    for name in all_types():
        limits = get(name)
        used = limits.sources[0]

        assert limits.instance_type == name
        assert 1 <= limits.enis <= 64, name
        assert 2 <= limits.ipv4_per_eni <= 64, name
        assert (limits.enis, limits.ipv4_per_eni) == (used.enis, used.ipv4_per_eni), name
        assert limits.network_cards == len(used.enis_by_card), name
        assert used.enis == used.enis_by_card[used.default_network_card], name
        assert used.enis_total in (None, sum(used.enis_by_card)), name
        assert limits.vcpus is None or 1 <= limits.vcpus <= 2048, name
        assert limits.memory_mib is None or limits.memory_mib >= 512, name
        assert (limits.vcpus is None) == (limits.memory_mib is None), name


def test_as_many_rows_agree_as_were_counted() -> None:
    """1,364 types have one limit in both sources; four contradict, and are known by name."""
    by_agreement = Counter(get(name).agreement for name in all_types())

    assert by_agreement == {
        "agree": 1298,
        "counted_differently": 66,
        "single_source": 50,
        "conflict": 4,
    }
    assert [name for name in all_types() if get(name).agreement == "conflict"] == [
        "i7ie.48xlarge",
        "i7ie.metal-48xl",
        "i8ge.48xlarge",
        "i8ge.metal-48xl",
    ]


def test_rows_marked_as_agreeing_do_agree() -> None:
    """The mark on a row is true of the values beside it."""
    for name in all_types():
        limits = get(name)
        values = {(source.enis, source.ipv4_per_eni) for source in limits.sources}
        match limits.agreement:
            case "agree" | "counted_differently":
                assert len(limits.sources) == 2, name
                assert len(values) == 1, name
                counted_alike = limits.sources[0].enis_total == limits.enis
                assert counted_alike == (limits.agreement == "agree"), name
            case "single_source":
                assert len(limits.sources) == 1, name
            case "conflict":
                assert len(values) == 2, name


def test_a_conflict_keeps_both_values_and_uses_the_record_of_ec2() -> None:
    """EC2's record is dated and newer; the published table's 15 ENIs stay visible."""
    limits = get("i7ie.48xlarge")

    assert limits.enis == 8
    assert [source.enis for source in limits.sources] == [8, 15]
    assert limits.sources[0].source.startswith("moto")


def test_a_type_only_the_published_table_knows_has_no_vcpus() -> None:
    """Cores and memory come from EC2's record alone and are not guessed."""
    limits = get("p3.2xlarge")

    assert (limits.vcpus, limits.memory_mib) == (None, None)
    assert limits.agreement == "single_source"


def test_max_addresses_counts_what_sandboxes_can_hold() -> None:
    """Primary addresses are no sandbox's; a prefix takes a secondary address's place."""
    assert get("m4.4xlarge").max_addresses(prefix_mode=False) == 8 * 29
    assert get("m5.large").max_addresses(prefix_mode=True) == 3 * 9 * 16
    with pytest.raises(ValueError, match=r"m4\.4xlarge runs on xen: no prefixes"):
        get("m4.4xlarge").max_addresses(prefix_mode=True)


def test_an_unknown_type_names_near_ones_and_the_way_out() -> None:
    """Whoever mistypes a name sees what was meant, and what to do if nothing was."""
    with pytest.raises(UnknownInstanceType) as refusal:
        get("m5.lrage")

    assert "'m5.lrage'" in str(refusal.value)
    assert "m5.large" in refusal.value.near
    assert "--max-enis and --ips-per-eni" in str(refusal.value)


def test_a_name_like_no_other_still_gets_a_whole_sentence() -> None:
    """Without near matches the message offers none."""
    with pytest.raises(UnknownInstanceType, match=r"^unknown instance type 'zzzzzzzz'\. A type"):
        get("zzzzzzzz")


def test_bad_cells_are_refused_with_what_is_allowed() -> None:
    """A table edited by hand fails at the cell, not somewhere in a simulation."""
    with pytest.raises(ValueError, match="hypervisor 'kvm': must be one of nitro, xen, unknown"):
        instance_limits.hypervisor_of("kvm")
    with pytest.raises(ValueError, match="'yes': must be true or false"):
        instance_limits.truth_of("yes")


def test_importing_it_imports_nothing_third_party() -> None:
    """Whoever asks for a limit pays for the standard library only, and reads no file yet."""
    code = (
        "import sys; before = set(sys.modules); import instance_limits;"
        "names = {name.split('.')[0] for name in set(sys.modules) - before};"
        "print(sorted(names - sys.stdlib_module_names - {'instance_limits'}));"
        "print(instance_limits._rows.cache_info().currsize)"
    )

    done = subprocess.run(  # noqa: S603, our own interpreter
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )

    assert done.stdout.split("\n") == ["[]", "0", ""]


@pytest.mark.skipif(not PUBLISHED.exists(), reason="the published table is not beside us")
def test_every_row_of_the_published_table_is_here() -> None:
    """No type of amazon-vpc-cni-k8s v1.23.1 is lost, and none of its numbers is changed."""
    with PUBLISHED.open(encoding="utf-8") as published:
        rows = list(csv.DictReader(published))

    assert len(rows) == 1391
    for row in rows:
        limits = get(row["instance_type"])
        (theirs,) = (s for s in limits.sources if s.source == "amazon-vpc-cni-k8s v1.23.1")
        assert theirs.enis == int(row["eni_limit"]), row
        assert theirs.ipv4_per_eni == int(row["ipv4_per_eni_incl_primary"]), row
        assert theirs.hypervisor == row["hypervisor"], row
        assert theirs.bare_metal == (row["bare_metal"] == "true"), row
        assert theirs.default_network_card == int(row["default_network_card"]), row
        # Their formula for max-pods: two pods on the host network need no address.
        if limits.agreement != "conflict":
            pods = limits.max_addresses(prefix_mode=False) + 2
            assert pods == int(row["max_pods_secondary_ip_mode"]), row
