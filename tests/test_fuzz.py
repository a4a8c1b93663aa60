"""The fuzzing corpus: requests of which each reaches code that the others do not.

`make fuzz` searches for more.
"""

from pathlib import Path

import pytest

from tests.fuzz_target import SEEDS, application, look_at

FILES = sorted(SEEDS.iterdir())


def test_there_are_seeds() -> None:
    """The corpus is not empty."""
    assert len(FILES) > 10


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_seed_is_accepted_or_refused(path: Path) -> None:
    """Each seed is a photo within the limits, or is refused with a reason."""
    look_at(application(), path.read_bytes())
