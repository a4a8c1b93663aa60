"""What `gunicorn` reads in this folder. `augu-api serve` uses the same from anywhere."""

from augu_api.operating.gunicorn_conf import *  # noqa: F403 - gunicorn reads the names of this file
