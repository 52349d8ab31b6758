"""Traces made from a few numbers and a seed: the shapes that pod churn takes.

Each shape is a function of keyword arguments with units in their names; `SHAPES` lists them with
their parameters, and `generate` makes one from texts, as a command line has them. Bounds and
help stand in the annotation of each argument, so that there is one place to read and to change.

Times are whole milliseconds: no cluster is known more closely, files stay small, and the last
bit of a logarithm, which differs between processors, changes no file.
"""

# ruff: noqa: PLR0913 - the arguments of a shape are its settings, all of them keywords.

from __future__ import annotations

import functools
import heapq
import inspect
import math
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Literal,
    ParamSpec,
    TypeGuard,
    get_args,
    get_origin,
    get_type_hints,
)

import numpy as np

from sim.sources.pods import PODS_MAX, Trace, TraceError, near, stream, trace_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

P = ParamSpec("P")
LifeKind = Literal["log-normal", "exponential", "fixed"]


_MOST = 1e12
"""No argument is larger: beyond it, a float64 of seconds holds no milliseconds."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What an argument means and which numbers it may be."""

    help: str
    least: float = 0.0
    above: bool = False
    """The least value itself is not allowed."""
    most: float = _MOST

    @property
    def allowed(self) -> str:
        """Say which numbers are allowed."""
        low = f"above {self.least:g}" if self.above else f"{self.least:g} or more"
        return low if self.most == _MOST else f"{low}, at most {self.most:g}"


@dataclass(frozen=True, slots=True)
class Parameter:
    """One argument of a shape."""

    name: str
    type: type[int | float | str]
    default: int | float | str
    help: str
    allowed: str


@dataclass(frozen=True, slots=True)
class Shape:
    """A way to make a trace: `make(**arguments, seed=...)` gives it."""

    name: str
    summary: str
    parameters: tuple[Parameter, ...]
    """All but the seed, in order."""
    make: Callable[..., Trace]


# What several shapes take.
Seconds = Annotated[float, Bounds("how long the trace is, seconds", above=True)]
Cpu = Annotated[int, Bounds("CPU each pod requests, millicores")]
Memory = Annotated[int, Bounds("memory each pod requests, MiB")]
MeanLife = Annotated[float, Bounds("mean life of a pod, seconds", above=True)]
Life = Annotated[LifeKind, Bounds("how lives are spread around their mean")]
Sigma = Annotated[
    float, Bounds("spread of log-normal lives; p90 is exp(1.28 sigma) times the median", most=4)
]
Seed = Annotated[int, Bounds("equal seeds give equal traces")]


def _checked(make: Callable[P, Trace]) -> Callable[P, Trace]:
    """Refuse arguments out of bounds, and write the call into the trace as its origin."""
    signature, hints = inspect.signature(make), get_type_hints(make, include_extras=True)

    @functools.wraps(make)
    def checked(*args: P.args, **kwargs: P.kwargs) -> Trace:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        for name, value in bound.arguments.items():
            _check(name, value, hints[name])
        told = ", ".join(f"{name}={value}" for name, value in bound.arguments.items())
        return replace(make(*args, **kwargs), origin=f"{_name_of(make)}({told})")

    return checked


def _name_of(make: Callable[..., Trace]) -> str:
    """Return the name of a shape as people type it."""
    return make.__name__.replace("_", "-")


def _check(name: str, value: object, hint: object) -> None:
    """Raise TraceError if an argument is not what its annotation says."""
    kind, bounds = get_args(hint)
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            allowed = ", ".join(get_args(kind))
            raise TraceError(
                "not known" + near(str(value), get_args(kind)),
                field=name,
                value=str(value),
                allowed=allowed,
            )
        return
    if not (_is_a(value, kind) and _within(value, bounds)):
        article = "a whole number, " if kind is int else ""
        allowed = article + bounds.allowed
        raise TraceError("not possible", field=name, value=str(value), allowed=allowed)


def _is_a(value: object, kind: type) -> TypeGuard[int | float]:
    """Say whether a value is a number of this kind; bool is none, int passes for float."""
    return isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)


