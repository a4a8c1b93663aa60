"""The settings: defaults, accepted and refused values, and the secret."""

import os
import stat
import subprocess
import sys
from dataclasses import fields
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from augu_api import secret_files
from augu_api.config import CORES, ROOT, Settings, SettingsError
from augu_api.config import given as named
from augu_api.parsers import Keyless
from tests.helpers import AtOnce, missing
from tests.readme import SETTINGS

SECRET = "0123456789abcdef0123456789abcdef"
VARIABLES = {f.metadata["variable"]: f.name for f in fields(Settings)}
HOST = "://augu:p%40ss@db.example.org:5432/augu?sslmode=require"
PSYCOPG = f"postgresql+psycopg{HOST}"


def read(folder: Path, **environ: str) -> Settings:
    return Settings.from_env({"AUGU_DATA_DIR": str(folder)} | environ)


def test_defaults(tmp_path: Path) -> None:
    """Without variables the service runs in development, on SQLite in its data folder, with the bundled model."""
    settings = read(tmp_path / "new" / "data")
    secret = (tmp_path / "new" / "data" / "secret_key").read_text()
    assert vars(settings) == {
        "env": "development",
        "secret_key": secret,
        "secret_keys": (secret,),
        "data_dir": tmp_path / "new" / "data",
        "database_url": f"sqlite:///{tmp_path}/new/data/augu.db",
        "ratelimit_storage": "",
        "ban_minutes": 10,
        "model": "bundled",
        "engine": "auto",
        "weights_url": "https://download.pytorch.org/models",
        "max_pixels": 25_000_000,
        "queue": 8,
        "deepstack": False,
        "deepstack_mb": 5,
        "keyless": None,
        "proxies": (),
        "metrics_token": "",
        "metrics_dir": None,
        "docs_url": "/docs",
        "cors_origins": (),
        "workers": CORES,
        "port": 8000,
    }
    assert {f.name: f.default for f in fields(Settings)}["data_dir"] == ROOT / "data"
    assert settings.weights_dir == tmp_path / "new" / "data" / "weights"


GOOD: list[tuple[str, str, Any]] = [
    ("AUGU_ENV", "development", "development"),
    ("AUGU_SECRET_KEY", SECRET, SECRET),
    ("AUGU_SECRET_KEY", f"{SECRET},{SECRET}", f"{SECRET},{SECRET}"),
    ("AUGU_SECRET_KEYS", SECRET, (SECRET,)),
    ("AUGU_SECRET_KEYS", ",".join([SECRET] * 10), (SECRET,) * 10),
    ("DATABASE_URL", "sqlite:////tmp/x.db", "sqlite:////tmp/x.db"),
    ("DATABASE_URL", f"postgres{HOST}", PSYCOPG),
    ("DATABASE_URL", f"postgresql{HOST}", PSYCOPG),
    ("DATABASE_URL", PSYCOPG, PSYCOPG),
    ("DATABASE_URL", "postgres://augu:a#b/c:d@localhost/augu", "postgresql+psycopg://augu:a#b/c:d@localhost/augu"),
    ("AUGU_RATELIMIT_STORAGE", "redis://localhost:6379", "redis://localhost:6379"),
    ("AUGU_RATELIMIT_STORAGE", "rediss://:a@localhost:6380/1", "rediss://:a@localhost:6380/1"),
    ("AUGU_RATELIMIT_STORAGE", "redis+unix:///run/redis.sock", "redis+unix:///run/redis.sock"),
    ("AUGU_BAN_MINUTES", "1", 1),
    ("AUGU_MODEL", "resnet50", "resnet50"),
    ("AUGU_ENGINE", "torchvision", "torchvision"),
    ("AUGU_WEIGHTS_URL", "http://mirror.example.org/models/", "http://mirror.example.org/models"),
    ("AUGU_MAX_PIXELS", "2147483647", 2**31 - 1),
    ("AUGU_QUEUE", "007", 7),
    ("AUGU_DEEPSTACK", "1", True),
    ("AUGU_DEEPSTACK", "0", False),
    ("AUGU_DEEPSTACK_MB", "10", 10),
    ("AUGU_DEEPSTACK_KEYLESS", "cameras@192.168.1.0/24", Keyless("cameras", (IPv4Network("192.168.1.0/24"),))),
    ("AUGU_DEEPSTACK_KEYLESS", "a@b@10.0.0.7, ::1", Keyless("a@b", (IPv4Network("10.0.0.7"), IPv6Network("::1")))),
    ("AUGU_PROXIES", "127.0.0.1,fd00::/8", (IPv4Network("127.0.0.1"), IPv6Network("fd00::/8"))),
    ("AUGU_METRICS_TOKEN", SECRET, SECRET),
    ("PROMETHEUS_MULTIPROC_DIR", "/var/../tmp", Path("/tmp")),
    ("AUGU_DOCS_URL", "https://docs.example.org", "https://docs.example.org"),
    ("AUGU_CORS_ORIGINS", "https://app.example.org", ("https://app.example.org",)),
    ("AUGU_CORS_ORIGINS", "http://localhost:3000, http://[::1]:3000", ("http://localhost:3000", "http://[::1]:3000")),
    ("AUGU_CORS_ORIGINS", "https://xn--bcher-kva.example:80", ("https://xn--bcher-kva.example:80",)),
    ("WEB_CONCURRENCY", "3", 3),
    ("PORT", "65535", 65535),
]


