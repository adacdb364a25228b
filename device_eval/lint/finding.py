"""What a rule reports."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from device_eval.lint.description import Model

Severity = Literal["error", "warning", "note"]
Effect = Literal["refused", "wrong results", "accuracy", "speed", "use"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)
"""Worst first. error: a runtime refuses the file or computes wrong numbers. warning: accuracy or speed is
lost. note: worth knowing, may be meant."""

EFFECTS: tuple[Effect, ...] = get_args(Effect)
"""What a finding costs: a runtime refuses the file, or ..., or whoever uses it lacks something."""


@dataclass(frozen=True)
class Finding:
    """`what` was found (with values) at `where`, why it matters and what to do about it.

    `rank` orders the findings of one rule, the largest first.
    """

    rule: str
    severity: Severity
    effect: Effect
    where: str
    what: str
    why: str
    fix: str
    rank: float = 0.0


Rule = Callable[[Model], Iterable[Finding]]
