"""The settings, read once from the environment; nothing else touches os.environ."""

import os
import secrets
from collections.abc import Callable, Container, Mapping
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

from augu_api import parsers, secret_files
from augu_api.folders import close_to_others, kept
from augu_api.memory import MAX_PIXELS, fitting, limit

PACKAGE = Path(__file__).resolve().parent
ROOT = PACKAGE.parent
CHECKOUT = not (PACKAGE / "weights").is_dir()  # where this is installed, the build has put them into the package
EXAMPLE = PACKAGE / "web" / "docs" / "assets" / "example.png"
"""A photo that has objects, the same as `examples/street.png`."""
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
ENGINES = {"onnx": "server", "torchvision": "torch"}
"""The engines in the order in which `auto` tries them, each with the extra that installs what it needs."""


class SettingsError(Exception):
    """A setting has a value that cannot be used; the message names it."""


def _setting(variable: str, default: Any, parse: Callable[[str], Any], about: str, shown: str = "") -> Any:
    return field(default=default, metadata={"variable": variable, "parse": parse, "about": about, "shown": shown})


@dataclass(frozen=True, repr=False)
class Settings:
    """Everything an operator can configure, each by one environment variable."""

    env: str = _setting(
        "AUGU_ENV",
        "development",
        parsers.one_of("development", "production"),
        "`production` refuses to start without a secret.",
    )
    secret_key: str = _setting(
        "AUGU_SECRET_KEY",
        "",
        parsers.secret,
        "Signs the tokens; at least 32 characters. In development, one is created in the data folder.",
        "made on first start",
    )
    secret_keys: tuple[str, ...] = _setting(
        "AUGU_SECRET_KEYS",
        (),
        parsers.secrets,
        "Use it instead of `AUGU_SECRET_KEY` to change the secret and keep the tokens valid: up to 10, "
        "comma-separated. The first one signs, all are accepted.",
        "`AUGU_SECRET_KEY` alone",
    )
    data_dir: Path = _setting(
        "AUGU_DATA_DIR",
        ROOT / "data",
        parsers.path,
        "Holds the database, the secret and pulled weights.",
        "`data` in a checkout, `~/.local/share/augu-api` (or in `$XDG_DATA_HOME`) if it is installed",
    )
    database_url: str = _setting(
        "DATABASE_URL",
        "",
        parsers.database,
        "`postgresql://user:password@host/name`, or SQLite.",
        "SQLite in the data folder",
    )
    ratelimit_storage: str = _setting(
        "AUGU_RATELIMIT_STORAGE",
        "",
        parsers.storage,
        "Where requests are counted, for example `redis://host:6379`.",
        "the database",
    )
    ban_minutes: int = _setting(
        "AUGU_BAN_MINUTES",
        10,
        parsers.positive,
        "A user who gets 50 replies of 429 within this time is banned for as long.",
    )
    model: str = _setting(
        "AUGU_MODEL", "bundled", str, "A name from `augu-api weights list`, or the folder of a model."
    )
    engine: str = _setting(
        "AUGU_ENGINE",
        "auto",
        parsers.one_of("auto", *ENGINES),
        "`onnx` runs the model's export, `torchvision` the module itself; `auto` uses the export if there is one.",
    )
    weights_url: str = _setting(
        "AUGU_WEIGHTS_URL",
        "https://download.pytorch.org/models",
        parsers.web_url,
        "Where `augu-api weights pull` downloads the published files: a mirror, for example.",
    )
    max_pixels: int = _setting(
        "AUGU_MAX_PIXELS",
        MAX_PIXELS,
        parsers.positive,
        "Photos with more pixels are refused: a progressive JPEG with more than half, a WebP with more than a quarter.",
        "`25000000`, fewer if there is too little memory",
    )
    queue: int = _setting(
        "AUGU_QUEUE",
        8,
        parsers.positive,
        "How many requests may wait for a worker's detector, a third of them of one user; the next one gets 503.",
    )
    deepstack: bool = _setting(
        "AUGU_DEEPSTACK",
        default=False,
        parse=parsers.switch,
        about="`1` serves `POST /v1/vision/detection` in DeepStack's protocol as well, and what belongs to it.",
        shown="`0`",
    )
    deepstack_mb: int = _setting(
        "AUGU_DEEPSTACK_MB", 5, parsers.at_most(10), "The largest file that DeepStack's protocol takes, up to 10 MB."
    )
    keyless: parsers.Keyless | None = _setting(
        "AUGU_DEEPSTACK_KEYLESS",
        None,
        parsers.keyless,
        "Who makes the requests of DeepStack's protocol that carry no token, and from which networks they may come: "
        "`cameras@192.168.1.0/24,10.0.0.7`. Everyone in these networks acts as this user.",
        "nobody",
    )
    proxies: tuple[parsers.Network, ...] = _setting(
        "AUGU_PROXIES",
        (),
        parsers.networks,
        "The addresses of your proxies, comma-separated: only their `X-Forwarded-For` says where a request without a "
        "token comes from.",
        "none",
    )
    metrics_token: str = _setting(
        "AUGU_METRICS_TOKEN",
        "",
        parsers.secret,
        "Bearer token for `GET /metrics`; at least 32 characters.",
        "no access",
    )
    metrics_dir: Path | None = _setting(
        "PROMETHEUS_MULTIPROC_DIR",
        None,
        parsers.path,
        "Where each server makes a folder of metrics.",
        "temporary files",
    )
    docs_url: str = _setting(
        "AUGU_DOCS_URL",
        "/docs",
        str,
        "The address of the documentation in the message of a 403; a path is one on the host that was asked.",
    )
    cors_origins: tuple[str, ...] = _setting(
        "AUGU_CORS_ORIGINS",
        (),
        parsers.origins,
        "The sites whose pages may call the service from a browser, comma-separated, for example "
        "`https://app.example.org`.",
        "none",
    )
    workers: int = _setting(
        "WEB_CONCURRENCY",
        CORES,
        parsers.at_most(1000),
        "Worker processes; each loads the model once.",
        "one per core, fewer if there is too little memory",
    )
    port: int = _setting(
        "PORT",
        8000,
        parsers.at_most(65535),
        "The port. If it is set, `gunicorn` listens on every address; `augu-api serve` does so with `--host 0.0.0.0`.",
    )

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ, memory: int = 0) -> Self:
        """Read the environment; an empty variable counts as unset. Raises a SettingsError that names a bad variable."""
        settings, wrong = cls.examine(environ, memory)
        for error in wrong.values():
            raise error
        return settings.with_secret()

    @classmethod
    def examine(cls, environ: Mapping[str, str] = os.environ, memory: int = 0) -> tuple[Self, dict[str, SettingsError]]:
        """The settings, with defaults in place of bad values, and an error for each bad variable; creates nothing.

        If no secret is set, `secret_keys` is empty. `memory` is how many bytes there are, 0 to find out.
        """
        values, bad = {}, dict[str, str]()
        environ = {name: value for name, value in environ.items() if value} | dict(secret_files.read(environ, bad))
        environ.setdefault("AUGU_DATA_DIR", _data_dir(environ))
        wrong = {variable: SettingsError(message) for variable, message in bad.items()}
        for f in fields(cls):
            try:
                if f.metadata["variable"] in environ:
                    values[f.name] = _parse(f, environ)
            except SettingsError as error:
                wrong[f.metadata["variable"]] = error
        settings = cls(**values | _fitting(values, memory or limit()))
        wrong = _secret_errors(settings.env, environ, wrong) | wrong
        keys = settings.secret_keys or ((settings.secret_key,) if settings.secret_key else ())
        url = settings.database_url or f"sqlite:///{settings.data_dir / 'augu.db'}"
        return replace(settings, secret_keys=keys, database_url=url), wrong

    def with_secret(self) -> Self:
        """The same with a secret: the one in the data folder if none is set. Creates both if they are missing."""
        try:
            if self.keeps_data or self.data_dir.exists():
                self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
                close_to_others(self.data_dir)
            keys = self.secret_keys or (_kept_secret(self.secret_file),)
        except OSError as error:
            raise SettingsError(f"AUGU_DATA_DIR: {error}") from error
        return replace(self, secret_key=keys[0], secret_keys=keys)

    @property
    def keeps_data(self) -> bool:
        """Whether the data folder holds the secret or the database."""
        return not self.secret_keys or str(self.data_dir) in self.database_url

    @property
    def secret_file(self) -> Path:
        """The file of the secret that is made if none is set."""
        return self.data_dir / "secret_key"

    @property
    def weights_dir(self) -> Path:
        """The folder of pulled weights."""
        return self.data_dir / "weights"

    @property
    def engine_threads(self) -> int:
        """Threads for each worker's detector, so that all workers together use each core once."""
        return max(1, CORES // self.workers)


def override(**values: object) -> None:
    """Change settings for this process and those that it starts: `override(port=80)`. None takes a variable away."""
    for f in fields(Settings):
        if f.name in values:
            os.environ.pop(f.metadata["variable"], None)
            if values[f.name] is not None:
                os.environ[f.metadata["variable"]] = str(values[f.name])


def switch_telemetry_off() -> None:
    """Keep onnxruntime, whose first import reads this, from sending what it runs to Microsoft."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"


def given(environ: Mapping[str, str] = os.environ) -> list[str]:
    """The variables of this service that are set, including unknown names that start with AUGU_."""
    known = {f.metadata["variable"] for f in fields(Settings)}
    names = {secret_files.VARIABLES.get(name, name) for name, value in environ.items() if value}
    return sorted(name for name in names if name in known or name.startswith("AUGU_"))


def _data_dir(environ: Mapping[str, str]) -> str:
    """The data folder if no variable names one."""
    share = environ.get("XDG_DATA_HOME", "")
    share = share if Path(share).is_absolute() else "~/.local/share"
    return str(ROOT / "data" if CHECKOUT else Path(share, "augu-api"))


def _parse(f: "Field[Any]", environ: Mapping[str, str]) -> Any:
    variable = f.metadata["variable"]
    try:
        return f.metadata["parse"](environ[variable])
    except (ValueError, OSError, RuntimeError) as error:
        raise SettingsError(f"{variable}: {error}") from error


def _fitting(values: Mapping[str, Any], memory: int) -> dict[str, int]:
    workers, max_pixels = fitting(memory, CORES, values.get("workers"), values.get("max_pixels"))
    return {"workers": workers, "max_pixels": max_pixels}


def _secret_errors(env: str, environ: Mapping[str, str], wrong: Container[str]) -> dict[str, SettingsError]:
    """An error if both variables for the secret are set, or none is set in production."""
    given = [variable for variable in ("AUGU_SECRET_KEY", "AUGU_SECRET_KEYS") if environ.get(variable)]
    if len(given) > 1:
        message = "AUGU_SECRET_KEYS: must not be set beside AUGU_SECRET_KEY: add that one to the list"
        return {"AUGU_SECRET_KEYS": SettingsError(message)}
    if env == "production" and not given and "AUGU_SECRET_KEY" not in wrong and "AUGU_SECRET_KEYS" not in wrong:
        message = "AUGU_SECRET_KEY: must be set in production (openssl rand -hex 32 makes one)"
        return {"AUGU_SECRET_KEY": SettingsError(message)}
    return {}


def _kept_secret(path: Path) -> str:
    """The secret in `path`, created on first use."""
    try:
        return parsers.secret(kept(path, secrets.token_hex(32)).strip())
    except ValueError as error:
        raise SettingsError(f"AUGU_DATA_DIR: the secret in {path} {error}") from error
