"""From the faults of a scenario to what goes wrong with one call of one node."""

from collections.abc import Sequence

from cni.cloud.calls import Call, ReadMetadata
from sim.cloud import CallFault, Faults
from sim.scenario import FaultPlan
from sim.streams import Draws


def faults_of(plans: Sequence[FaultPlan], draws: Draws) -> Faults | None:
    """Return who is asked at each attempt, or None where nothing ever goes wrong.

    Of several plans that strike one attempt the first tells the code, and their delays add up.
    """
    if not plans:
        return None

    def strikes(call: Call, now: float) -> CallFault | None:
        struck = [
            plan
            for number, plan in enumerate(plans)
            if ((plan.api == "*" and call.api != ReadMetadata.api) or plan.api == call.api)
            and plan.from_s <= now
            and (not plan.until_s or now < plan.until_s)
            # Each plan draws for itself, so that one more plan shifts no other's chance.
            and draws.uniform(f"fault {number} {call.api}") < plan.share
        ]
        if not struck:
            return None
        failing = next((plan for plan in struck if plan.code), None)
        delay_s = sum(plan.delay_s for plan in struck)
        if failing is None:
            return CallFault(delay_s=delay_s)
        return CallFault(failing.code, "injected", failing.takes_effect, delay_s)

    return strikes
