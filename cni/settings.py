"""From environment variables to the settings of one node, its warm target among them.

A mapping is the argument, so that the daemon's environment and a scenario's `--set` are read by
the same code. Precedence is decided here once: an IP target, else in prefix mode the prefix
target, else the ENI target. Read strictly (our own daemon), a value that makes no sense is
refused, never replaced; read leniently (what upstream would do with it), it is replaced as
upstream replaces it, with a warning. Either way the configuration is linted: `warnings` say
what works otherwise than its author may think. PURE: no environment is read here, and nothing
is logged.
"""

import difflib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from cni.allocator.model import BlockKind
from cni.allocator.targets import WarmEni, WarmIp, WarmPrefix, WarmTarget
from cni.variables import GONE, VARIABLES, Reader, Variable, whole_number

__all__ = [
    "VARIABLES",
    "Problem",
    "Settings",
    "SettingsError",
    "Variable",
    "effective",
    "parse",
    "parse_assignments",
]

NOT_SET = "not set"
"""What `effective` shows for a variable without a value."""

_TYPO_PREFIXES = ("WARM_", "MINIMUM_IP", "ENABLE_PREFIX", "IP_COOLDOWN")
_SHOWN = 60
_ON_DEMAND = "addresses are added on demand only, so a pod that finds none waits for EC2"
_OTHERS = (Reader.NETWORK, Reader.DAEMON)
_NUMBERS = frozenset(
    variable.name
    for variable in VARIABLES.values()
    if variable.reader is Reader.ALLOCATOR and variable.type == "whole number"
)


