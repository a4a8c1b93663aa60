"""`gunicorn wsgi:app` serves this."""

from augu_api.operating.wsgi import app

__all__ = ["app"]
