"""The collaborators of the views, and a proxy to those of the current application."""

from dataclasses import dataclass
from functools import cached_property
from typing import cast

from flask import current_app
from limits.errors import StorageError
from sqlalchemy import Engine, select
from werkzeug.local import LocalProxy

from augu_api.config import Settings
from augu_api.detection import Detector, NoDetector
from augu_api.store.database import one_statement
from augu_api.store.quotas import Quotas
from augu_api.web.admission import Admission

KEY = "augu_api"


@dataclass(frozen=True)
class Service:
    """The collaborators of the views."""

    settings: Settings
    engine: Engine
    quotas: Quotas
    admission: Admission
    loaded: Detector | None

    @property
    def detector(self) -> Detector:
        """The loaded detector; raises NoDetector."""
        if self.loaded is None:
            raise NoDetector
        return self.loaded

    @cached_property
    def lookups(self) -> Engine:
        """The engine in autocommit mode."""
        return one_statement(self.engine)

    def check(self) -> None:
        """Raise the error of the database or of the rate limit storage if either does not answer."""
        with self.lookups.connect() as connection:
            connection.scalar(select(1))
        if not self.quotas.check():
            raise StorageError(ConnectionError("no answer"))


service = cast("Service", LocalProxy(lambda: current_app.extensions[KEY]))
