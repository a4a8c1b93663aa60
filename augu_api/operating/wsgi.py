"""What a WSGI server runs: settings -> logs, Pillow -> detector -> application -> documentation."""

from augu_api import photos
from augu_api.app import create_app
from augu_api.config import Settings, SettingsError
from augu_api.detection.engines import load
from augu_api.operating import logs
from augu_api.web.docs import pages

settings = Settings.from_env()
logs.configure()
photos.configure()
try:
    app = create_app(settings, load(settings))
    pages.prepare(app)
except OSError as error:  # a file that may not be read, for example: the worker says it in one line
    raise SettingsError(str(error)) from error
