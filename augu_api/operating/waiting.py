"""The connections that wait in a worker's loop."""

from collections.abc import Callable, Hashable, Iterator

from augu_api.operating.connections import Connection

Step = Callable[[Connection], None]


class Waiting:
    """The connections in the loop and the step that each takes next, the longest waiting first."""

    def __init__(self) -> None:
        self._steps: dict[Connection, Step] = {}
        self._by_caller: dict[Hashable, dict[Connection, None]] = {}

    def __iter__(self) -> Iterator[tuple[Connection, Step]]:
        return iter(list(self._steps.items()))

    def step(self, conn: Connection) -> Step | None:
        """The next step of a connection; None if it is not in the loop."""
        return self._steps.get(conn)

    def add(self, conn: Connection, step: Step) -> None:
        """Let a connection that is not in the loop wait for its next step."""
        self._steps[conn] = step
        self._by_caller.setdefault(conn.caller, {})[conn] = None

    def remove(self, conn: Connection) -> Step | None:
        """Forget a connection; the step that it has not taken, or None if it was not in the loop."""
        step = self._steps.pop(conn, None)
        if step:
            del self._by_caller[conn.caller][conn]
            if not self._by_caller[conn.caller]:
                del self._by_caller[conn.caller]
        return step

    def dispensable(self, *spared: Step) -> Connection | None:
        """The connection to close if there are too many: of the caller with the most, the one that has waited longest.

        spared: connections that wait for one of these steps are closed only if all of the caller's do; those that wait
            for the last of them are spared the most
        """
        crowd = max(self._by_caller.values(), key=len, default={})
        for first in range(len(spared) + 1):
            if found := next((conn for conn in crowd if self._steps[conn] not in spared[first:]), None):
                return found
        return None
