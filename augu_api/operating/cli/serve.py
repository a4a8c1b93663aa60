"""`augu-api serve`."""

import click

from augu_api.config import given, override
from augu_api.operating.cli import environment


@click.command("serve")
@click.option("--host", help="The address, 127.0.0.1 by default; 0.0.0.0 is every IPv4 address.")
@click.option("--port", type=click.IntRange(1, 65535), help="The port, $PORT or 8000 by default.")
@click.option("--bind", multiple=True, metavar="ADDRESS", help="HOST:PORT or unix:FILE, instead of --host and --port.")
@click.option("--workers", type=click.IntRange(1, 1000), help="The number of processes; by default as many as fit.")
def serve(host: str | None, port: int | None, bind: tuple[str, ...], workers: int | None) -> None:
    """Serve the API with gunicorn until it is stopped.

    `augu-api demo` creates a user and prints how to call the API.
    """
    if bind and (host or port):
        raise click.UsageError("--bind is the whole address: leave out --host and --port")
    override(**{name: value for name, value in (("port", port), ("workers", workers)) if value})
    settings = environment.settings()
    if "WEB_CONCURRENCY" not in given():
        override(workers=None)  # gunicorn would take an empty variable for a bad number
    from augu_api.operating.server import Gunicorn  # noqa: PLC0415 - gunicorn ends with a traceback if a setting is bad

    host = f"[{host}]" if host and ":" in host else host or "127.0.0.1"
    Gunicorn(list(bind) or [f"{host}:{settings.port}"]).run()
