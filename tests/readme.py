"""README.md as its tests read it; `python -m tests.readme` (`make readme`) writes its table of settings anew."""

import re
from collections.abc import Iterator
from dataclasses import fields
from typing import NamedTuple

from augu_api.config import ROOT, Settings

README = ROOT / "README.md"
TABLE = re.compile(r"(\| variable \| default \| \|\n\| --- \| --- \| --- \|\n)(?:\|.*\n)*")
BLOCK = re.compile(r"(?<=\n\n)(?: {4}.*\n|\n(?= {4}))+")  # indented by 4, after an empty line


class Command(NamedTuple):
    """A shell command of an indented block, its lines joined where one ends in a backslash or a pipe.

    `output` is what the README shows after it.
    """

    text: str
    output: str = ""


def with_settings(readme: str) -> str:
    """README.md with the table as augu_api/config.py says it."""
    rows = [
        f"| `{f.metadata['variable']}` | {f.metadata['shown'] or f'`{f.default}`'} | {f.metadata['about']} |\n"
        for f in fields(Settings)
    ]
    return TABLE.sub(lambda found: found[1] + "".join(rows), readme)


def commands(readme: str) -> Iterator[Command]:
    """The commands of README.md in their order: in a block with `$ ` those lines, in another block each line."""
    for block in BLOCK.findall(readme):
        lines = re.sub(r"(?:\\|(?<=\|))\n +", " ", re.sub("^    ", "", block, flags=re.MULTILINE))
        if not lines.startswith("$ "):
            yield from (Command(line) for line in lines.splitlines() if line)
        else:
            for shown in re.split(r"^\$ ", lines, flags=re.MULTILINE)[1:]:
                text, _, output = shown.partition("\n")
                yield Command(text, output)


if __name__ == "__main__":
    README.write_text(with_settings(README.read_text()))