def _within(value: float, bounds: Bounds) -> bool:
    low = value > bounds.least if bounds.above else value >= bounds.least
    return math.isfinite(value) and low and value <= bounds.most


@_checked
def steady(
    *,
    rate_per_s: Annotated[float, Bounds("pods that arrive, per second", above=True)] = 0.5,
    mean_life_s: MeanLife = 600.0,
    life: Life = "log-normal",
    sigma: Sigma = 1.5,
    duration_s: Seconds = 3600.0,
    cpu_m: Cpu = 100,
    memory_mib: Memory = 128,
    seed: Seed = 0,
) -> Trace:
    """Let pods arrive at one Poisson rate.

    Those alive at zero have the rest of their lives.

    At any instant `rate_per_s * mean_life_s` pods are alive on average, from the very start.
    """
    _limit(rate_per_s * (duration_s + mean_life_s))
    spread = _Lives(mean_life_s, life, sigma)
    present = int(stream(seed, "steady.present").poisson(rate_per_s * mean_life_s))
    come = stream(seed, "steady.arrivals")
    arrivals = come.random(int(come.poisson(rate_per_s * duration_s))) * duration_s
    return _trace(
        arrival_s=np.concatenate([np.zeros(present), np.sort(arrivals)]),
        life_s=np.concatenate(
            [
                spread.rest(stream(seed, "steady.rest"), present),
                spread.whole(stream(seed, "steady.lives"), len(arrivals)),
            ]
        ),
        end_s=duration_s,
        cpu_m=cpu_m,
        memory_mib=memory_mib,
    )


@_checked
def rolling_restart(
    *,
    pods: Annotated[int, Bounds("replicas of the deployment", least=1)] = 170,
    batch: Annotated[int, Bounds("pods renewed at a time: its maxSurge", least=1)] = 43,
    between_s: Annotated[float, Bounds("from one batch to the next, seconds")] = 30.0,
    ready_s: Annotated[
        float, Bounds("from a new pod's start until its old one goes, seconds")
    ] = 10.0,
    start_s: Annotated[float, Bounds("when the restart begins, seconds")] = 600.0,
    rest_s: Annotated[float, Bounds("calm after the last batch, seconds")] = 1200.0,
    restarts: Annotated[int, Bounds("restarts, one after each rest", least=1)] = 1,
    cpu_m: Cpu = 100,
    memory_mib: Memory = 128,
    seed: Seed = 0,
) -> Trace:
    """Renew a deployment's pods batch by batch.

    An old pod goes when its new one is ready.

    Readiness takes between half and one and a half times `ready_s`, by the seed. The last pods
    outlive the trace.
    """
    _limit(pods * (restarts + 1.0))
    batch_of = np.arange(pods) // batch
    one_restart_s = float(batch_of[-1]) * between_s + rest_s
    begins = start_s + np.arange(restarts) * (one_restart_s + ready_s * 1.5)
    # One row for each generation: the pods there at zero, then those of each restart.
    arrival_s = np.vstack([np.zeros(pods), begins[:, None] + batch_of[None, :] * between_s])
    late = stream(seed, "rolling-restart.ready").random((restarts, pods)) + 0.5
    life_s = np.vstack([arrival_s[1:] + late * ready_s - arrival_s[:-1], np.full(pods, np.inf)])
    return _trace(
        arrival_s=arrival_s.ravel(),
        life_s=life_s.ravel(),
        end_s=float(begins[-1]) + one_restart_s + ready_s * 1.5,
        cpu_m=cpu_m,
        memory_mib=memory_mib,
    )


