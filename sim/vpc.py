"""The VPC as EC2 keeps it: subnets, instances, ENIs, and who holds which address.

Methods are EC2's API in snake case and refuse with EC2's own codes (`Ec2Error`). Nothing here
waits, throttles or fails at random: that is `sim/cloud.py`. Time is the argument `now`, in
seconds; it matters where an ENI is detached, which takes EC2 a while.
Sources: EC2 API reference; limits by instance type, "Elastic network interfaces".
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network
from math import inf

from cni.allocator.model import Block, BlockKind, EniId
from sim.blocks import BlockKey, HeldBlocks, key_of
from sim.ec2_error import Ec2Error
from sim.subnet import Subnet

ENIS_PER_REGION = 5000
"""EC2's default quota of ENIs in a region, L-DF5E4CA3."""


@dataclass(frozen=True, slots=True)
class InstanceShape:
    """What an instance type allows; `ipv4_per_eni` counts the primary address."""

    enis: int
    ipv4_per_eni: int
    prefixes_allowed: bool = True


@dataclass(frozen=True, slots=True)
class Attachment:
    """How an ENI hangs on an instance; `gone_at` is finite once it is being detached."""

    attachment_id: str
    instance_id: str
    device_index: int
    delete_on_termination: bool = False
    gone_at: float = inf


@dataclass(frozen=True, slots=True)
class EniDescription:
    """An ENI at one instant; `blocks` are in the order in which they were added."""

    eni_id: EniId
    subnet_id: str
    primary_ip: IPv4Address
    blocks: tuple[Block, ...]
    attachment: Attachment | None
    created_at: float


@dataclass(frozen=True, slots=True)
class SubnetDescription:
    """A subnet at one instant; `free` is EC2's AvailableIpAddressCount."""

    subnet_id: str
    cidr: IPv4Network
    zone: str
    free: int
    free_prefixes: int


@dataclass(slots=True, eq=False)
class _Eni:
    """An ENI; the description is made when asked for and kept until something changes."""

    eni_id: EniId
    subnet: Subnet
    primary_ip: IPv4Address
    created_at: float
    blocks: dict[BlockKey, Block] = field(default_factory=dict)
    attachment: Attachment | None = None
    description: EniDescription | None = None


@dataclass(slots=True, eq=False)
class _Instance:
    """An instance with its ENIs by device index."""

    instance_id: str
    shape: InstanceShape
    zone: str
    enis: dict[int, _Eni] = field(default_factory=dict)


