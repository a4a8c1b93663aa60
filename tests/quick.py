"""What `pytest --quick` (`make quick`) leaves out: what needs torch, a browser, a server, or seconds for each test.

`make quick` installs pytest, pytest-xdist and Hypothesis in addition to the service. A module or a folder that imports
more belongs in LEFT_OUT.
"""

from pathlib import Path

import pytest

LEFT_OUT = {
    "deepstack",
    "test_access.py",
    "test_cluster.py",
    "test_compose.py",
    "test_concurrency.py",
    "test_costs.py",
    "test_docs.py",
    "test_documented.py",
    "test_engines.py",
    "test_evaluation.py",
    "test_examples.py",
    "test_faults.py",
    "test_hostile.py",
    "test_hosts.py",
    "test_monitoring.py",
    "test_nano.py",
    "test_nginx.py",
    "test_no_calls.py",
    "test_openapi.py",
    "test_operators.py",
    "test_package.py",
    "test_page.py",
    "test_photo_sets.py",
    "test_readme.py",
    "test_schemathesis.py",
    "test_served.py",
    "test_smuggling.py",
    "test_starts.py",
    "test_systemd.py",
    "test_strangers.py",
    "test_training.py",
    "test_upkeep.py",
    "test_uploads.py",
    "test_wire.py",
    "test_worker.py",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    parser.addoption("--quick", action="store_true", help="leave out what needs torch, a browser or a server")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Ignore these; in the other modules the fixtures of servers skip their tests."""
    return True if config.getoption("quick") and collection_path.name in LEFT_OUT else None
