"""The Prometheus configuration and Grafana dashboard in deploy/, checked against the exported metrics."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families

from augu_api.config import ROOT, Settings
from tests.helpers import OBJECTS, answers, free_port, missing, wait_until
from tests.readme import commands
from tests.servers import Serve, add

METRICS_TOKEN = "a metrics token of 32 characters"
OPERATING = ROOT / "docs" / "operating.md"
DASHBOARD = json.loads((ROOT / "deploy" / "grafana.json").read_text())
TARGETS = [target for panel in DASHBOARD["panels"] for target in panel["targets"]]
PROMETHEUS_LABELS = {"instance", "job", "le"}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings that allow metrics."""
    return Settings.from_env({"AUGU_DATA_DIR": str(tmp_path / "data"), "AUGU_METRICS_TOKEN": METRICS_TOKEN})


@pytest.fixture
def exported(client: FlaskClient, auth: dict[str, str], photo: str) -> dict[str, set[str]]:
    """The metrics of an application that answered, detected and refused, each with its labels."""
    for headers in (auth, {}):
        client.post(OBJECTS, data=photo, headers=headers)
    shown = client.get("/metrics", headers={"Authorization": f"Bearer {METRICS_TOKEN}"}).text
    samples = [sample for family in text_string_to_metric_families(shown) for sample in family.samples]
    return {name: set().union(*(s.labels for s in samples if s.name == name)) for name in {s.name for s in samples}}


def named(target: dict[str, Any]) -> tuple[set[str], set[str]]:
    """The metrics and the labels that an expression and its legend name."""
    expression = target["expr"]
    grouped = " ".join(re.findall(r"\b(?:by|without) ?\(([^)]*)\)", expression))
    matched = " ".join(re.findall(r"(\w+) ?[=!]~?", expression))
    legend = " ".join(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
    return set(re.findall(r"\baugu_\w+", expression)), set(re.findall(r"\w+", f"{grouped} {matched} {legend}"))


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target["expr"])
def test_expressions(exported: dict[str, set[str]], target: dict[str, Any]) -> None:
    """A running application exports each metric and label that the dashboard uses."""
    metrics, labels = named(target)
    assert metrics
    assert metrics <= set(exported)
    assert labels <= set().union(*(exported[metric] for metric in metrics)) | PROMETHEUS_LABELS


def test_the_dashboard_shows_everything(exported: dict[str, set[str]]) -> None:
    """Each metric of the service has a panel."""
    shown = set().union(*(named(target)[0] for target in TARGETS))
    families = {re.sub("_(bucket|sum|count|total)$", "", name) for name in shown}
    ours = {name for name in exported if name.startswith("augu_") and not name.endswith("_created")}
    assert families == {re.sub("_(bucket|sum|count|total)$", "", name) for name in ours}


def test_the_dashboard_can_be_imported() -> None:
    """Panels have unique ids and do not overlap, and each uses the selected data source."""
    panels = DASHBOARD["panels"]
    [variable] = DASHBOARD["templating"]["list"]
    assert (variable["type"], variable["query"]) == ("datasource", "prometheus")
    for one in (*panels, *TARGETS):
        assert one["datasource"] == {"type": "prometheus", "uid": f"${{{variable['name']}}}"}
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(places)) == len(places)
    assert {x for x, _ in places} == set(range(24))


def query(port: int, expression: str) -> list[Any]:
    """Prometheus's current result for an expression of the dashboard."""
    asked = expression.replace("$__rate_interval", "1m").replace("$__range", "5m")
    reply = requests.get(f"http://127.0.0.1:{port}/api/v1/query", {"query": asked}, timeout=30)
    return list(reply.json()["data"]["result"])


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    """The folder /etc after the commands of docs/operating.md, which promtool accepts."""
    if shutil.which("promtool") is None:
        missing("prometheus")
    folder = tmp_path / "etc"
    (folder / "prometheus").mkdir(parents=True)
    section = OPERATING.read_text().partition("## Prometheus and Grafana\n")[2].partition("\n## ")[0]
    for command in commands(section):
        text = command.text.replace("sudo ", "").replace("/etc/", f"{folder}/")
        if not text.startswith("systemctl"):
            subprocess.run(["bash", "-euo", "pipefail", "-c", text], cwd=ROOT, check=True)
    return folder


@pytest.fixture
def prometheus(tmp_path: Path, etc: Path) -> Iterator[Callable[[int], int]]:
    """Start a real Prometheus with the installed configuration for a server's port; returns the port it answers on."""
    running = []

    def start(served: int) -> int:
        config, port = etc / "prometheus" / "prometheus.yml", free_port()
        config.write_text(config.read_text().replace("127.0.0.1:8000", f"127.0.0.1:{served}").replace("15s", "1s"))
        options = f"--web.listen-address=127.0.0.1:{port}", f"--storage.tsdb.path={tmp_path / 'tsdb'}"
        running.append(subprocess.Popen(["prometheus", f"--config.file={config}", *options]))
        wait_until(lambda: answers(port))
        return port

    yield start
    for process in running:
        process.terminate()
        process.wait()


def test_prometheus(serve: Serve, prometheus: Callable[[int], int], etc: Path) -> None:
    """A real Prometheus scrapes a real server with this configuration, and each expression has a result."""
    name, _, metrics_token = (etc / "augu-api.env").read_text().strip().partition("=")
    assert (etc / "prometheus" / "augu_metrics_token").stat().st_mode & 0o777 == 0o640
    server = serve(WEB_CONCURRENCY="1", **{name: metrics_token})
    token = add(server)
    port, photo = prometheus(server.port), (ROOT / "examples" / "street.png").read_bytes()

    def all_answered() -> bool:
        for sent in (token, "no"):
            headers = {"Authorization": f"Bearer {sent}", "Content-Type": "image/png"}
            requests.post(server.url + OBJECTS, photo, headers=headers, timeout=30)
        return all(query(port, target["expr"]) for target in TARGETS)

    wait_until(all_answered)
