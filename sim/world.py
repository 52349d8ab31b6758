"""What all parts of one run share: its clock, its scenario, its EC2, its record."""

from dataclasses import dataclass

import simpy

from sim.checks import Auditor
from sim.cloud import Account
from sim.record import Recorder
from sim.scenario import Scenario
from sim.vpc import Vpc


@dataclass(slots=True, eq=False)
class World:
    """One run's surroundings; `subnets_noted` holds what the record says of each subnet."""

    env: simpy.Environment
    scenario: Scenario
    vpc: Vpc
    account: Account
    recorder: Recorder
    auditor: Auditor | None
    subnets_noted: list[tuple[int, int]]

    def note_subnets(self) -> None:
        """Note the subnets whose free addresses have changed since."""
        for number, subnet in enumerate(self.vpc.subnets):
            free = (subnet.free, subnet.free_prefixes)
            if free != self.subnets_noted[number]:
                self.subnets_noted[number] = free
                self.recorder.subnet(self.env.now, number, *free)