@_checked
def scale(
    *,
    pods: Annotated[int, Bounds("pods at the top", least=1)] = 730,
    ramp_s: Annotated[
        float, Bounds("from 0 to the top, and down again, seconds; 0: at once")
    ] = 60.0,
    hold_s: Annotated[float, Bounds("at the top, seconds", above=True)] = 600.0,
    rest_s: Annotated[float, Bounds("at 0 before and after, seconds")] = 600.0,
    repeats: Annotated[int, Bounds("times up and down", least=1)] = 3,
    cpu_m: Cpu = 100,
    memory_mib: Memory = 128,
    seed: Seed = 0,
) -> Trace:
    """Go from 0 pods to N and back, evenly, some times over.

    Which pod goes first is drawn.
    """
    _limit(float(pods) * repeats)
    cycle_s = rest_s + ramp_s + hold_s + ramp_s
    steps = np.arange(pods) / pods * ramp_s
    begins = rest_s + np.arange(repeats)[:, None] * cycle_s
    draw = stream(seed, "scale.departures")
    leave = np.vstack([draw.permutation(steps) for _ in range(repeats)])
    arrival_s = begins + steps[None, :]
    return _trace(
        arrival_s=arrival_s.ravel(),
        life_s=(begins + ramp_s + hold_s + leave - arrival_s).ravel(),
        end_s=repeats * cycle_s + rest_s,
        cpu_m=cpu_m,
        memory_mib=memory_mib,
    )


@_checked
def minute_jobs(
    *,
    jobs: Annotated[int, Bounds("cron jobs that start together", least=1)] = 20,
    period_s: Annotated[float, Bounds("from one start to the next, seconds", above=True)] = 60.0,
    life_s: Annotated[float, Bounds("mean life of a job's pod, seconds", above=True)] = 40.0,
    life_spread_s: Annotated[float, Bounds("lives lie within this of the mean, seconds")] = 10.0,
    start_spread_s: Annotated[float, Bounds("pods come within this of the start, seconds")] = 2.0,
    duration_s: Seconds = 3600.0,
    cpu_m: Cpu = 50,
    memory_mib: Memory = 64,
    seed: Seed = 0,
) -> Trace:
    """Start cron jobs together at each full minute.

    They live for most of it.
    """
    if life_spread_s >= life_s:
        allowed = f"below life_s, {life_s:g}"
        raise TraceError(
            "not possible", field="life_spread_s", value=f"{life_spread_s:g}", allowed=allowed
        )
    rounds = math.ceil(duration_s / period_s)
    _limit(float(jobs) * rounds)
    draw = stream(seed, "minute-jobs")
    size = (rounds, jobs)
    late = np.sort(draw.random(size) * start_spread_s, axis=1)
    arrival_s = (np.arange(rounds)[:, None] * period_s + late).ravel()
    lives = life_s + (draw.random(size).ravel() * 2 - 1) * life_spread_s
    within = arrival_s < duration_s
    if not bool(within.any()):
        raise TraceError("no pod arrives before the end", field="duration_s", value=f"{duration_s}")
    return _trace(
        arrival_s=arrival_s[within],
        life_s=lives[within],
        end_s=duration_s,
        cpu_m=cpu_m,
        memory_mib=memory_mib,
    )


@_checked
def job(
    *,
    completions: Annotated[int, Bounds("pods that must succeed", least=1)] = 1000,
    parallelism: Annotated[int, Bounds("pods at a time", least=1)] = 50,
    mean_life_s: MeanLife = 48.0,
    life: Life = "log-normal",
    sigma: Sigma = 0.5,
    gap_s: Annotated[float, Bounds("from a pod's end to the next one's start, seconds")] = 3.0,
    start_s: Annotated[float, Bounds("when the job begins, seconds")] = 60.0,
    rest_s: Annotated[float, Bounds("calm after the last pod, seconds")] = 600.0,
    cpu_m: Cpu = 100,
    memory_mib: Memory = 128,
    seed: Seed = 0,
) -> Trace:
    """Run one job, so many pods at a time: as one ends, the next.

    The defaults are a published case: 1,000 completions, 50 wide, in about 17 minutes. The
    times are fixed beforehand, so the job does not slow down when its pods wait for addresses.
    """
    _limit(float(completions))
    spread = _Lives(mean_life_s, life, sigma)
    lives = spread.whole(stream(seed, "job.lives"), completions)
    # Each lane is the instant at which it is free; the next pod takes the earliest one.
    lanes = [start_s] * min(parallelism, completions)
    arrivals = []
    for life_s in lives.tolist():
        arrivals.append(lanes[0])
        heapq.heapreplace(lanes, lanes[0] + life_s + gap_s)
    arrival_s = np.array(arrivals)
    return _trace(
        arrival_s=arrival_s,
        life_s=lives,
        end_s=float((arrival_s + lives).max()) + rest_s,
        cpu_m=cpu_m,
        memory_mib=memory_mib,
    )