@pytest.mark.parametrize(("variable", "text", "value"), GOOD)
def test_good(tmp_path: Path, variable: str, text: str, value: object) -> None:
    """A variable sets the setting of its name."""
    assert getattr(read(tmp_path, **{variable: text}), VARIABLES[variable]) == value


def test_every_setting_has_a_good_value() -> None:
    """GOOD lists every setting."""
    assert {variable for variable, _, _ in GOOD} | {"AUGU_DATA_DIR"} == set(VARIABLES)


@pytest.mark.parametrize("variable", VARIABLES)
def test_empty_is_unset(tmp_path: Path, variable: str) -> None:
    """An empty variable counts as one that is not set."""
    environ = {"AUGU_DATA_DIR": str(tmp_path), variable: ""}
    default = next(f.default for f in fields(Settings) if f.metadata["variable"] == variable)
    if variable == "AUGU_DATA_DIR":
        assert default == ROOT / "data"
    else:
        assert Settings.from_env(environ) == read(tmp_path)


BAD_ORIGINS = [
    "*",
    "null",
    "https://*.example.org",
    "https://app.example.org/",
    "https://app.example.org/path",
    "https://app.example.org?a",
    "https://App.example.org",
    "https://app.example.org:443",
    "http://app.example.org:80",
    "http://app.example.org:65536",
    "http://app.example.org:port",
    "https://augu:hunter2@app.example.org",
    "https://bücher.example",
    "https://",
    "https://app.example.org.",
    "app.example.org",
    "file://app.example.org",
    "https://app.example.org,",
    "https://app.example.org https://other.example.org",
    "https://app.example.org\r\nX: 1",
]
NUMBERS = ("AUGU_BAN_MINUTES", "AUGU_DEEPSTACK_MB", "AUGU_MAX_PIXELS", "AUGU_QUEUE", "WEB_CONCURRENCY", "PORT")
BAD = [(variable, text) for variable in NUMBERS for text in ("0", "-1", "1.5", "many", "٣", "²", " 1", str(2**31))] + [
    ("WEB_CONCURRENCY", "1001"),
    ("PORT", "65536"),
    ("AUGU_ENV", "Production"),
    ("AUGU_ENV", "test"),
    ("AUGU_ENGINE", "tensorflow"),
    ("AUGU_SECRET_KEY", SECRET[1:]),
    ("AUGU_SECRET_KEYS", f"{SECRET},{SECRET[1:]}"),
    ("AUGU_SECRET_KEYS", f"{SECRET},"),
    ("AUGU_SECRET_KEYS", f",{SECRET}"),
    ("AUGU_SECRET_KEYS", f"{SECRET},{' ' * 32}"),
    ("AUGU_SECRET_KEYS", f"{SECRET}, {SECRET}"),
    ("AUGU_SECRET_KEYS", ",".join([SECRET] * 11)),
    ("AUGU_METRICS_TOKEN", "short"),
    ("AUGU_DEEPSTACK", "yes"),
    ("AUGU_DEEPSTACK", " 1"),
    ("AUGU_DEEPSTACK_MB", "11"),
    ("AUGU_DEEPSTACK_KEYLESS", "cameras"),
    ("AUGU_DEEPSTACK_KEYLESS", "192.168.1.0/24"),
    ("AUGU_DEEPSTACK_KEYLESS", "cameras@"),
    ("AUGU_DEEPSTACK_KEYLESS", "cameras@192.168.1.7/24"),
    ("AUGU_DEEPSTACK_KEYLESS", "cameras@0.0.0.0/0"),
    ("AUGU_DEEPSTACK_KEYLESS", "cameras@10.0.0.0/8,::/0"),
    ("AUGU_DEEPSTACK_KEYLESS", "cameras@0.0.0.0/1,128.0.0.0/1"),
    ("AUGU_PROXIES", "nginx"),
    ("AUGU_PROXIES", "0.0.0.0/0"),
    ("AUGU_DATA_DIR", "/dev/null/data"),
    ("AUGU_DATA_DIR", "~nobody-of-that-name/data"),
    ("AUGU_DATA_DIR", "a\0b"),
    ("DATABASE_URL", "mysql://localhost/augu"),
    ("DATABASE_URL", "postgresql+psycopg2://localhost/augu"),
    ("DATABASE_URL", "postgresql:localhost"),
    ("DATABASE_URL", "augu.db"),
    ("DATABASE_URL", "sqlite://augu.db"),
    ("DATABASE_URL", "postgresql://augu@localhost:port/augu"),
    ("DATABASE_URL", "postgresql://augu:hunter2"),
    ("DATABASE_URL", "postgresql://augu:hun@ter2@localhost/augu"),
    ("AUGU_RATELIMIT_STORAGE", "localhost"),
    ("AUGU_RATELIMIT_STORAGE", "redis://localhost:port"),
    ("AUGU_RATELIMIT_STORAGE", "redis://:hun/ter2@localhost"),
    ("AUGU_RATELIMIT_STORAGE", "rediss+unix://localhost"),
    ("AUGU_RATELIMIT_STORAGE", "memory://"),
    ("AUGU_RATELIMIT_STORAGE", "memcached://localhost:11211"),
    ("AUGU_RATELIMIT_STORAGE", "mongodb://localhost:27017"),
    ("AUGU_RATELIMIT_STORAGE", "redis+cluster://localhost:7000"),
    ("AUGU_RATELIMIT_STORAGE", "redis+sentinel://localhost:26379/augu"),
    ("AUGU_RATELIMIT_STORAGE", "valkey://localhost:6379"),
    ("AUGU_RATELIMIT_STORAGE", "carrier-pigeon://localhost"),
    ("AUGU_WEIGHTS_URL", "file:///etc"),
    ("AUGU_WEIGHTS_URL", "mirror.example.org"),
    ("AUGU_WEIGHTS_URL", "https://augu:hunter2@mirror.example.org"),
    *[("AUGU_CORS_ORIGINS", text) for text in BAD_ORIGINS],
]


