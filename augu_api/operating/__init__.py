"""Tools for operators: the command line, checks, the log and the gunicorn worker."""

import os
import sys
from io import TextIOWrapper


def main() -> None:
    """Run the command line, or say in one line that only the client is installed."""
    try:
        from augu_api.operating import cli  # noqa: PLC0415 - needs what the extra `server` installs

        _print_anything()
        cli.main()
    except ImportError as error:
        sys.exit(f"Error: {error}. The server needs Python 3.11 to 3.14, and: pip install 'augu-api[server]'")
    except KeyboardInterrupt:
        sys.exit("Aborted!")
    finally:
        _drop_unwritten(1)
        _drop_unwritten(2)


def _print_anything() -> None:
    """Print characters that the terminal's encoding lacks as escapes, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _drop_unwritten(number: int) -> None:
    """Do not let Python try once more to write to a full disk or a closed pipe, and print what it thinks of that."""
    stream = {1: sys.stdout, 2: sys.stderr}[number]
    try:
        if stream:
            stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), number)
