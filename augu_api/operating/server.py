"""gunicorn as a part of this program; without it, `gunicorn` serves the same in a checkout."""

from collections.abc import Callable
from typing import Any

from gunicorn.app.base import Application  # type: ignore[import-untyped]  # gunicorn has no types
from gunicorn.util import import_app  # type: ignore[import-untyped]


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
