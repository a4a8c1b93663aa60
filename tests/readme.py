"""README.md and docs/ as tests read them; `python -m tests.readme` (`make settings`) writes the table of settings."""

import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

from augu_api.config import ROOT, Settings

README = ROOT / "README.md"
SETTINGS = ROOT / "docs" / "settings.md"
DOCUMENTS = [README, *sorted((ROOT / "docs").glob("*.md"))]
TABLE = re.compile(r"(\| variable \| default \| \|\n\| --- \| --- \| --- \|\n)(?:\|.*\n)*")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$\n?", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")


class Command(NamedTuple):
    """A shell command in a document, its lines joined where one ends in a backslash or a pipe.

    `output` is what the document shows after it.
    """

    text: str
    output: str = ""


def with_settings(text: str) -> str:
    """docs/settings.md with the table as augu_api/config.py has it."""
    rows = [
        f"| `{f.metadata['variable']}` | {f.metadata['shown'] or f'`{f.default}`'} | {f.metadata['about']} |\n"
        for f in fields(Settings)
    ]
    return TABLE.sub(lambda found: found[1] + "".join(rows), text)


def commands(text: str) -> Iterator[Command]:
    """The commands of a document: each line of a block of `sh`, the lines after `$ ` in a block of `console`."""
    for language, block in BLOCK.findall(text):
        lines = re.sub(r"(?:\\|(?<=\|))\n +", " ", block)
        if language == "sh":
            yield from (Command(line) for line in lines.splitlines() if line)
        elif language == "console":
            for shown in re.split(r"^\$ ", lines, flags=re.MULTILINE)[1:]:
                command, _, output = shown.partition("\n")
                yield Command(command, output)


def links(document: Path) -> Iterator[Path]:
    """The files that a document's relative links lead to."""
    for target in LINK.findall(document.read_text()):
        if not re.match(r"[a-z]+:|#", target):
            yield (document.parent / target.partition("#")[0]).resolve()


if __name__ == "__main__":
    SETTINGS.write_text(with_settings(SETTINGS.read_text()))