@_checked
def day(
    *,
    base_rate_per_s: Annotated[float, Bounds("arrivals at night, per second", above=True)] = 0.02,
    peak_rate_per_s: Annotated[float, Bounds("arrivals at a peak, per second", above=True)] = 0.2,
    first_peak_h: Annotated[float, Bounds("hour of the first peak", most=24)] = 10.0,
    second_peak_h: Annotated[float, Bounds("hour of the second peak", most=24)] = 20.0,
    width_h: Annotated[
        float, Bounds("width of a peak: its standard deviation, hours", above=True)
    ] = 1.5,
    days: Annotated[int, Bounds("days, all alike", least=1)] = 1,
    mean_life_s: MeanLife = 900.0,
    life: Life = "log-normal",
    sigma: Sigma = 1.5,
    cpu_m: Cpu = 100,
    memory_mib: Memory = 128,
    seed: Seed = 0,
) -> Trace:
    """Follow two peaks a day over a base.

    Arrivals are Poisson at the rate of the hour.

    Pods alive at zero are those that midnight's rate would have left.
    """
    if peak_rate_per_s < base_rate_per_s:
        value, allowed = f"{peak_rate_per_s:g}", f"from base_rate_per_s, {base_rate_per_s:g}"
        raise TraceError("not possible", field="peak_rate_per_s", value=value, allowed=allowed)
    end_s = days * 86_400.0
    _limit(peak_rate_per_s * (end_s + mean_life_s))

    def rate_at(instant_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the rate; hours lie on a circle, and where peaks overlap the higher counts."""
        hour = instant_s / 3600 % 24
        away = [
            np.minimum(abs(hour - p), 24 - abs(hour - p)) for p in (first_peak_h, second_peak_h)
        ]
        height = np.exp(-0.5 * (np.minimum(*away) / width_h) ** 2)
        rate: NDArray[np.float64] = base_rate_per_s + (peak_rate_per_s - base_rate_per_s) * height
        return rate

    spread = _Lives(mean_life_s, life, sigma)
    midnight = float(rate_at(np.zeros(1))[0])
    present = int(stream(seed, "day.present").poisson(midnight * mean_life_s))
    # Thinning: arrivals at the highest rate, of which each stays with the odds of its hour.
    come = stream(seed, "day.arrivals")
    candidates = np.sort(come.random(int(come.poisson(peak_rate_per_s * end_s))) * end_s)
    kept = come.random(len(candidates)) * peak_rate_per_s < rate_at(candidates)
    arrivals = candidates[kept]
    return _trace(
        arrival_s=np.concatenate([np.zeros(present), arrivals]),
        life_s=np.concatenate(
            [
                spread.rest(stream(seed, "day.rest"), present),
                spread.whole(stream(seed, "day.lives"), len(arrivals)),
            ]
        ),
        end_s=end_s,
        cpu_m=cpu_m,
        memory_mib=memory_mib,
    )


@dataclass(frozen=True, slots=True)
class _Lives:
    """Lives of one mean, and the rest of those that an observer meets midway."""

    mean_s: float
    kind: LifeKind
    sigma: float

    def whole(self, draw: np.random.Generator, count: int) -> NDArray[np.float64]:
        """Return lives from birth."""
        if self.kind == "fixed":
            return np.full(count, self.mean_s)
        if self.kind == "exponential":
            return draw.standard_exponential(count) * self.mean_s
        return self._log_normal(draw, count, shift=-0.5)

    def rest(self, draw: np.random.Generator, count: int) -> NDArray[np.float64]:
        """Return what is left of the lives of pods alive at one instant.

        A long life is met more often than a short one, in proportion to its length, and at
        any point of it alike. Weighting a log-normal by length moves it by sigma squared.
        """
        if self.kind == "fixed":
            return draw.random(count) * self.mean_s
        if self.kind == "exponential":
            return draw.standard_exponential(count) * self.mean_s
        met = self._log_normal(draw, count, shift=0.5)
        return met * draw.random(count)

    def _log_normal(
        self, draw: np.random.Generator, count: int, *, shift: float
    ) -> NDArray[np.float64]:
        exponents = self.sigma * draw.standard_normal(count) + shift * self.sigma**2
        lives: NDArray[np.float64] = self.mean_s * np.exp(exponents)
        return lives


def _limit(pods: float) -> None:
    """Refuse what would fill the memory instead of trying."""
    if pods > PODS_MAX:
        raise TraceError(f"about {pods:,.0f} pods", allowed=f"at most {PODS_MAX:,}")


def _trace(
    *,
    arrival_s: NDArray[np.float64],
    life_s: NDArray[np.float64],
    end_s: float,
    cpu_m: int,
    memory_mib: int,
) -> Trace:
    """Build the trace of pods that all request the same; refuse one without pods."""
    if not len(arrival_s):
        reason = "no pod arrives: the rate is too low for the time"
        raise TraceError(reason, allowed="a higher rate, a longer trace, another seed")
    end_s = round(end_s, 3)
    return trace_of(
        # Rounding could otherwise move the last arrival past the end, and a life to 0.
        arrival_s=np.minimum(np.round(arrival_s, 3), end_s),
        life_s=np.maximum(np.round(life_s, 3), 0.001),
        cpu_m=np.full(len(arrival_s), cpu_m),
        memory_mib=np.full(len(arrival_s), memory_mib),
        end_s=end_s,
        origin="",
    )


def _shape(make: Callable[..., Trace]) -> Shape:
    """Describe a shape by its signature, annotations and docstring."""
    hints = get_type_hints(make, include_extras=True)
    parameters = []
    for name, parameter in inspect.signature(make).parameters.items():
        if name == "seed":
            continue
        kind, bounds = get_args(hints[name])
        choices = get_args(kind) if get_origin(kind) is Literal else ()
        parameters.append(
            Parameter(
                name=name,
                type=str if choices else kind,
                default=parameter.default,
                help=bounds.help,
                allowed=", ".join(choices) or bounds.allowed,
            )
        )
    summary = (make.__doc__ or "").split("\n", 1)[0].rstrip(".")
    return Shape(_name_of(make), summary, tuple(parameters), make)


_MAKERS: tuple[Callable[..., Trace], ...] = (
    steady,
    rolling_restart,
    scale,
    minute_jobs,
    job,
    day,
)
SHAPES: Mapping[str, Shape] = MappingProxyType(
    {shape.name: shape for shape in map(_shape, _MAKERS)}
)


def find(name: str) -> Shape:
    """Return the shape of that name; raise TraceError with the one most like it."""
    if name not in SHAPES:
        reason = "no such shape" + near(name, SHAPES)
        raise TraceError(reason, field="shape", value=name, allowed=", ".join(SHAPES))
    return SHAPES[name]


def generate(name: str, settings: Mapping[str, str], *, seed: int = 0) -> Trace:
    """Make a trace of the shape `name` from settings given as texts.

    Raises TraceError for a shape or setting that is not known, with the one most like it, and
    for a value that is not possible.
    """
    shape = find(name)
    known = {parameter.name: parameter for parameter in shape.parameters}
    arguments: dict[str, int | float | str] = {}
    for key, text in settings.items():
        if key not in known:
            reason = f"the shape {name} has no such setting" + near(key, known)
            raise TraceError(reason, field=key, allowed=", ".join(known))
        parameter = known[key]
        try:
            arguments[key] = parameter.type(text)
        except ValueError:
            reason = "not a whole number" if parameter.type is int else "not a number"
            raise TraceError(reason, field=key, value=text, allowed=parameter.allowed) from None
    return shape.make(**arguments, seed=seed)
