"""`augu-api serve`."""

from collections.abc import Callable
from typing import Any

import click
from gunicorn.app.base import Application  # type: ignore[import-untyped]  # gunicorn has no types
from gunicorn.util import import_app  # type: ignore[import-untyped]

from augu_api.config import Settings, override


class Gunicorn(Application):  # type: ignore[misc]
    """gunicorn with the configuration of this package instead of a file's and of a command line's."""

    def __init__(self, addresses: list[str]) -> None:
        self.addresses = addresses
        super().__init__()

    def load_config(self) -> None:
        """Read the configuration, at the start and at a reload."""
        self.load_config_from_file("python:augu_api.operating.gunicorn_conf")
        self.cfg.set("bind", self.addresses)

    def load(self) -> Callable[..., Any]:
        """The application, which each worker loads itself."""
        application: Callable[..., Any] = import_app(self.cfg.wsgi_app)
        return application


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
    host = f"[{host}]" if host and ":" in host else host or "127.0.0.1"
    Gunicorn(list(bind) or [f"{host}:{Settings.from_env().port}"]).run()
