"""What a WSGI server runs: settings -> logs -> detector -> application."""

from augu_api.app import create_app
from augu_api.config import Settings
from augu_api.detection.engines import load
from augu_api.operating import logs

settings = Settings.from_env()
logs.configure()
app = create_app(settings, load(settings))
