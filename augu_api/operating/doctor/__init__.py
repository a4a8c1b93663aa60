"""Check an installation, and say how to fix what is wrong. No check creates or changes anything."""

from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import NamedTuple

from augu_api import config
from augu_api.config import Settings, SettingsError
from augu_api.operating.doctor import callers, serving, storage
from augu_api.operating.doctor.findings import Finding, State, ok, problem, warning

__all__ = ["Finding", "State", "examine"]

VARIABLES = {field.metadata["variable"] for field in fields(Settings)}


class Check(NamedTuple):
    """A check, and the settings without which it is skipped."""

    name: str
    run: Callable[[Settings], Iterator[Finding]]
    needs: set[str]


CHECKS = (
    Check("folders", storage.folders, {"AUGU_DATA_DIR", "PROMETHEUS_MULTIPROC_DIR"}),
    Check("secret", storage.secret, {"AUGU_DATA_DIR", "AUGU_SECRET_KEY", "AUGU_SECRET_KEYS"}),
    Check("database", storage.database, {"AUGU_DATA_DIR", "DATABASE_URL"}),
    Check("counts", storage.counts, {"AUGU_DATA_DIR", "DATABASE_URL", "AUGU_RATELIMIT_STORAGE"}),
    Check("clock", storage.clock, {"AUGU_DATA_DIR", "DATABASE_URL"}),
    Check("keyless", callers.keyless, {"AUGU_DATA_DIR", "DATABASE_URL", "AUGU_DEEPSTACK_KEYLESS", "AUGU_PROXIES"}),
    Check("refused", callers.refused, {"AUGU_DATA_DIR", "DATABASE_URL", "AUGU_RATELIMIT_STORAGE", "AUGU_BAN_MINUTES"}),
    Check("model", serving.model, {"AUGU_DATA_DIR", "AUGU_MODEL", "AUGU_ENGINE", "WEB_CONCURRENCY"}),
    Check("workers", serving.workers, {"WEB_CONCURRENCY", "AUGU_MAX_PIXELS"}),
)


def examine() -> Iterator[Finding]:
    """Run every check that the settings in the environment allow."""
    settings, wrong = Settings.examine()
    yield from _settings(config.given(), wrong)
    for check in CHECKS:
        if invalid := sorted(check.needs & set(wrong)):
            yield warning(check.name, f"skipped: fix {invalid[0]} first")
        else:
            yield from _run(check, settings)


def _settings(given: list[str], wrong: dict[str, SettingsError]) -> Iterator[Finding]:
    for error in wrong.values():
        yield problem("settings", error)
    for variable in given:
        if variable not in VARIABLES:
            yield warning("settings", f"{variable} is not a setting", "correct its name, or unset it")
    valid = [variable for variable in given if variable in VARIABLES and variable not in wrong]
    yield ok("settings", f"set and valid: {', '.join(valid) or 'none, so every setting has its default'}")


def _run(check: Check, settings: Settings) -> Iterator[Finding]:
    """Run one check; one that fails is a finding, and the others still run."""
    try:
        yield from check.run(settings)
    except (OSError, SettingsError) as error:
        yield problem(check.name, error, "run this as the user that runs the service, or fix what it names")
    except Exception as error:  # noqa: BLE001 - whatever it is; its message may hold a password, so it is not shown
        yield problem(check.name, f"failed with {type(error).__name__}", "check the settings, or report a bug")
