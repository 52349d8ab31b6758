"""The simulated VPC keeps EC2's limits and refuses with EC2's codes."""

import pickle
import random
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cni.allocator.model import BlockKind, EniId
from sim.ec2_error import Ec2Error
from sim.subnet import Subnet
from sim.vpc import InstanceShape, Vpc

IP, PREFIX = BlockKind.SECONDARY_IP, BlockKind.PREFIX
M5_LARGE = InstanceShape(enis=3, ipv4_per_eni=10)


def a_vpc(*cidrs: str, used: float = 0, enis_max: int = 5000, zone: str = "") -> Vpc:
    """Return a VPC with subnets called subnet-0, subnet-1, …, /24 unless told otherwise."""
    rng = random.Random(1)
    return Vpc(
        (
            Subnet(f"subnet-{number}", cidr, rng, already_used=used, zone=zone)
            for number, cidr in enumerate(cidrs or ("10.0.0.0/24",))
        ),
        enis_max=enis_max,
    )


def a_node(vpc: Vpc, instance_id: str = "i-1", shape: InstanceShape = M5_LARGE) -> EniId:
    """Launch an instance in subnet-0 and return its primary ENI."""
    return vpc.launch_instance(instance_id, shape, "subnet-0", 0).eni_id


def an_attached_eni(vpc: Vpc, device_index: int, blocks: int = 0) -> tuple[EniId, str]:
    """Create an ENI and attach it to i-1; return its id and its attachment's."""
    token = f"token-{device_index}"
    eni_id = vpc.create_network_interface("subnet-0", IP, blocks, token, 0).eni_id
    return eni_id, vpc.attach_network_interface(eni_id, "i-1", device_index, 0)


def refused(error: pytest.ExceptionInfo[Ec2Error]) -> str:
    """Return EC2's code."""
    return error.value.code


def test_a_new_instance_has_a_primary_eni_and_nothing_on_it() -> None:
    """One address of the subnet, device index 0, no blocks; no pod may use the primary."""
    vpc = a_vpc()
    primary = vpc.launch_instance("i-1", M5_LARGE, "subnet-0", 3.0)

    assert primary.eni_id == "eni-00000000000000001"
    assert primary.blocks == ()
    assert primary.attachment is not None
    assert primary.attachment.device_index == 0
    assert primary.attachment.delete_on_termination
    assert vpc.describe_instances("i-1", 3.0) == (0,)
    assert vpc.describe_subnets()[0].free == 250
    assert vpc.owner_of(primary.primary_ip) is None


def test_assigned_blocks_belong_to_their_eni_until_they_are_unassigned() -> None:
    """Every address of a secondary IP or a prefix is found at its ENI, and then no more."""
    vpc = a_vpc()
    eni_id = a_node(vpc)

    ips = vpc.assign_private_ip_addresses(eni_id, IP, 2, 0)
    (prefix,) = vpc.assign_private_ip_addresses(eni_id, PREFIX, 1, 0)

    addresses = [address for block in (*ips, prefix) for address in block]
    assert len(set(addresses)) == 18
    assert all(vpc.owner_of(address) == eni_id for address in addresses)
    assert vpc.describe_network_interfaces([eni_id], 0)[0].blocks == (*ips, prefix)
    vpc.check()
    vpc.unassign_private_ip_addresses(eni_id, (*ips, prefix), 0)
    assert all(vpc.owner_of(int(address)) is None for address in addresses)
    assert vpc.describe_subnets()[0].free == 250
    vpc.check()


def test_an_eni_holds_one_block_less_than_its_addresses() -> None:
    """m5.large: nine blocks beside the primary address, of whichever kind, and not a tenth."""
    vpc = a_vpc()
    eni_id = a_node(vpc)
    vpc.assign_private_ip_addresses(eni_id, IP, 8, 0)

    with pytest.raises(Ec2Error) as error:
        vpc.assign_private_ip_addresses(eni_id, IP, 2, 0)
    assert refused(error) == "PrivateIpAddressLimitExceeded"
    vpc.assign_private_ip_addresses(eni_id, PREFIX, 1, 0)
    with pytest.raises(Ec2Error) as error:
        vpc.assign_private_ip_addresses(eni_id, PREFIX, 1, 0)
    assert refused(error) == "PrivateIpAddressLimitExceeded"
    vpc.check()


