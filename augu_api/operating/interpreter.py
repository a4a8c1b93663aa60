"""`python -m augu_api.operating.interpreter` says if the user of a service cannot run this Python. Make calls it."""

import stat
import sys
from pathlib import Path

HOMES = {Path("/home"), Path("/root"), Path("/run/user")}
"""What `ProtectHome=` in a systemd unit hides."""


def closed(path: Path) -> Path | None:
    """The first folder on the way to a folder, or itself, that other users or a service cannot enter."""
    way = [*reversed(path.resolve().parents), path.resolve()]
    return next((folder for folder in way if folder in HOMES or not folder.stat().st_mode & stat.S_IXOTH), None)


def note(environment: Path, python: Path) -> str | None:
    """What to say about a virtual environment that others can reach, if they cannot reach the Python that it needs."""
    folder = closed(python)
    if folder is None or closed(environment):
        return None
    return (
        f"Note: only you can run {environment}, because its Python is in {folder}. For a service that runs as another "
        f"user: rm -r {environment} && make install PYTHON=/usr/bin/python3"
    )


if __name__ == "__main__" and (said := note(Path(sys.prefix), Path(sys.base_prefix))):
    sys.stderr.write(f"{said}\n")
