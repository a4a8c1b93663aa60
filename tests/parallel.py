"""How pytest-xdist spreads the tests over processes: one by one, but whole modules whose tests share something slow.

`--dist loadgroup` would be enough, but with pytest 9.2 it ignores the groups.
"""

from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from xdist.scheduler import LoadScopeScheduling

TOGETHER = {
    "test_docs.py",
    "test_examples.py",
    "test_hosts.py",
    "test_nginx.py",
    "test_package.py",
    "test_page.py",
    "test_strangers.py",
    "test_training.py",
    "test_uploads.py",
    "test_worker.py",
}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> "LoadScopeScheduling":
    """Hand out the largest modules first."""
    from xdist.scheduler import LoadScopeScheduling  # noqa: PLC0415 - `make quick` does not install it

    class Scheduling(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
        def _split_scope(self, nodeid: str) -> str:
            module = nodeid.partition("::")[0]
            return module if PurePath(module).name in TOGETHER else nodeid

    return Scheduling(config, log)
