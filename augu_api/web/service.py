"""What the views work with; unbound until `create_app` binds it to an application."""

from dataclasses import dataclass
from functools import cached_property
from typing import cast

from flask import current_app
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
        """The database, for work that is a single statement."""
        return one_statement(self.engine)

    def answers(self) -> bool:
        """Whether the database and the storage of the counts answer."""
        with self.lookups.connect() as connection:
            return bool(connection.scalar(select(1))) and self.quotas.check()


service = cast("Service", LocalProxy(lambda: current_app.extensions[KEY]))