def test_an_eni_with_too_many_blocks_cannot_be_attached() -> None:
    """The limit of the type counts when the ENI meets the instance."""
    vpc = a_vpc()
    a_node(vpc)

    with pytest.raises(Ec2Error) as error:
        an_attached_eni(vpc, 1, blocks=10)
    assert refused(error) == "PrivateIpAddressLimitExceeded"


def test_an_instance_holds_as_many_enis_as_its_type_allows() -> None:
    """m5.large: three ENIs; the fourth is refused and stays detached."""
    vpc = a_vpc()
    a_node(vpc)
    an_attached_eni(vpc, 1)
    an_attached_eni(vpc, 2)

    with pytest.raises(Ec2Error) as error:
        an_attached_eni(vpc, 3)
    assert refused(error) == "AttachmentLimitExceeded"
    assert len(vpc.detached(0)) == 1


def test_a_device_index_and_an_eni_can_be_used_once() -> None:
    """A taken device index and an ENI in use have codes of their own."""
    vpc = a_vpc()
    a_node(vpc)
    eni_id, _ = an_attached_eni(vpc, 1)

    with pytest.raises(Ec2Error) as error:
        vpc.attach_network_interface(eni_id, "i-1", 2, 0)
    assert refused(error) == "InvalidNetworkInterface.InUse"
    other = vpc.create_network_interface("subnet-0", IP, 0, "other", 0).eni_id
    with pytest.raises(Ec2Error) as error:
        vpc.attach_network_interface(other, "i-1", 1, 0)
    assert refused(error) == "InvalidParameterValue"


def test_a_dry_subnet_refuses_all_or_nothing() -> None:
    """Too few addresses: no block and no ENI is made, and not even the primary is kept."""
    vpc = a_vpc("10.0.0.0/28")
    eni_id = a_node(vpc, shape=InstanceShape(enis=3, ipv4_per_eni=30))

    with pytest.raises(Ec2Error) as error:
        vpc.create_network_interface("subnet-0", IP, 10, "token", 0)
    assert refused(error) == "InsufficientFreeAddressesInSubnet"
    assert vpc.eni_count == 1
    assert vpc.describe_subnets()[0].free == 10
    with pytest.raises(Ec2Error) as error:
        vpc.assign_private_ip_addresses(eni_id, IP, 11, 0)
    assert refused(error) == "InsufficientFreeAddressesInSubnet"
    assert len(vpc.assign_private_ip_addresses(eni_id, IP, 10, 0)) == 10
    vpc.check()


def test_a_missing_prefix_has_two_names() -> None:
    """Assign says InsufficientCidrBlocks, Create says InvalidParameterValue (cni#3105)."""
    vpc = a_vpc("10.0.0.0/27")
    eni_id = a_node(vpc)

    with pytest.raises(Ec2Error) as error:
        vpc.assign_private_ip_addresses(eni_id, PREFIX, 1, 0)
    assert refused(error) == "InsufficientCidrBlocks"
    with pytest.raises(Ec2Error, match="sufficient free Ipv4 addresses or prefixes") as error:
        vpc.create_network_interface("subnet-0", PREFIX, 1, "token", 0)
    assert refused(error) == "InvalidParameterValue"
    assert vpc.eni_count == 1


def test_a_type_without_prefixes_gets_none() -> None:
    """Prefixes are for Nitro and bare metal, whether assigned or brought along."""
    vpc = a_vpc()
    eni_id = a_node(vpc, shape=InstanceShape(3, 10, prefixes_allowed=False))

    with pytest.raises(Ec2Error) as error:
        vpc.assign_private_ip_addresses(eni_id, PREFIX, 1, 0)
    assert refused(error) == "UnsupportedOperation"
    other = vpc.create_network_interface("subnet-0", PREFIX, 1, "token", 0).eni_id
    with pytest.raises(Ec2Error) as error:
        vpc.attach_network_interface(other, "i-1", 1, 0)
    assert refused(error) == "UnsupportedOperation"


