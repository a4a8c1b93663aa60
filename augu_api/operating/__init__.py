"""Tools for operators: the command line, checks, the log and the gunicorn worker."""

import sys


def main() -> None:
    """Run the command line, or say in one line that only the client is installed."""
    try:
        from augu_api.operating import cli  # noqa: PLC0415 - needs what the extra `server` installs
    except ImportError as error:
        sys.exit(f"Error: {error}. The server needs Python 3.11 to 3.13, and: pip install 'augu-api[server]'")
    cli.main()
