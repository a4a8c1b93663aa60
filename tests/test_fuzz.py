"""The requests that fuzzing found worth keeping, each of which reaches code that the others do not.

`make fuzz` looks for more.
"""

from pathlib import Path

import pytest

from tests.fuzz_target import SEEDS, application, look_at

FILES = sorted(SEEDS.iterdir())


def test_there_are_seeds() -> None:
    """There is something to look at."""
    assert len(FILES) > 10


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_seed_is_accepted_or_refused(path: Path) -> None:
    """Each is a photo within the bounds, or is refused with a reason."""
    look_at(application(), path.read_bytes())