def test_a_token_makes_one_eni() -> None:
    """The same request gives the same ENI; another one under the same token is refused."""
    vpc = a_vpc()
    first = vpc.create_network_interface("subnet-0", IP, 2, "token", 0)

    again = vpc.create_network_interface("subnet-0", IP, 2, "token", 9)

    assert again == first
    assert vpc.eni_count == 1
    with pytest.raises(Ec2Error) as error:
        vpc.create_network_interface("subnet-0", IP, 3, "token", 9)
    assert refused(error) == "IdempotentParameterMismatch"


def test_the_region_has_a_quota_of_enis() -> None:
    """Primary ENIs count as well."""
    vpc = a_vpc(enis_max=2)
    a_node(vpc)
    vpc.create_network_interface("subnet-0", IP, 0, "token", 0)

    with pytest.raises(Ec2Error) as error:
        a_node(vpc, "i-2")
    assert refused(error) == "NetworkInterfaceLimitExceeded"


def test_a_detaching_eni_is_in_use_until_it_is_gone() -> None:
    """Until then it keeps its device index and cannot be deleted; afterwards it can."""
    vpc = a_vpc()
    a_node(vpc)
    eni_id, attachment_id = an_attached_eni(vpc, 1, blocks=3)

    vpc.detach_network_interface(eni_id, attachment_id, 10, gone_at=12.5)

    assert vpc.describe_instances("i-1", 12.4) == (0, 1)
    assert vpc.instance_of(eni_id, 12.4) == "i-1"
    with pytest.raises(Ec2Error, match="in use") as error:
        vpc.delete_network_interface(eni_id, 12.4)
    assert refused(error) == "InvalidParameterValue"
    assert vpc.instance_of(eni_id, 12.5) is None
    assert vpc.describe_instances("i-1", 12.5) == (0,)
    vpc.delete_network_interface(eni_id, 12.5)
    assert vpc.describe_subnets()[0].free == 250
    with pytest.raises(Ec2Error) as error:
        vpc.delete_network_interface(eni_id, 13)
    assert refused(error) == "InvalidNetworkInterfaceID.NotFound"
    vpc.check()


def test_the_primary_eni_stays() -> None:
    """Device index 0 cannot be detached."""
    vpc = a_vpc()
    eni_id = a_node(vpc)
    (primary,) = vpc.interfaces_of("i-1", 0)
    assert primary.attachment is not None

    with pytest.raises(Ec2Error) as error:
        vpc.detach_network_interface(eni_id, primary.attachment.attachment_id, 0, gone_at=2)
    assert refused(error) == "OperationNotPermitted"


def test_terminating_leaks_what_is_not_marked() -> None:
    """Only ENIs marked delete-on-termination go with their instance."""
    vpc = a_vpc()
    a_node(vpc)
    marked, attachment_id = an_attached_eni(vpc, 1)
    leaked, _ = an_attached_eni(vpc, 2)
    vpc.modify_network_interface_attribute(marked, attachment_id, 0, delete_on_termination=True)

    vpc.terminate_instance("i-1", 5)

    assert vpc.detached(5) == (leaked,)
    assert vpc.eni_count == 1
    with pytest.raises(Ec2Error) as error:
        vpc.describe_instances("i-1", 5)
    assert refused(error) == "InvalidInstanceID.NotFound"
    vpc.check()