class Vpc:
    """The one door to the state of a simulated VPC; ids count up, so that runs repeat."""

    def __init__(self, subnets: Iterable[Subnet], *, enis_max: int = ENIS_PER_REGION) -> None:
        """Take subnets that do not overlap; `enis_max` is the quota of the region.

        Raises ValueError where subnets overlap or share an id.
        """
        self._subnets: dict[str, Subnet] = {}
        for subnet in subnets:
            for other in self._subnets.values():
                if subnet.network.overlaps(other.network):
                    message = f"subnets {other.network} and {subnet.network} overlap"
                    raise ValueError(message)
            if subnet.subnet_id in self._subnets:
                message = f"two subnets are called {subnet.subnet_id}"
                raise ValueError(message)
            self._subnets[subnet.subnet_id] = subnet
        self._enis_max = enis_max
        self._enis: dict[EniId, _Eni] = {}
        self._instances: dict[str, _Instance] = {}
        self._tokens: dict[str, tuple[EniId, tuple[str, BlockKind, int]]] = {}
        self._enis_made = 0
        self._attachments_made = 0
        self._held = HeldBlocks()
        self._free_at_first = {name: subnet.free for name, subnet in self._subnets.items()}

    # Instances

    def launch_instance(
        self, instance_id: str, shape: InstanceShape, subnet_id: str, now: float
    ) -> EniDescription:
        """Start an instance and return its primary ENI, which has no blocks yet."""
        if instance_id in self._instances:
            raise Ec2Error("InvalidParameterValue", f"Instance '{instance_id}' exists already")
        subnet = self._subnet(subnet_id)
        eni = self._make_eni(subnet, now)
        instance = _Instance(instance_id, shape, subnet.zone)
        self._instances[instance_id] = instance
        self._attach(eni, instance, 0)
        assert eni.attachment is not None
        eni.attachment = replace(eni.attachment, delete_on_termination=True)
        return self._describe(eni)

    def terminate_instance(self, instance_id: str, now: float) -> None:
        """Stop an instance for good.

        ENIs marked delete-on-termination go; the others stay behind, detached: leaked.
        """
        instance = self._instance(instance_id, now)
        for eni in list(instance.enis.values()):
            attachment = eni.attachment
            self._unlink(eni)
            if attachment is not None and attachment.delete_on_termination:
                self._delete(eni)
        del self._instances[instance_id]

    def describe_instances(self, instance_id: str, now: float) -> tuple[int, ...]:
        """Return the device indices that are taken, ascending, detaching ones among them."""
        return tuple(sorted(self._instance(instance_id, now).enis))

    # Subnets

    def describe_subnets(self, zone: str | None = None) -> tuple[SubnetDescription, ...]:
        """Describe the subnets of a zone, or all of them, the one with most free first."""
        found = (
            SubnetDescription(
                subnet.subnet_id, subnet.network, subnet.zone, subnet.free, subnet.free_prefixes
            )
            for subnet in self._subnets.values()
            if zone is None or subnet.zone == zone
        )
        return tuple(sorted(found, key=lambda subnet: (-subnet.free, subnet.subnet_id)))

    def zone_of(self, instance_id: str) -> str:
        """Return the availability zone in which the instance runs."""
        return self._known_instance(instance_id).zone

    # ENIs

    def create_network_interface(
        self, subnet_id: str, kind: BlockKind, blocks: int, client_token: str, now: float
    ) -> EniDescription:
        """Make an ENI with that many blocks, or nothing at all.

        A token that was used before returns the ENI it made then.
        """
        request = (subnet_id, kind, blocks)
        if client_token in self._tokens:
            eni_id, earlier = self._tokens[client_token]
            if earlier != request:
                raise Ec2Error(
                    "IdempotentParameterMismatch",
                    f"Client token '{client_token}' was used for another request",
                )
            return self._describe(self._eni(eni_id, now))
        eni = self._make_eni(self._subnet(subnet_id), now)
        try:
            self._add_blocks(eni, kind, blocks)
        except Ec2Error as error:
            self._delete(eni)
            if error.code != "InsufficientCidrBlocks":
                raise
            # This call has another name for the same lack than AssignPrivateIpAddresses,
            # even where plenty of single addresses are free (cni#3105).
            raise Ec2Error(
                "InvalidParameterValue",
                "There aren't sufficient free Ipv4 addresses or prefixes",
            ) from error
        self._tokens[client_token] = (eni.eni_id, request)
        return self._describe(eni)

    def attach_network_interface(
        self, eni_id: EniId, instance_id: str, device_index: int, now: float
    ) -> str:
        """Attach an ENI at a free device index; return the attachment's id."""
        eni = self._eni(eni_id, now)
        instance = self._instance(instance_id, now)
        if eni.attachment is not None:
            raise Ec2Error("InvalidNetworkInterface.InUse", f"Interface {eni_id} is in use.")
        if eni.subnet.zone != instance.zone:
            raise Ec2Error(
                "InvalidParameterCombination",
                f"{eni_id} and {instance_id} are not in the same availability zone.",
            )
        if len(instance.enis) >= instance.shape.enis:
            raise Ec2Error(
                "AttachmentLimitExceeded",
                f"Interface count {len(instance.enis) + 1} exceeds the limit for {instance_id}",
            )
        if device_index in instance.enis:
            raise Ec2Error(
                "InvalidParameterValue",
                f"Instance '{instance_id}' already has an interface attached "
                f"at device index '{device_index}'.",
            )
        self._require_room(eni, instance.shape, 0)
        prefixes = any(length == BlockKind.PREFIX.value for _, length in eni.blocks)
        self._require_prefixes(instance.shape, wanted=prefixes)
        return self._attach(eni, instance, device_index)

    def modify_network_interface_attribute(
        self, eni_id: EniId, attachment_id: str, now: float, *, delete_on_termination: bool
    ) -> None:
        """Set what becomes of the ENI when its instance is terminated."""
        eni = self._eni(eni_id, now)
        attachment = self._attachment(eni, attachment_id)
        eni.attachment = replace(attachment, delete_on_termination=delete_on_termination)
        eni.description = None

    def assign_private_ip_addresses(
        self, eni_id: EniId, kind: BlockKind, count: int, now: float
    ) -> tuple[Block, ...]:
        """Add blocks of EC2's choice to an ENI, all of them or none; return them."""
        eni = self._eni(eni_id, now)
        if eni.attachment is not None:
            instance = self._instances[eni.attachment.instance_id]
            self._require_room(eni, instance.shape, count)
            self._require_prefixes(instance.shape, wanted=kind is BlockKind.PREFIX)
        return self._add_blocks(eni, kind, count)

    def unassign_private_ip_addresses(
        self, eni_id: EniId, blocks: Iterable[Block], now: float
    ) -> None:
        """Take blocks from an ENI, all of them or none."""
        eni = self._eni(eni_id, now)
        keys = tuple(dict.fromkeys(map(key_of, blocks)))
        for key in keys:
            if key not in eni.blocks:
                raise Ec2Error(
                    "InvalidParameterValue",
                    f"Some of the specified addresses are not assigned to interface {eni_id}",
                )
        for key in keys:
            del eni.blocks[key]
        self._held.give_back(eni.subnet, keys)
        eni.description = None

    def describe_network_interfaces(
        self, eni_ids: Iterable[EniId], now: float
    ) -> tuple[EniDescription, ...]:
        """Describe ENIs by id, attached or not; one unknown id fails the whole request."""
        return tuple(self._describe(self._eni(eni_id, now)) for eni_id in eni_ids)

    def interfaces_of(self, instance_id: str, now: float) -> tuple[EniDescription, ...]:
        """Describe the ENIs of an instance by device index, detaching ones among them.

        EC2 answers the same to DescribeNetworkInterfaces with a filter.
        """
        enis = self._instance(instance_id, now).enis
        return tuple(self._describe(eni) for _, eni in sorted(enis.items()))

    def detach_network_interface(
        self, eni_id: EniId, attachment_id: str, now: float, *, gone_at: float
    ) -> None:
        """Begin to detach a secondary ENI; until `gone_at` it is in use and takes its place."""
        eni = self._eni(eni_id, now)
        attachment = self._attachment(eni, attachment_id)
        if attachment.device_index == 0:
            raise Ec2Error(
                "OperationNotPermitted",
                "The network interface at device index 0 cannot be detached.",
            )
        if attachment.gone_at == inf:
            eni.attachment = replace(attachment, gone_at=gone_at)
            eni.description = None
            self._settle(eni, now)

    def delete_network_interface(self, eni_id: EniId, now: float) -> None:
        """Delete a detached ENI and give its addresses back."""
        eni = self._eni(eni_id, now)
        if eni.attachment is not None:
            raise Ec2Error(
                "InvalidParameterValue", f"Network interface '{eni_id}' is currently in use."
            )
        self._delete(eni)

    # What no EC2 call tells this cheaply: for the auditor and the reports

    def owner_of(self, address: int | IPv4Address) -> EniId | None:
        """Return the ENI that has this address in a block, so that a pod may use it.

        An ENI's primary address belongs to the node: None. O(1).
        """
        return self._held.holder_of(int(address))

    def instance_of(self, eni_id: EniId, now: float) -> str | None:
        """Return the instance an ENI is attached to; None if detached or unknown. O(1)."""
        eni = self._enis.get(eni_id)
        if eni is None or eni.attachment is None or eni.attachment.gone_at <= now:
            return None
        return eni.attachment.instance_id

    def detached(self, now: float) -> tuple[EniId, ...]:
        """Return the ENIs that hang on no instance: leaked, or about to be attached."""
        for eni in self._enis.values():
            self._settle(eni, now)
        return tuple(eni.eni_id for eni in self._enis.values() if eni.attachment is None)

    @property
    def eni_count(self) -> int:
        """Count the ENIs that exist, attached or not."""
        return len(self._enis)

    @property
    def eni_ids(self) -> tuple[EniId, ...]:
        """Name the ENIs that exist, in the order in which they were made."""
        return tuple(self._enis)

    @property
    def subnets(self) -> tuple[Subnet, ...]:
        """Return the subnets in the order they were given, to look at and not to change."""
        return tuple(self._subnets.values())

    def check(self) -> None:
        """Recompute what is kept in two places; AssertionError where they differ."""
        taken = dict.fromkeys(self._subnets, 0)
        for eni in self._enis.values():
            taken[eni.subnet.subnet_id] += 1 + sum(b.num_addresses for b in eni.blocks.values())
        for name, subnet in self._subnets.items():
            assert subnet.free + taken[name] == self._free_at_first[name], f"{name} leaks"
        for eni_id, eni in self._enis.items():
            for address, _ in eni.blocks:
                assert IPv4Address(address) in eni.subnet.network, eni_id
            if eni.attachment is not None:
                instance = self._instances[eni.attachment.instance_id]
                assert instance.enis[eni.attachment.device_index] is eni, eni_id
                assert len(eni.blocks) < instance.shape.ipv4_per_eni, eni_id
        self._held.check({eni_id: eni.blocks for eni_id, eni in self._enis.items()})
        for instance in self._instances.values():
            assert len(instance.enis) <= instance.shape.enis, instance.instance_id
        for subnet in self._subnets.values():
            subnet.check()

    # Inside

    def _subnet(self, subnet_id: str) -> Subnet:
        subnet = self._subnets.get(subnet_id)
        if subnet is None:
            raise Ec2Error(
                "InvalidSubnetID.NotFound", f"The subnet ID '{subnet_id}' does not exist"
            )
        return subnet

    def _known_instance(self, instance_id: str) -> _Instance:
        instance = self._instances.get(instance_id)
        if instance is None:
            raise Ec2Error(
                "InvalidInstanceID.NotFound", f"The instance ID '{instance_id}' does not exist"
            )
        return instance

    def _instance(self, instance_id: str, now: float) -> _Instance:
        """Return an instance without the ENIs whose detaching is over by now."""
        instance = self._known_instance(instance_id)
        for eni in list(instance.enis.values()):
            self._settle(eni, now)
        return instance

    def _eni(self, eni_id: EniId, now: float) -> _Eni:
        eni = self._enis.get(eni_id)
        if eni is None:
            raise Ec2Error(
                "InvalidNetworkInterfaceID.NotFound",
                f"The networkInterface ID '{eni_id}' does not exist",
            )
        self._settle(eni, now)
        return eni

    def _attachment(self, eni: _Eni, attachment_id: str) -> Attachment:
        attachment = eni.attachment
        if attachment is None or attachment.attachment_id != attachment_id:
            raise Ec2Error(
                "InvalidAttachmentID.NotFound",
                f"The attachment '{attachment_id}' of {eni.eni_id} does not exist",
            )
        return attachment

    def _settle(self, eni: _Eni, now: float) -> None:
        """Let go of an ENI whose detaching is over."""
        if eni.attachment is not None and eni.attachment.gone_at <= now:
            self._unlink(eni)

    def _unlink(self, eni: _Eni) -> None:
        assert eni.attachment is not None
        del self._instances[eni.attachment.instance_id].enis[eni.attachment.device_index]
        eni.attachment = None
        eni.description = None

    def _attach(self, eni: _Eni, instance: _Instance, device_index: int) -> str:
        self._attachments_made += 1
        attachment_id = f"eni-attach-{self._attachments_made:017x}"
        eni.attachment = Attachment(attachment_id, instance.instance_id, device_index)
        eni.description = None
        instance.enis[device_index] = eni
        return attachment_id

    def _make_eni(self, subnet: Subnet, now: float) -> _Eni:
        if len(self._enis) >= self._enis_max:
            raise Ec2Error(
                "NetworkInterfaceLimitExceeded",
                f"The region holds {self._enis_max} network interfaces, which is its quota.",
            )
        (address,) = subnet.take_singles(1)
        self._enis_made += 1
        eni_id = EniId(f"eni-{self._enis_made:017x}")
        eni = _Eni(eni_id, subnet, IPv4Address(address), now)
        self._enis[eni.eni_id] = eni
        return eni

    def _delete(self, eni: _Eni) -> None:
        self._held.give_back(eni.subnet, eni.blocks)
        eni.subnet.give_back_single(int(eni.primary_ip))
        del self._enis[eni.eni_id]

    def _require_room(self, eni: _Eni, shape: InstanceShape, more: int) -> None:
        if len(eni.blocks) + more >= shape.ipv4_per_eni:
            raise Ec2Error(
                "PrivateIpAddressLimitExceeded",
                f"Number of private addresses will exceed limit: {eni.eni_id} would hold "
                f"{1 + len(eni.blocks) + more} of {shape.ipv4_per_eni}.",
            )

    @staticmethod
    def _require_prefixes(shape: InstanceShape, *, wanted: bool) -> None:
        if wanted and not shape.prefixes_allowed:
            raise Ec2Error("UnsupportedOperation", "The instance type has no prefixes.")

    def _add_blocks(self, eni: _Eni, kind: BlockKind, count: int) -> tuple[Block, ...]:
        added = self._held.take(eni.eni_id, eni.subnet, kind, count)
        eni.blocks.update(added)
        eni.description = None
        return tuple(added.values())

    def _describe(self, eni: _Eni) -> EniDescription:
        if eni.description is None:
            eni.description = EniDescription(
                eni.eni_id,
                eni.subnet.subnet_id,
                eni.primary_ip,
                tuple(eni.blocks.values()),
                eni.attachment,
                eni.created_at,
            )
        return eni.description