@pytest.mark.parametrize(("variable", "text"), BAD)
def test_bad(tmp_path: Path, variable: str, text: str) -> None:
    """A value that cannot be used is refused before anything starts, and the message names the variable."""
    with pytest.raises(SettingsError, match=f"^{variable}: ") as raised:
        read(tmp_path, **{variable: text})
    for secret in (SECRET[1:], "hun", "ter2"):
        assert secret not in str(raised.value)


def test_two_variables_for_the_secret_are_refused(tmp_path: Path) -> None:
    """AUGU_SECRET_KEY and AUGU_SECRET_KEYS cannot both be set, and the error shows neither value."""
    with pytest.raises(SettingsError, match=r"^AUGU_SECRET_KEYS: .*AUGU_SECRET_KEY") as raised:
        read(tmp_path, AUGU_SECRET_KEY=SECRET, AUGU_SECRET_KEYS=f"{SECRET},{SECRET}")
    assert SECRET not in str(raised.value)


@given(st.dictionaries(st.sampled_from(sorted(set(VARIABLES) - {"AUGU_DATA_DIR", "AUGU_ENV"})), st.text(), max_size=3))
def test_any_values(tmp_path_factory: pytest.TempPathFactory, environ: dict[str, str]) -> None:
    """Any values are accepted, or the error names one of the variables."""
    named = next(iter(environ), "")
    try:
        read(tmp_path_factory.getbasetemp(), **environ)
    except SettingsError as error:
        named = str(error).partition(":")[0]
    assert named in {*environ, ""}


@pytest.mark.parametrize("key", [{}, {"AUGU_SECRET_KEY": ""}, {"AUGU_SECRET_KEYS": ""}])
def test_production_needs_a_secret(tmp_path: Path, key: dict[str, str]) -> None:
    """In production no secret is generated: without one, the start is refused and nothing is created."""
    with pytest.raises(SettingsError, match=r"^AUGU_SECRET_KEY: "):
        read(tmp_path / "data", AUGU_ENV="production", **key)
    assert not (tmp_path / "data").exists()
    assert read(tmp_path / "data", AUGU_ENV="production", AUGU_SECRET_KEY=SECRET).secret_key == SECRET
    assert not (tmp_path / "data" / "secret_key").exists()


