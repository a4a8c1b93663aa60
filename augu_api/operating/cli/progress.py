"""How long work shows its progress: a bar on a terminal, lines elsewhere, for example in a log."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import click

EVERY = 10.0  # seconds between lines
Item = TypeVar("Item")


@contextmanager
def progress(
    label: str, length: int, text: Callable[[], str] = str, clock: Callable[[], float] = time.monotonic
) -> Iterator[Callable[[int], None]]:
    """Yield a function that is told how many of `length` are done; `text` says more. It writes to standard error."""
    if sys.stderr.isatty():
        bar: Any
        with click.progressbar(length=length, label=label, file=sys.stderr, item_show_func=lambda _: text()) as bar:
            yield lambda done: bar.update(done - bar.pos)
    else:
        lines = _Lines(label, length, text, clock)
        yield lines
        lines.end()


class _Lines:
    """A line for the first call, then one every EVERY seconds, and one for the last state."""

    def __init__(self, label: str, length: int, text: Callable[[], str], clock: Callable[[], float]) -> None:
        self.label, self.length, self.text, self.clock = label, length, text, clock
        self.started = clock()
        self.done, self.said, self.due = 0, 0, self.started

    def __call__(self, done: int) -> None:
        self.done = done
        if self.clock() >= self.due:
            self._say()

    def end(self) -> None:
        """Say the last state unless it has been said."""
        if self.done > self.said:
            self._say()

    def _say(self) -> None:
        now = self.clock()
        self.said, self.due = self.done, now + EVERY
        left = (now - self.started) * (self.length - self.done) / self.done
        text = f", {self.text()}" if self.text() else ""
        click.echo(f"{self.label}: {self.done} of {self.length}, {left:.0f} s left{text}", err=True)


def track(items: Sequence[Item], label: str) -> Iterator[Item]:
    """The items, with progress."""
    with progress(label, len(items)) as at:
        for done, item in enumerate(items, 1):
            yield item
            at(done)