@dataclass(frozen=True, slots=True)
class Settings:
    """What one node is told: effective values, and warnings about how they were given.

    Two settings are equal when their values are: warnings do not count. `other_values` holds
    the variables of other parts that differ from their defaults, in one spelling, by name.
    """

    warm_eni_target: int = 1
    warm_ip_target: int = 0
    """0 is not set, as upstream has it."""

    minimum_ip_target: int = 0
    """0 is not set, as upstream has it."""

    warm_prefix_target: int | None = None
    """None is not set: 1 where prefixes rule (upstream's chart), and no floor beside an IP
    target."""

    enable_prefix_delegation: bool = False
    max_eni: int | None = None
    """None is not set: the instance type's limit."""

    ip_cooldown_period_s: float = 30.0
    other_values: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = field(default=(), compare=False)

    @property
    def target(self) -> WarmTarget:
        """The one warm target of the node.

        >>> Settings(warm_ip_target=5, warm_eni_target=2).target
        WarmIp(warm=5, minimum=0, prefixes_kept=0)
        """
        if self.warm_ip_target or self.minimum_ip_target:
            kept = self.warm_prefix_target if self.enable_prefix_delegation else None
            return WarmIp(self.warm_ip_target, self.minimum_ip_target, kept or 0)
        if self.enable_prefix_delegation:
            return WarmPrefix(1 if self.warm_prefix_target is None else self.warm_prefix_target)
        return WarmEni(self.warm_eni_target)

    @property
    def kind(self) -> BlockKind:
        """What the node asks of EC2: prefixes in prefix mode, else secondary IPs."""
        return BlockKind.PREFIX if self.enable_prefix_delegation else BlockKind.SECONDARY_IP

    @property
    def other(self) -> Mapping[str, str]:
        """Variables that network and daemon read: given values, else defaults; none if not set."""
        values = {
            variable.name: variable.default
            for variable in VARIABLES.values()
            if variable.reader in _OTHERS and variable.default is not None
        }
        return MappingProxyType(values | dict(self.other_values))


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing refused: which variable, the value given (None: no value), and why."""

    variable: str
    value: str | None
    reason: str

    def __str__(self) -> str:
        """Name all three in one line, a long value cut."""
        given = "" if self.value is None else f"={_shown(self.value)}"
        return f"{_printable(self.variable)}{given}: {self.reason}"


class SettingsError(ValueError):
    """Settings that are refused, with every problem found."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        """Hold the problems, at least one."""
        super().__init__(problems)
        self.problems = problems

    def __str__(self) -> str:
        """List the problems, one per line if there are several."""
        return "\n".join(map(str, self.problems))


def parse(environ: Mapping[str, str], *, lenient: bool) -> Settings:
    """Read the settings from an environment, which holds much that is not ours.

    Strict is for our own daemon. Lenient takes what upstream v1.23 takes and warns; it refuses
    an IP_COOLDOWN_PERIOD only, as upstream's start-up does (`cmd/aws-vpc-cni/main.go`).
    Unknown names are ignored, but warned of where they look like a warm-pool variable mistyped.
    Raises SettingsError.

    >>> parse({"ENABLE_PREFIX_DELEGATION": "true", "HOME": "/root"}, lenient=False).target
    WarmPrefix(prefixes=1)
    """
    given = {name: environ[name] for name in VARIABLES if name in environ}
    # Upstream's chart spells defaults out in every manifest; that is no intention to warn about.
    meant = {name for name, text in given.items() if text != VARIABLES[name].default}
    return _settle(given, meant, (), tuple(_mistyped(environ)), lenient=lenient)


def parse_assignments(pairs: Iterable[str], *, lenient: bool) -> Settings:
    """Read the settings from `KEY=VALUE` texts that a person typed.

    Values are taken as in `parse`. In either mode it refuses an unknown name, a text without
    "=", and a name given twice with two values. Raises SettingsError.

    >>> parse_assignments(["WARM_IP_TARGET=5", "MINIMUM_IP_TARGET=10"], lenient=False).target
    WarmIp(warm=5, minimum=10, prefixes_kept=0)
    """
    given: dict[str, str] = {}
    problems = []
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            problems.append(Problem(name, None, "no value: write KEY=VALUE"))
        elif name not in VARIABLES:
            problems.append(Problem(name, text, _unknown(name)))
        elif given.setdefault(name, text) != text:
            problems.append(Problem(name, text, f"given before as {_shown(given[name])}"))
    return _settle(given, given, tuple(problems), (), lenient=lenient)


def effective(settings: Settings) -> Mapping[str, str]:
    """Tell every variable that shapes the pool with its value in effect, in a fixed order.

    Values can be given to `parse` again, less those that are "not set", and mean the same.

    >>> effective(Settings(enable_prefix_delegation=True))["WARM_PREFIX_TARGET"]
    '1'
    """
    target = settings.target
    prefixes = settings.warm_prefix_target
    if prefixes is None and isinstance(target, WarmPrefix):
        prefixes = target.prefixes
    values: dict[str, str | None] = {
        "ENABLE_PREFIX_DELEGATION": "true" if settings.enable_prefix_delegation else "false",
        "WARM_ENI_TARGET": str(settings.warm_eni_target),
        "WARM_IP_TARGET": str(settings.warm_ip_target),
        "MINIMUM_IP_TARGET": str(settings.minimum_ip_target),
        "WARM_PREFIX_TARGET": None if prefixes is None else str(prefixes),
        "MAX_ENI": None if settings.max_eni is None else str(settings.max_eni),
        "IP_COOLDOWN_PERIOD": f"{settings.ip_cooldown_period_s:.0f}",
    }
    return MappingProxyType({name: value or NOT_SET for name, value in values.items()})


# From texts to values.


def _settle(
    given: Mapping[str, str],
    meant: Collection[str],
    problems: tuple[Problem, ...],
    warnings: tuple[str, ...],
    *,
    lenient: bool,
) -> Settings:
    """Read the given texts, refuse them all together, or build and lint the settings."""
    values: dict[str, str] = {}
    replaced: list[str] = []
    for name, variable in VARIABLES.items():
        if name not in given:
            continue
        read = _read_leniently if lenient else _read_strictly
        value, note = read(variable, given[name])
        if isinstance(note, Problem):
            problems += (note,)
        elif note is not None:
            replaced.append(note)
        if value is not None:
            values[name] = value
    if problems:
        raise SettingsError(problems)
    settings = _build(values)
    lint = _lint(settings, meant, lenient=lenient)
    return replace(settings, warnings=(*replaced, *lint, *warnings))


def _read_strictly(variable: Variable, text: str) -> tuple[str | None, Problem | None]:
    """Give the value in one spelling, or the problem with it."""
    try:
        value = variable.form.read(text)
    except ValueError:
        return None, Problem(variable.name, text, f"allowed is {variable.allowed}")
    if variable.reader is Reader.NOT_SUPPORTED and value != variable.default:
        reason = f"not supported yet ({variable.meaning}); leave it at {variable.default!r}"
        return None, Problem(variable.name, text, reason)
    return value, None


def _read_leniently(variable: Variable, text: str) -> tuple[str | None, str | Problem | None]:
    """Give the value that upstream would use, and a warning where that is not the one given.

    ipamd.go: getWarmENITarget, getWarmIPTarget, getWarmPrefixTarget, getMinimumIPTarget,
    getMaxENI; utils.go: GetBoolAsStringEnvVar.
    """
    value, problem = _read_strictly(variable, text)
    if problem is None:
        return value, None
    given = f"{variable.name}={_shown(text)}"
    if variable.reader is Reader.NOT_SUPPORTED:
        return None, f"{given} is not supported yet and ignored ({variable.meaning})"
    if variable.reader is not Reader.ALLOCATOR:
        return None, f"{given} is ignored, the default stays: allowed is {variable.allowed}"
    number = whole_number(text) if variable.type == "whole number" else None
    if number is not None and number > 0:
        # Only our own upper bound refused it; upstream has none.
        return str(number), None
    if variable.name == "IP_COOLDOWN_PERIOD":
        return None, Problem(variable.name, text, f"{problem.reason}; upstream does not start")
    fallback = variable.code_default
    instead = "the instance type's limit" if fallback is None else fallback
    return fallback, f"{given} is not {variable.allowed}: upstream uses {instead}"


def _build(values: Mapping[str, str]) -> Settings:
    """Turn values in one spelling into typed settings; what is not there keeps its default."""
    unset = Settings()
    numbers = {name: int(text) for name, text in values.items() if name in _NUMBERS}
    other = sorted(
        (name, value)
        for name, value in values.items()
        if VARIABLES[name].reader in _OTHERS and value != VARIABLES[name].default
    )
    return Settings(
        warm_eni_target=numbers.get("WARM_ENI_TARGET", unset.warm_eni_target),
        warm_ip_target=numbers.get("WARM_IP_TARGET", unset.warm_ip_target),
        minimum_ip_target=numbers.get("MINIMUM_IP_TARGET", unset.minimum_ip_target),
        warm_prefix_target=numbers.get("WARM_PREFIX_TARGET"),
        enable_prefix_delegation=values.get("ENABLE_PREFIX_DELEGATION") == "true",
        max_eni=numbers.get("MAX_ENI"),
        ip_cooldown_period_s=float(numbers.get("IP_COOLDOWN_PERIOD", unset.ip_cooldown_period_s)),
        other_values=tuple(other),
    )


# Lint: what is allowed and yet may not be what its author wants.


def _lint(settings: Settings, meant: Collection[str], *, lenient: bool) -> Iterator[str]:
    """Warn of effects that surprise; `meant` are the variables set on purpose."""
    target = settings.target
    match target:
        case WarmIp():
            yield from _lint_ip_target(target, settings, lenient=lenient)
        case WarmPrefix(prefixes=0):
            yield "WARM_PREFIX_TARGET=0 without an IP target: " + (
                "upstream declares it unsupported, its start-up check refuses 0; its allocator "
                "adds a prefix only when no address is available"
                if lenient
                else _ON_DEMAND
            )
        case WarmEni(enis=0):
            # upstream.md 12, trap 3: ipamd.go:1504 against :2649.
            yield "WARM_ENI_TARGET=0 without an IP target: " + (
                "upstream attaches an ENI when no address is available and frees it again when "
                "it is a minute old and unused, in a loop"
                if lenient
                else _ON_DEMAND
            )
        case WarmEni(enis) if settings.max_eni is not None and enis > settings.max_eni:
            yield f"WARM_ENI_TARGET={enis} is never met with MAX_ENI={settings.max_eni}"
    yield from _lint_without_effect(settings, target, meant)
    if settings.ip_cooldown_period_s == 0:
        yield (
            "IP_COOLDOWN_PERIOD=0: a released address may go to the next pod at once, while "
            "traffic for the last one still arrives"
        )


def _lint_ip_target(target: WarmIp, settings: Settings, *, lenient: bool) -> Iterator[str]:
    """Warn of IP targets that cost calls, that say nothing, or that stop growth."""
    if target.minimum == 0 and settings.kind is BlockKind.SECONDARY_IP:
        yield (
            f"WARM_IP_TARGET={target.warm} without MINIMUM_IP_TARGET: starting pods cost many EC2 "
            "calls; set MINIMUM_IP_TARGET to the pods a node usually has"
        )
    if target.warm == 0:
        # upstream.md 1.3: nothing is short once the total has reached the minimum.
        yield f"MINIMUM_IP_TARGET={target.minimum} without WARM_IP_TARGET: " + (
            "upstream adds no address beyond the minimum, so further pods stay without one"
            if lenient
            else f"beyond the minimum, {_ON_DEMAND}"
        )
    if 0 < target.minimum <= target.warm:
        yield (
            f"MINIMUM_IP_TARGET={target.minimum} has no effect: "
            f"WARM_IP_TARGET={target.warm} alone keeps as many"
        )


def _lint_without_effect(
    settings: Settings, target: WarmTarget, meant: Collection[str]
) -> Iterator[str]:
    """Warn of targets set on purpose that precedence puts out of force."""
    ruler = "the IP target" if isinstance(target, WarmIp) else "prefix mode"
    if "WARM_ENI_TARGET" in meant and not isinstance(target, WarmEni):
        yield f"WARM_ENI_TARGET={settings.warm_eni_target} has no effect: {ruler} rules"
    if "WARM_PREFIX_TARGET" not in meant or isinstance(target, WarmPrefix):
        return
    prefixes = f"WARM_PREFIX_TARGET={settings.warm_prefix_target}"
    if not settings.enable_prefix_delegation:
        yield f"{prefixes} has no effect: ENABLE_PREFIX_DELEGATION is not true"
    elif settings.warm_prefix_target:
        # data_store.go:1042 tests it before an ENI is freed; nothing grows for it.
        yield f"{prefixes} adds nothing: the IP target rules; it only keeps ENIs from being freed"


# Names that are not ours.


def _mistyped(environ: Mapping[str, str]) -> Iterator[str]:
    """Warn of names that mean the warm pool and miss it, or that upstream has dropped."""
    for name in sorted(environ):
        if name in GONE:
            yield f"{name} has no effect: {_unknown(name)}"
        elif name in VARIABLES or not name.upper().startswith(_TYPO_PREFIXES):
            continue
        elif _near(name, cutoff=0.7):
            yield f"{_printable(name)} has no effect: {_unknown(name)}"


def _unknown(name: str) -> str:
    """Say that no such variable exists, and which ones look like it."""
    if name in GONE:
        return f"upstream knew it until {GONE[name]}"
    near = _near(name, cutoff=0.6)
    same = [known for known in near if known.upper() == name.upper()]
    if same:
        return f"unknown variable; it is spelled {same[0]} (only upper and lower case differ)"
    if near:
        return f"unknown variable; did you mean {' or '.join(near)}?"
    return "unknown variable"


def _near(name: str, *, cutoff: float) -> list[str]:
    """Known names like this one, the likest first, at most three."""
    by_upper = {known.upper(): known for known in VARIABLES}
    found = difflib.get_close_matches(name.upper()[:100], by_upper, n=3, cutoff=cutoff)
    return [by_upper[upper] for upper in found]


def _shown(text: str) -> str:
    """Quote a value for a message, cut where it is long.

    >>> _shown("x" * 100) == "'" + "x" * 60 + "…'"
    True
    """
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")


def _printable(name: str) -> str:
    """Leave a plain name as it is, quote any other."""
    plain = name.isascii() and name.isidentifier() and len(name) <= _SHOWN
    return name if plain else _shown(name)
