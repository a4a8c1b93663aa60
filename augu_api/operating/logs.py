"""The log: one JSON object per line, on standard output."""

from logging.config import dictConfig


def configure() -> None:
    """Write everything that this process logs to standard output as JSON."""
    formatter = {
        "()": "pythonjsonlogger.json.JsonFormatter",
        "fmt": ["asctime", "levelname", "name", "message"],
        "style": ",",
        "rename_fields": {"asctime": "time", "levelname": "level", "name": "logger"},
        "datefmt": "%Y-%m-%dT%H:%M:%S%z",
    }
    dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"json": formatter},
            "handlers": {"out": {"class": "logging.StreamHandler", "stream": "ext://sys.stdout", "formatter": "json"}},
            "loggers": {"alembic": {"level": "WARNING"}},
            "root": {"level": "INFO", "handlers": ["out"]},
        }
    )
