"""The instance metadata service (IMDSv2) of one instance, over the lagging copy of EC2.

A token first (PUT, with a time to live), then the tree of names: folders end in a slash when
they are listed. Shows what `sim/metadata.py` shows by now, never what EC2 knows already.
Source: EC2 user guide, "Use the Instance Metadata Service to access instance metadata".
"""

import asyncio
import json
from collections.abc import Callable, Mapping

from aiohttp import web

from cni.allocator.model import AttachedEni
from sim.lab.account import LabAccount, LabInstance, mac_of
from sim.lab.faults import Answer, LabFault
from sim.vpc import SubnetDescription

Tree = Mapping[str, "str | Tree"]

TOKEN_TTL_MAX_S = 21600
ROLE = "warmbench-node"
_TTL_HEADER = "X-aws-ec2-metadata-token-ttl-seconds"
_TOKEN_HEADER = "X-aws-ec2-metadata-token"  # noqa: S105 - the name of a header


class MetadataService:
    """Answers one instance; tokens die with their time to live or by `revoke_tokens`."""

    def __init__(
        self,
        account: LabAccount,
        instance_id: str,
        now: Callable[[], float],
        fault: Callable[[str, str], LabFault | None],
    ) -> None:
        """Serve an instance that runs; `fault` is asked at every request."""
        self._account = account
        self._instance_id = instance_id
        self._now = now
        self._fault = fault
        self._tokens: dict[str, float] = {}
        self._tokens_made = 0
        self._closing = asyncio.Event()

    def app(self) -> web.Application:
        """Return the application to be served at 169.254.169.254, or anywhere."""
        app = web.Application()
        app.router.add_put("/latest/api/token", self._make_token)
        app.router.add_get("/latest/{path:.*}", self._read)
        app.on_shutdown.append(self._release)
        return app

    async def _release(self, _: web.Application) -> None:
        self._closing.set()

    async def _make_token(self, http: web.Request) -> web.Response:
        ttl = http.headers.get(_TTL_HEADER, "")
        faulty = await self._faulty(http, "api/token")
        if faulty is not None:
            return faulty
        if not ttl.isdecimal() or not 1 <= int(ttl) <= TOKEN_TTL_MAX_S:
            return web.Response(status=400)
        self._tokens_made += 1
        token = f"lab-{self._instance_id}-{self._tokens_made:08d}"
        now = self._now()
        # A client that asks for a token at every read must not pile them up.
        self._tokens = {each: until for each, until in self._tokens.items() if until > now}
        self._tokens[token] = now + int(ttl)
        return web.Response(text=token, headers={_TTL_HEADER: ttl})

    async def _read(self, http: web.Request) -> web.Response:
        path = http.match_info["path"]
        faulty = await self._faulty(http, path)
        if faulty is not None:
            return faulty
        token = http.headers.get(_TOKEN_HEADER, "")
        if self._tokens.get(token, 0.0) <= self._now():
            return web.Response(status=401)
        node: str | Tree = self._tree()
        for part in filter(None, path.split("/")):
            if isinstance(node, str) or part not in node:
                return web.Response(status=404)
            node = node[part]
        if isinstance(node, str):
            return web.Response(text=node)
        return web.Response(text="\n".join(_listed(node)))

    async def _faulty(self, http: web.Request, path: str) -> web.Response | None:
        """Answer as a fault wants it; None where there is no fault."""
        fault = self._fault(self._instance_id, path)
        if fault is None:
            return None
        if fault.answer is Answer.NOTHING:
            await self._closing.wait()
        if fault.answer is Answer.RESET and http.transport is not None:
            http.transport.abort()
        return web.Response(status=fault.http_status or 500, text=fault.message)

    # The tree

    def _tree(self) -> Tree:
        """Draw the whole tree: it is small, and so nothing in it can be of different ages."""
        account, instance = self._account, self._account.instance(self._instance_id)
        shown = [
            each.eni for each in account.metadata_of(self._instance_id, self._now()).interfaces
        ]
        subnets = {subnet.subnet_id: subnet for subnet in account.vpc.describe_subnets()}
        primary = shown[0]
        return {
            "dynamic": {"instance-identity": {"document": self._document(instance, primary)}},
            "meta-data": {
                "iam": {"security-credentials": {ROLE: _credentials(instance)}},
                "instance-id": instance.instance_id,
                "instance-type": instance.type.name,
                "local-ipv4": str(primary.primary_ip),
                "mac": mac_of(primary.eni_id),
                "network": {
                    "interfaces": {
                        "macs": {mac_of(eni.eni_id): self._eni(eni, subnets) for eni in shown}
                    }
                },
                "placement": {
                    "availability-zone": instance.zone,
                    "region": account.facts.region,
                },
            },
        }

    def _document(self, instance: LabInstance, primary: AttachedEni) -> str:
        """Write the instance identity document (EC2 user guide, of that name)."""
        facts = self._account.facts
        return json.dumps(
            {
                "accountId": facts.owner_id,
                "availabilityZone": instance.zone,
                "instanceId": instance.instance_id,
                "instanceType": instance.type.name,
                "privateIp": str(primary.primary_ip),
                "region": facts.region,
                "version": "2017-09-30",
            }
        )

    def _eni(self, eni: AttachedEni, subnets: Mapping[str, SubnetDescription]) -> Tree:
        note, facts = self._account.note(eni.eni_id), self._account.facts
        singles = [block.network_address for block in eni.blocks if block.num_addresses == 1]
        prefixes = [str(block) for block in eni.blocks if block.num_addresses > 1]
        tree = {
            "device-number": str(eni.device_index),
            "interface-id": eni.eni_id,
            "local-ipv4s": "\n".join(map(str, (eni.primary_ip, *singles))),
            "mac": note.mac,
            "owner-id": facts.owner_id,
            "security-group-ids": "\n".join(note.groups),
            "security-groups": "\n".join(note.groups),
            "subnet-id": note.subnet_id,
            "subnet-ipv4-cidr-block": str(subnets[note.subnet_id].cidr),
            "vpc-id": facts.vpc_id,
            "vpc-ipv4-cidr-block": str(facts.cidrs[0]),
            "vpc-ipv4-cidr-blocks": "\n".join(map(str, facts.cidrs)),
        }
        # A name without a value is not there at all.
        return tree | {"ipv4-prefix": "\n".join(prefixes)} if prefixes else tree


def _credentials(instance: LabInstance) -> str:
    """Write credentials as the role of the instance gets them; nobody checks their signature."""
    return json.dumps(
        {
            "Code": "Success",
            "LastUpdated": "2026-01-01T00:00:00Z",
            "Type": "AWS-HMAC",
            "AccessKeyId": instance.access_key,
            "SecretAccessKey": "not-a-secret",
            "Token": "not-a-token",
            "Expiration": "2099-01-01T00:00:00Z",
        }
    )


def _listed(node: Tree) -> list[str]:
    """List a folder; the one of the roles is the only one whose leaves EC2 lists like this too."""
    return [name if isinstance(value, str) else f"{name}/" for name, value in node.items()]
