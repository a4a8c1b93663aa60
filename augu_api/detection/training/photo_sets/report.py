"""What is wrong with a set of photos, and what of it was mended."""

from typing import Any

from augu_api.detection import ModelUnavailable

MAX_LINES = 20
MAX_SHOWN = 80  # characters of a value


class FaultyPhotoSet(ModelUnavailable):
    """A set of photos cannot be used: each fault is a line."""


class Report:
    """Collects every fault with its place, and how often each kind was mended; keeps only the lines that it shows."""

    def __init__(self) -> None:
        self.faults = 0
        self.lines: list[str] = []
        self.kinds: dict[str, tuple[int, str]] = {}

    def fault(self, place: str, text: str) -> None:
        """Something that only the user can mend."""
        self.faults += 1
        if len(self.lines) < MAX_LINES:
            self.lines.append(f"{shown(place)}: {text}")

    def mend(self, kind: str, place: str) -> None:
        """Something that was mended; `kind` says how."""
        count, first = self.kinds.get(kind, (0, place))
        self.kinds[kind] = count + 1, first

    @property
    def mended(self) -> list[str]:
        """A line for each kind of what was mended: how often, and where first."""
        return [
            f"Mended: {shown(first)}{f' and {count - 1} more' if count > 1 else ''}: {kind}"
            for kind, (count, first) in self.kinds.items()
        ]

    def check(self) -> None:
        """Raise FaultyPhotoSet if there are faults; its notes are the lines about them."""
        if self.faults:
            more = [f"and {self.faults - len(self.lines)} more."] if self.faults > len(self.lines) else []
            faults = "fault" if self.faults == 1 else "faults"
            error = FaultyPhotoSet(f"{self.faults} {faults} in the photos and boxes:")
            for line in [*self.lines, *more]:
                error.add_note(line)
            raise error


def literal(text: str) -> str:
    """The text as a part of a template for str.format."""
    return text.replace("{", "{{").replace("}", "}}")


def shown(value: Any) -> str:
    """A value from a file for a message: short and printable, and nothing of a container but its kind."""
    if not isinstance(value, str | int | float):
        return "null" if value is None else f"a {type(value).__name__}"
    if isinstance(value, float):
        return f"{value:g}"
    text = str(value) if isinstance(value, str) or abs(value) < 1e18 else "a huge number"
    text = "".join(c if c.isprintable() else "?" for c in text[: 4 * MAX_SHOWN])
    return text if len(text) <= 2 * MAX_SHOWN else f"{text[:MAX_SHOWN]}…{text[-MAX_SHOWN:]}"