def test_many_secrets(tmp_path: Path) -> None:
    """The first of several secrets signs, also in production, and no other is generated."""
    settings = read(tmp_path / "data", AUGU_ENV="production", AUGU_SECRET_KEYS=f"{'n' * 32},{SECRET}")
    assert (settings.secret_key, settings.secret_keys) == ("n" * 32, ("n" * 32, SECRET))
    assert not (tmp_path / "data" / "secret_key").exists()
    assert read(tmp_path, AUGU_SECRET_KEY=SECRET).secret_keys == (SECRET,)


@pytest.mark.parametrize("text", ["", "0123"])
def test_a_damaged_secret(tmp_path: Path, text: str) -> None:
    """A stored secret that was truncated, for example by a full disk, prevents the start."""
    (tmp_path / "secret_key").write_text(text)
    with pytest.raises(SettingsError, match=r"^AUGU_DATA_DIR: .*secret_key must have at least 32 characters"):
        read(tmp_path)


@pytest.mark.parametrize(("mode", "after"), [(0o644, 0o640), (0o666, 0o660), (0o600, 0o600), (0o400, 0o400)])
def test_a_stored_secret_is_hidden_from_others(tmp_path: Path, mode: int, after: int) -> None:
    """Others lose their access to the stored secret; the owner's and the group's stay as they were."""
    secret = read(tmp_path).secret_key
    (tmp_path / "secret_key").chmod(mode)
    assert read(tmp_path).secret_key == secret
    assert stat.S_IMODE((tmp_path / "secret_key").stat().st_mode) == after


def test_the_data_folder_is_private(tmp_path: Path) -> None:
    """A data folder that the start creates is private; an existing one stays as it is, unless all can write to it."""
    assert stat.S_IMODE(read(tmp_path / "new" / "data").data_dir.stat().st_mode) == 0o700
    tmp_path.chmod(0o755)
    assert stat.S_IMODE(read(tmp_path).data_dir.stat().st_mode) == 0o755


@pytest.mark.parametrize(("mode", "after"), [(0o777, 0o770), (0o707, 0o700), (0o772, 0o770), (0o775, 0o775)])
def test_a_data_folder_that_all_can_write_is_closed(tmp_path: Path, mode: int, after: int) -> None:
    """If all users can write to our data folder, the others lose their access; the group's stays as it was."""
    tmp_path.chmod(mode)
    read(tmp_path)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == after


@pytest.mark.parametrize("given", [{}, {"AUGU_SECRET_KEY": SECRET, "DATABASE_URL": f"postgres{HOST}"}])
def test_a_data_folder_of_all_users_is_refused(tmp_path: Path, given: dict[str, str]) -> None:
    """A folder that is for all users, such as /tmp, is refused and stays as it is."""
    tmp_path.chmod(0o1777)
    with pytest.raises(SettingsError, match=rf"^AUGU_DATA_DIR: every user can write to {tmp_path}"):
        read(tmp_path, **given)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o1777
    assert list(tmp_path.iterdir()) == []


