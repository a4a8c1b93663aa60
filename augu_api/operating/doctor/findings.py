"""What a check reports."""

from enum import StrEnum
from typing import NamedTuple


class State(StrEnum):
    """The result of a check; with a PROBLEM the service does not start or answer, or is not safe to use."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


class Finding(NamedTuple):
    """One result of a check, in one line without secrets. A warning or a problem ends with how to fix it."""

    check: str
    state: State
    found: str


def ok(check: str, found: str) -> Finding:
    """Nothing is wrong."""
    return Finding(check, State.OK, found)


def warning(check: str, found: object, fix: str = "") -> Finding:
    """The service works, but something should be done. A message that says what to do needs no `fix`."""
    return Finding(check, State.WARNING, _line(found, fix))


def problem(check: str, found: object, fix: str = "") -> Finding:
    """Something must be done."""
    return Finding(check, State.PROBLEM, _line(found, fix))


def _line(found: object, fix: str) -> str:
    line = " ".join(str(found).split())
    return f"{line}: {fix}" if fix else line