def test_what_does_not_exist_is_not_found() -> None:
    """Unknown ids have the codes that recipes and the allocator look for."""
    vpc = a_vpc()
    eni_id = a_node(vpc)

    with pytest.raises(Ec2Error) as error:
        vpc.create_network_interface("subnet-9", IP, 0, "token", 0)
    assert refused(error) == "InvalidSubnetID.NotFound"
    with pytest.raises(Ec2Error) as error:
        vpc.describe_network_interfaces([eni_id, EniId("eni-f")], 0)
    assert refused(error) == "InvalidNetworkInterfaceID.NotFound"
    with pytest.raises(Ec2Error) as error:
        vpc.detach_network_interface(eni_id, "eni-attach-f", 0, gone_at=0)
    assert refused(error) == "InvalidAttachmentID.NotFound"


def test_unassigning_a_foreign_block_changes_nothing() -> None:
    """One wrong block fails the whole request."""
    vpc = a_vpc()
    eni_id = a_node(vpc)
    (block,) = vpc.assign_private_ip_addresses(eni_id, IP, 1, 0)

    with pytest.raises(Ec2Error) as error:
        vpc.unassign_private_ip_addresses(eni_id, (block, IPv4Network("10.9.9.9/32")), 0)
    assert refused(error) == "InvalidParameterValue"
    assert vpc.owner_of(block.network_address) == eni_id


def test_subnets_are_described_most_free_first() -> None:
    """Ties are broken by id, so that the order repeats."""
    vpc = a_vpc("10.0.0.0/26", "10.0.1.0/24", "10.0.2.0/24")

    assert [subnet.subnet_id for subnet in vpc.describe_subnets()] == [
        "subnet-1",
        "subnet-2",
        "subnet-0",
    ]


def test_an_eni_of_another_zone_cannot_be_attached() -> None:
    """An instance sees the subnets of its zone and takes ENIs of no other."""
    rng = random.Random(1)
    vpc = Vpc(
        [
            Subnet("subnet-0", "10.0.0.0/24", rng, zone="a"),
            Subnet("subnet-1", "10.0.1.0/24", rng, zone="b"),
        ]
    )
    a_node(vpc)
    eni_id = vpc.create_network_interface("subnet-1", IP, 0, "token", 0).eni_id

    with pytest.raises(Ec2Error) as error:
        vpc.attach_network_interface(eni_id, "i-1", 1, 0)
    assert refused(error) == "InvalidParameterCombination"
    assert len(vpc.describe_subnets(vpc.zone_of("i-1"))) == 1


def test_overlapping_subnets_are_refused() -> None:
    """The message names both."""
    with pytest.raises(ValueError, match=r"10\.0\.0\.0/16 and 10\.0\.3\.0/24 overlap"):
        a_vpc("10.0.0.0/16", "10.0.3.0/24")


def test_names_are_used_once() -> None:
    """Neither two subnets nor two instances share an id."""
    rng = random.Random(1)
    with pytest.raises(ValueError, match="two subnets are called subnet-0"):
        Vpc(Subnet("subnet-0", cidr, rng) for cidr in ("10.0.0.0/24", "10.0.1.0/24"))
    vpc = a_vpc()
    a_node(vpc)
    with pytest.raises(Ec2Error) as error:
        a_node(vpc)
    assert refused(error) == "InvalidParameterValue"


def test_an_error_survives_pickling() -> None:
    """A refusal can cross the process border of a sweep."""
    copy = pickle.loads(pickle.dumps(Ec2Error("Code", "text")))  # noqa: S301 - our own bytes

    assert (copy.code, copy.message) == ("Code", "text")


