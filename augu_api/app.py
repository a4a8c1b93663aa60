"""The application, composed from its parts."""

from collections.abc import Iterable
from typing import NoReturn
from wsgiref.types import StartResponse, WSGIEnvironment

import flask
from flask import Flask
from werkzeug.exceptions import NotFound
from werkzeug.routing import RequestRedirect
from werkzeug.wsgi import ClosingIterator

from augu_api.config import Settings
from augu_api.detection import Detector
from augu_api.store import database
from augu_api.store.quotas import Quotas
from augu_api.web import auth, cors, deepstack, envelope, monitoring, objects, request_log, security_headers, session
from augu_api.web.admission import Admission
from augu_api.web.body import MAX_BODY, Request, check_head
from augu_api.web.docs import pages
from augu_api.web.service import KEY, Service


class Application(Flask):
    """Flask with bounded requests that stay in memory, and no routes or redirects beside our own."""

    request_class = Request

    def raise_routing_exception(self, request: flask.Request) -> NoReturn:
        """Answer 404 in the envelope where Flask would redirect to a similar path: there is nothing at this one."""
        if isinstance(request.routing_exception, RequestRedirect):
            raise NotFound
        super().raise_routing_exception(request)

    def wsgi_app(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request. What it holds of the worker's memory is released when the server closes the reply."""
        try:
            reply: Iterable[bytes] = super().wsgi_app(environ, start_response)
        except BaseException:
            _release(environ)
            raise
        return ClosingIterator(reply, lambda: _release(environ)) if auth.room_of(environ) else reply


def _release(environ: WSGIEnvironment) -> None:
    if room := auth.room_of(environ):
        room.release()


def create_app(settings: Settings, detector: Detector | None = None) -> Flask:
    """Compose the application and bring its database up to date; without a detector it cannot detect."""
    app = Application(__name__, static_folder=None)
    app.config.update(MAX_CONTENT_LENGTH=MAX_BODY, MAX_FORM_MEMORY_SIZE=MAX_BODY, PROVIDE_AUTOMATIC_OPTIONS=False)
    app.url_map.merge_slashes = False
    app.extensions[KEY] = _service(settings, detector)
    envelope.register(app, deepstack.shape if settings.deepstack else envelope.failure_body)
    request_log.register(app)  # Flask calls what comes after a request in reverse: headers, quota, metrics, log
    app.before_request(check_head)
    cors.register(app, settings.cors_origins)
    monitoring.register(app, settings.metrics_dir)
    auth.register(app)
    security_headers.register(app)
    for blueprint in (objects.images, session.session, monitoring.monitoring, pages.docs):
        app.register_blueprint(blueprint)
    if settings.deepstack:
        app.register_blueprint(deepstack.deepstack)
    if detector:
        monitoring.describe(detector)
    return app


def _service(settings: Settings, detector: Detector | None) -> Service:
    engine = database.connect_upgraded(settings.database_url)
    quotas = Quotas(engine, settings.ratelimit_storage, settings.ban_minutes)
    admission = Admission(settings.queue, settings.data_dir / "admission.lock")
    return Service(settings, engine, quotas, admission, detector)
