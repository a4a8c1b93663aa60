"""The settings of a command, and the deployed service whose settings it should have."""

import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from augu_api.config import ROOT, Settings, given
from augu_api.operating.cli.output import say

UNIT = Path("/etc/systemd/system/augu-api.service")


class Service(NamedTuple):
    """What a systemd unit says: who runs the service, and in which file its settings are."""

    user: str
    environment: Path

    @property
    def advice(self) -> str:
        """How to run a command as the service runs."""
        settings, program = shlex.quote(str(self.environment)), shlex.quote(f"{sys.prefix}/bin/augu-api")
        return f"sudo -u {self.user} sh -c {shlex.quote(f'set -a; . {settings}; {program} …')}"


def examined() -> Settings:
    """The settings, with a secret only if one is set; nothing is made. Raises SettingsError."""
    found, wrong = Settings.examine()
    for error in wrong.values():
        raise error
    return found


def settings() -> Settings:
    """The settings with a secret; if that has to be made, standard error says so. Raises SettingsError."""
    found = examined()
    is_new = not found.secret_keys and not os.access(found.secret_file, os.F_OK)
    complete = found.with_secret()
    if is_new:
        say(f"Made a new secret: {found.secret_file}")
    return complete


def deployed(unit: Path = UNIT) -> Service | None:
    """The service of this installation that the unit starts, if there is one."""
    try:
        text = unit.read_text()
    except (OSError, ValueError):
        return None
    folder, start = _last(text, "WorkingDirectory"), _last(text, "ExecStart")
    environment = _last(text, "EnvironmentFile").removeprefix("-")
    is_ours = (folder and Path(folder).resolve() == ROOT) or start.startswith(f"{sys.prefix}/")
    return Service(_last(text, "User") or "root", Path(environment)) if is_ours and environment else None


def _last(text: str, name: str) -> str:
    return "".join(re.findall(rf"^{name}=(.*)$", text, re.MULTILINE)[-1:]).strip()


def has_its_settings(service: Service) -> bool:
    """Whether this command uses the service's database and secret, as far as it may see the service's settings."""
    try:
        lines = service.environment.read_text().splitlines()
    except (OSError, ValueError):
        return bool(given())
    ours, _ = Settings.examine()
    theirs, _ = Settings.examine(dict(_assignments(lines)))
    return _keeps(ours) == _keeps(theirs)


def _assignments(lines: list[str]) -> Iterator[tuple[str, str]]:
    for line in lines:
        name, equals, value = line.strip().partition("=")
        if equals and not name.startswith(("#", ";")):
            yield name, value.strip().strip("\"'")


def _keeps(settings: Settings) -> tuple[object, ...]:
    return settings.database_url, settings.secret_keys, settings.secret_keys or settings.data_dir


def point_to_service() -> None:
    """Say how to run a command with the settings of the deployed service, unless this one has them."""
    service = deployed()
    if service and not has_its_settings(service):
        say(f"This is not the database and the secret of the service in {UNIT}. To use those: {service.advice}")
