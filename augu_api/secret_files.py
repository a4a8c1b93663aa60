"""Secret settings in files, as container platforms mount them: DATABASE_URL_FILE instead of DATABASE_URL."""

from collections.abc import Iterator, Mapping
from pathlib import Path

SECRET = ("AUGU_METRICS_TOKEN", "AUGU_RATELIMIT_STORAGE", "AUGU_SECRET_KEY", "AUGU_SECRET_KEYS", "DATABASE_URL")
VARIABLES = {f"{name}_FILE": name for name in SECRET}
"""The variables that name a file, each with the one whose value is in it."""
MAX_BYTES = 10_000


def read(environ: Mapping[str, str], wrong: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Yield each variable whose value is in a file, and the value. Note in `wrong` why a file cannot be used."""
    for variable, name in VARIABLES.items():
        if path := environ.get(variable):
            try:
                yield name, _text(Path(path))
            except (OSError, ValueError) as error:
                wrong[name] = f"{variable}: {error}"
            if environ.get(name):
                wrong[name] = f"{variable}: must not be set beside {name}"


def _text(path: Path) -> str:
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    try:
        text = content.decode().strip()
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not text") from None
    if not text or len(content) > MAX_BYTES:
        raise ValueError(f"{path} is empty, or has more than {MAX_BYTES} bytes")
    return text
