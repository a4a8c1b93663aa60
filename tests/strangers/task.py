"""What a client program does: its arguments, its requests, and the line that it prints."""

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

CONNECTIONS = 4
TIMEOUT = 60.0  # seconds


@dataclass
class Task:
    """Post `body` to `url`, `count` times over CONNECTIONS connections that are kept alive, each with its token."""

    url: str
    tokens: list[str]
    body_file: Path
    count: int
    accept: str
    statuses: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)

    @classmethod
    def given(cls) -> Self:
        """The task that the program's arguments describe."""
        url, tokens, body_file, count, accept = sys.argv[1:]
        return cls(url, tokens.split(","), Path(body_file), int(count), accept)

    def headers(self, connection: int) -> Iterator[dict[str, str]]:
        """Yield the headers of each request of one connection."""
        token = self.tokens[connection % len(self.tokens)]
        for number in range(self.count // CONNECTIONS):
            yield {
                "Authorization": f"Bearer {token}",
                "Accept": self.accept,
                "Content-Type": "text/plain",
                "X-Forwarded-For": f"10.0.0.{number % 250 + 1}",  # nginx limits the uploads of each address
            }

    def answered(self, status: int) -> None:
        """Count a reply that was read to its end."""
        self.statuses[str(status)] += 1

    def unanswered(self, error: BaseException | str) -> None:
        """Count a request without a reply."""
        self.lost[error if isinstance(error, str) else type(error).__name__] += 1

    def print(self) -> None:
        """Print the counts as one line of JSON."""
        sys.stdout.write(json.dumps({"statuses": self.statuses, "lost": self.lost}) + "\n")

    def on_threads(self, connection: Callable[[int], None]) -> None:
        """Run `connection` on a thread for each connection, then print the counts."""
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            for each in [pool.submit(connection, number) for number in range(CONNECTIONS)]:
                each.result()
        self.print()
