"""Who may use files and folders, and where temporary ones are."""

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


def temporary_folder() -> Path:
    """The folder for temporary files, or one in memory on a read-only disk. Raises FileNotFoundError."""
    memory = Path("/dev/shm")  # noqa: S108 - everything made in it is private
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError:
        if os.access(memory, os.W_OK):
            return memory
        raise


def hide(path: Path) -> None:
    """Remove a file's permissions for others (chmod o-rwx), if the file exists and is ours."""
    with suppress(OSError):
        path.chmod(stat.S_IMODE(path.stat().st_mode) & ~0o007)


def open_to_others(folder: Path) -> bool:
    """Whether every user may write to a folder."""
    return bool(folder.stat().st_mode & stat.S_IWOTH)


def close_to_others(folder: Path) -> None:
    """If every user can write to a folder, remove the others' access. Raises PermissionError if that is not possible.

    A folder with the sticky bit, such as /tmp, is for all users and stays so.
    """
    if open_to_others(folder) and not folder.stat().st_mode & stat.S_ISVTX:
        hide(folder)
    if open_to_others(folder):
        raise PermissionError(f"every user can write to {folder}: `chmod o-w` it, or name another folder")


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file with mode 0600, which takes the place of `path` when it is complete and on the disk."""
    descriptor, name = tempfile.mkstemp(prefix=".augu-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def kept(path: Path, text: str) -> str:
    """The text in a file, created with `text` and mode 0600 on first use; if several processes try, one creates it."""
    if not path.exists():
        with tempfile.NamedTemporaryFile("w", dir=path.parent) as file:  # created with mode 0600
            file.write(text)
            file.flush()
            with suppress(FileExistsError):
                os.link(file.name, path)
    hide(path)
    return path.read_text()