def test_a_data_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    """A folder that all can write to and that is another user's, so that it cannot be closed, is refused."""
    if os.geteuid():
        missing("the right to give a folder away")
    tmp_path.chmod(0o777)
    os.chown(tmp_path, 12345, 12345)
    setpriv = ["setpriv", "--bounding-set", "-fowner"]  # root without the right to change other users' files
    code = "from augu_api.config import Settings; Settings.from_env()"
    env = os.environ | {"AUGU_DATA_DIR": str(tmp_path)}
    done = subprocess.run([*setpriv, sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert f"SettingsError: AUGU_DATA_DIR: every user can write to {tmp_path}" in done.stderr


def test_without_a_data_folder(tmp_path: Path) -> None:
    """With the secret and the database elsewhere, a data folder that cannot be created is not needed."""
    read(Path("/dev/null/data"), AUGU_SECRET_KEY=SECRET, DATABASE_URL=f"sqlite:///{tmp_path}/augu.db")
    with pytest.raises(SettingsError, match=r"^AUGU_DATA_DIR: "):
        read(Path("/dev/null/data"), AUGU_SECRET_KEY=SECRET)


def test_a_generated_secret_is_stored(tmp_path: Path) -> None:
    """The secret generated in development is long and private, and stays the same."""
    secret = read(tmp_path).secret_key
    assert len(bytes.fromhex(secret)) == 32
    assert stat.S_IMODE((tmp_path / "secret_key").stat().st_mode) == 0o600
    assert read(tmp_path).secret_key == secret
    assert read(tmp_path, AUGU_SECRET_KEY=SECRET).secret_key == SECRET
    assert [path.name for path in tmp_path.iterdir()] == ["secret_key"]


def secret_of(folder: Path) -> str:
    return read(folder).secret_key


@pytest.mark.parametrize("round_", range(5))
def test_one_secret(tmp_path: Path, at_once: AtOnce, round_: int) -> None:
    """When 8 processes start at once on an empty folder, one creates the secret and all use it."""
    assert set(at_once(secret_of, tmp_path / "data")) == {(tmp_path / "data" / "secret_key").read_text()}


def test_secrets_are_not_shown(tmp_path: Path) -> None:
    """The repr of Settings, as a log or a traceback would show it, contains no secret."""
    settings = read(tmp_path, AUGU_SECRET_KEYS=SECRET, AUGU_METRICS_TOKEN=SECRET, DATABASE_URL=f"postgres{HOST}")
    for shown in (repr(settings), str(settings), f"{[settings]}"):
        assert SECRET not in shown
        assert "p%40ss" not in shown


# --- secrets in files


@pytest.mark.parametrize("variable", secret_files.SECRET)
def test_a_secret_in_a_file(tmp_path: Path, variable: str) -> None:
    """A variable with _FILE names a file with the value, as the variable itself has it, and is known to `doctor`."""
    text, value = next((text, value) for name, text, value in GOOD if name == variable)
    (tmp_path / "secret").write_text(f"{text}\n")
    environ = {f"{variable}_FILE": str(tmp_path / "secret")}
    assert getattr(read(tmp_path, **environ), VARIABLES[variable]) == value
    assert variable in named(environ)
    assert f"`{variable}_FILE`" in SETTINGS.read_text()


BAD_FILES = {
    "missing": (None, r"\[Errno 2\] No such file"),
    "empty": (b"\n", "is empty"),
    "too long": (b"s" * 10_001, "more than 10000 bytes"),
    "bytes": (b"\xff" * 40, "is not text$"),
}


@pytest.mark.parametrize(("content", "said"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_bad_file(tmp_path: Path, content: bytes | None, said: str) -> None:
    """A file that cannot be used is refused with the name of its variable, also where a missing secret is an error."""
    if content:
        (tmp_path / "secret").write_bytes(content)
    with pytest.raises(SettingsError, match=f"^AUGU_SECRET_KEY_FILE: .*{said}"):
        read(tmp_path, AUGU_SECRET_KEY_FILE=str(tmp_path / "secret"), AUGU_ENV="production")


def test_a_value_and_a_file(tmp_path: Path) -> None:
    """One of the two names the secret."""
    (tmp_path / "secret").write_text(SECRET)
    with pytest.raises(SettingsError, match=r"^AUGU_SECRET_KEY_FILE: must not be set beside AUGU_SECRET_KEY$"):
        read(tmp_path, AUGU_SECRET_KEY_FILE=str(tmp_path / "secret"), AUGU_SECRET_KEY=SECRET)


@pytest.mark.parametrize(("workers", "threads"), [(1, CORES), (CORES, 1), (10 * CORES, 1)])
def test_engine_threads(tmp_path: Path, workers: int, threads: int) -> None:
    """The workers' detectors together use each core once, and each has at least one thread."""
    assert read(tmp_path, WEB_CONCURRENCY=str(workers)).engine_threads == threads


EXTRAS = [
    ("psycopg", "postgresql", "DATABASE_URL", "postgresql://augu:swordfish@127.0.0.1/augu"),
    ("redis", "redis", "AUGU_RATELIMIT_STORAGE", "redis://:swordfish@127.0.0.1"),
]


@pytest.mark.parametrize(("package", "extra", "variable", "url"), EXTRAS, ids=["psycopg", "redis"])
@pytest.mark.parametrize(
    "command", [["augu-api", "users", "list"], ["gunicorn", "--bind", "127.0.0.1:0"]], ids=" ".join
)
def test_a_missing_extra(tmp_path: Path, command: list[str], package: str, extra: str, variable: str, url: str) -> None:
    """If the package for a setting is not installed, the start ends with one line that says what to install."""
    (tmp_path / f"{package}.py").write_text(f"raise ModuleNotFoundError('No module named {package}')")
    given = {"AUGU_DATA_DIR": str(tmp_path), "WEB_CONCURRENCY": "1", "PYTHONPATH": str(tmp_path), variable: url}
    done = subprocess.run(
        [Path(sys.executable).with_name(command[0]), *command[1:]],
        env=os.environ | given,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode in (1, 3)
    [line] = [line for line in done.stdout.splitlines() if "Error: " in line]
    assert line.endswith(f"Error: {variable}: needs the package {package}: pip install 'augu-api[{extra}]'")
    assert "Traceback" not in done.stdout
    assert "swordfish" not in done.stdout