class VpcMachine(RuleBasedStateMachine):
    """Whatever is asked in whatever order: limits hold, books balance, addresses are unique."""

    @initialize(length=st.sampled_from([26, 25, 24]))
    def start(self, length: int) -> None:
        """Begin with two small instances in one subnet."""
        self.vpc = a_vpc(f"10.0.0.0/{length}")
        self.now = 0.0
        self.token = 0
        for instance_id in ("i-1", "i-2"):
            self.vpc.launch_instance(instance_id, InstanceShape(3, 5), "subnet-0", 0)

    def any_eni(self, data: st.DataObject) -> EniId:
        """Pick one of the ENIs that exist."""
        enis = list(self.vpc.detached(self.now))
        for instance_id in ("i-1", "i-2"):
            enis += [eni.eni_id for eni in self.vpc.interfaces_of(instance_id, self.now)]
        return data.draw(st.sampled_from(enis))

    @rule(kind=st.sampled_from(BlockKind), blocks=st.integers(0, 5))
    def create(self, kind: BlockKind, blocks: int) -> None:
        """Create an ENI, or none."""
        self.token += 1
        count = self.vpc.eni_count
        try:
            self.vpc.create_network_interface("subnet-0", kind, blocks, str(self.token), self.now)
        except Ec2Error:
            assert self.vpc.eni_count == count
        else:
            assert self.vpc.eni_count == count + 1

    @rule(data=st.data(), instance=st.sampled_from(["i-1", "i-2"]), index=st.integers(0, 3))
    def attach(self, data: st.DataObject, instance: str, index: int) -> None:
        """Attach any ENI anywhere."""
        try:
            self.vpc.attach_network_interface(self.any_eni(data), instance, index, self.now)
        except Ec2Error:
            return

    @rule(data=st.data(), kind=st.sampled_from(BlockKind), count=st.integers(0, 4))
    def assign(self, data: st.DataObject, kind: BlockKind, count: int) -> None:
        """Add blocks, all or none."""
        eni_id = self.any_eni(data)
        try:
            blocks = self.vpc.assign_private_ip_addresses(eni_id, kind, count, self.now)
        except Ec2Error:
            return
        assert len(blocks) == count
        assert all(block.prefixlen == kind.value for block in blocks)

    @rule(data=st.data())
    def unassign(self, data: st.DataObject) -> None:
        """Take some blocks of an ENI back."""
        eni_id = self.any_eni(data)
        (eni,) = self.vpc.describe_network_interfaces([eni_id], self.now)
        blocks = [block for block in eni.blocks if data.draw(st.booleans())]
        self.vpc.unassign_private_ip_addresses(eni_id, blocks, self.now)

    @rule(data=st.data(), seconds=st.floats(0, 5))
    def detach(self, data: st.DataObject, seconds: float) -> None:
        """Begin to detach."""
        eni_id = self.any_eni(data)
        (eni,) = self.vpc.describe_network_interfaces([eni_id], self.now)
        attachment_id = "" if eni.attachment is None else eni.attachment.attachment_id
        try:
            self.vpc.detach_network_interface(
                eni_id, attachment_id, self.now, gone_at=self.now + seconds
            )
        except Ec2Error:
            return

    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        """Delete what is detached."""
        eni_id = self.any_eni(data)
        try:
            self.vpc.delete_network_interface(eni_id, self.now)
        except Ec2Error:
            assert self.vpc.instance_of(eni_id, self.now) is not None

    @rule(seconds=st.floats(0, 5))
    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds

    @rule(instance=st.sampled_from(["i-1", "i-2"]))
    def replace(self, instance: str) -> None:
        """Terminate an instance and launch another in its place, if the subnet has room."""
        self.vpc.terminate_instance(instance, self.now)
        self.vpc.launch_instance(instance, InstanceShape(3, 5), "subnet-0", self.now)

    @invariant()
    def books_balance(self) -> None:
        """All addresses of all ENIs are different and missing from the subnet's free ones."""
        if not hasattr(self, "vpc"):
            return
        self.vpc.check()
        enis = list(self.vpc.describe_network_interfaces(self.vpc.detached(self.now), self.now))
        for instance_id in ("i-1", "i-2"):
            enis += self.vpc.interfaces_of(instance_id, self.now)
        addresses: list[IPv4Address] = [eni.primary_ip for eni in enis]
        for eni in enis:
            for block in eni.blocks:
                addresses += block
                assert self.vpc.owner_of(block.network_address) == eni.eni_id
        (subnet,) = self.vpc.subnets
        assert len(addresses) == len(set(addresses)) == subnet.usable - subnet.free


VpcMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestVpcMachine = VpcMachine.TestCase
