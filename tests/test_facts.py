"""`model.json`: each field has a type and bounds, and the error names the one that is wrong."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from augu_api.config import ROOT, Settings
from augu_api.detection import ModelUnavailable
from augu_api.detection.catalogue import find

FACTS: dict[str, Any] = json.loads((ROOT / "weights" / "model.json").read_text())
REQUIRED = {"architecture", "file", "sha256", "names", "min_size", "max_size", "megabytes", "ap", "speed"}
CHECKED = REQUIRED | {"export_sha256", "calibration"}
NO_TEXT: list[Any] = [None, 1, 1.5, True, [], {}, ["model.pth"]]
NO_NUMBER: list[Any] = [None, "412", True, [], {}, [412], 10**400, -(10**400), math.nan, math.inf, -math.inf, 1e9]
WRONG: dict[str, list[Any]] = {
    "architecture": [*NO_TEXT, "", "a" * 101, "__import__('os')", "a.b", "nano_rcnn\n"],
    "file": [
        *NO_TEXT, "", ".", "..", "../model.pth", "/etc/passwd", "a/b.pth", "a\\b.pth", ".hidden", "~root", "a" * 201,
        "model.pth\n", "model\0.pth", "C:model.pth",
    ],
    "sha256": [*NO_TEXT, "", "0" * 63, "0" * 65, "G" * 64, "A" * 64, "0" * 64 + "\n"],
    "export_sha256": [*NO_TEXT, "", "0" * 63, "0" * 64 + "\n"],
    "names": [
        None, "person", 1, {}, [], ["background"], [1, 2], [None, "cat"], [["cat"], "dog"], ["a", "b" * 101],
        ["a", "b\n"], ["a", "\ud800"], ["a", "\u202e"], ["a"] * 10_001,
    ],
    "min_size": [*NO_NUMBER, 0, -1, 413, 412.0, 412.5, 10_001],
    "max_size": [*NO_NUMBER, 0, -1, 412.0, 10_001],
    "megabytes": [*NO_NUMBER, -1],
    "ap": [*NO_NUMBER, 1.1, -1.1],
    "speed": [*NO_TEXT, "a" * 101, "\x1b[31m"],
    "calibration": [
        None, 1, "0", {}, [1], [[1]], [[0, 0, 0]], [["0", 0]], [[None, 0]], [[0, math.nan]], [[0, 2]], [[-1, 0]],
        [[0.5, 0], [0.4, 1]], [[0, 0.5], [1, 0.4]], [[0, 0]] * 1001,
    ],
}  # fmt: skip


def model_with(folder: Path, text: str) -> Any:
    (folder / "model.json").write_text(text)
    return find(str(folder), Settings())


def refused(folder: Path, text: str) -> str:
    with pytest.raises(ModelUnavailable, match=rf"^{folder}/model\.json cannot be used: ") as raised:
        model_with(folder, text)
    assert len(str(raised.value).splitlines()) == 1
    return str(raised.value).partition("cannot be used: ")[2]


def test_every_field_is_checked() -> None:
    """WRONG has values for each field that is read, and the bundled model has all of them."""
    assert set(WRONG) == CHECKED
    assert set(FACTS) == CHECKED | {"ap_measured_on"}


@pytest.mark.parametrize("field", WRONG)
def test_wrong_values(tmp_path: Path, field: str) -> None:
    """Each value of a wrong type or beyond its bounds is refused, and the error names the field."""
    for value in WRONG[field]:
        said = refused(tmp_path, json.dumps(FACTS | {field: value}))
        assert re.match(rf"{'(min|max)_size' if field == 'max_size' else field}\b", said), (value, said)


@pytest.mark.parametrize("field", sorted(REQUIRED))
def test_missing_fields(tmp_path: Path, field: str) -> None:
    """A missing field is named."""
    facts = {name: value for name, value in FACTS.items() if name != field}
    assert refused(tmp_path, json.dumps(facts)).startswith(f"{field}: ")


@pytest.mark.parametrize("field", ["ap", "names"])
def test_a_field_that_is_there_twice(tmp_path: Path, field: str) -> None:
    """Which of two values holds is not guessed."""
    twice = json.dumps(FACTS).removesuffix("}") + f', "{field}": {json.dumps(FACTS[field])}}}'
    assert f"{field} is there twice" in refused(tmp_path, twice)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "1", '"a"', "[" * 100_000, '{"ap": ' * 100_000, "1" * 5000, "\ufeff{}", "[1, 2]"]
)
def test_what_is_no_object(tmp_path: Path, text: str) -> None:
    """Whatever is not one object of JSON is refused in one line, however deep or long it is."""
    refused(tmp_path, text)


def test_bytes(tmp_path: Path) -> None:
    """A file that is no text is refused."""
    (tmp_path / "model.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(ModelUnavailable, match=r"model\.json cannot be used"):
        find(str(tmp_path), Settings())


def test_good_values(tmp_path: Path) -> None:
    """What the bundled model, an older folder and a newly trained one have is accepted; notes are ignored."""
    assert model_with(tmp_path, json.dumps(FACTS)).ap == FACTS["ap"]
    trained = FACTS | {"ap": -1, "speed": "", "calibration": [], "names": ["background", "Münze 1 €"], "note": {}}
    model = model_with(tmp_path, json.dumps({k: v for k, v in trained.items() if k != "export_sha256"}))
    assert (model.ap, model.speed, model.export_sha256, model.names[1]) == (-1, "", "", "Münze 1 €")
    assert model.weights.parent == model.export.parent == model.facts.parent == tmp_path


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@hypothesis_settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(field=st.sampled_from(sorted(CHECKED)), value=JSON)
def test_any_value(tmp_path: Path, field: str, value: object) -> None:
    """Any value of a field is accepted, or refused with its name."""
    text = json.dumps(FACTS | {field: value})
    said, model = "", None
    try:
        model = model_with(tmp_path, text)
    except ModelUnavailable as error:
        said = str(error)
    assert model or "_size: " in said or f" {field}" in said
    if model:
        assert type(getattr(model, field)) is type(FACTS[field])
        assert model.weights.parent == tmp_path


@pytest.mark.parametrize("text", ["{}", '{"export_sha256": 1}', '{"export_sha256": ""}', "[]"])
def test_the_facts_of_a_published_export(tmp_path: Path, text: str) -> None:
    """The hash of a published model's export is checked in the same way."""
    settings = Settings.from_env({"AUGU_DATA_DIR": str(tmp_path)})
    settings.weights_dir.mkdir()
    find("mobilenet", settings).facts.write_text(text)
    with pytest.raises(ModelUnavailable, match=r"\.json cannot be used: (export_sha256: |Invalid input type)"):
        find("mobilenet", settings)
