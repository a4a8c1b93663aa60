"""Admission to the detector: slots, turns, and what processes know about one another."""

import subprocess
import sys
from contextlib import ExitStack
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

from augu_api.config import CORES, Settings
from augu_api.detection.catalogue import find
from augu_api.detection.onnx import OnnxEngine
from augu_api.web.admission import Admission, QueueFull
from augu_api.web.service import KEY
from tests.helpers import OBJECTS, FakeDetector, MakeApp, add_user_to, bearer, picture

OTHER = """
import sys
from pathlib import Path
from augu_api.web.admission import Admission
with Admission(0, Path(sys.argv[1])).slot():
    print("taken", flush=True)
    sys.stdin.read()
"""


def alone(admission: Admission) -> bool:
    """Whether a turn taken now would get all cores."""
    with admission.slot(), admission.turn() as turn:
        return turn.alone


def test_slots_are_bounded() -> None:
    """There is one slot at the detector and one for each waiting request; a returned slot can be taken again."""
    admission = Admission(2)
    for _ in range(2):
        with ExitStack() as slots:
            for _ in range(3):
                slots.enter_context(admission.slot())
            with pytest.raises(QueueFull), admission.slot():
                pass


def test_a_process_knows_whether_it_is_alone(tmp_path: Path) -> None:
    """Its own waiting requests do not count; those of other processes do until their slots are given back."""
    admission, other = Admission(4, tmp_path / "lock"), Admission(4, tmp_path / "lock")
    assert alone(admission)
    with admission.slot(), admission.slot():
        assert alone(admission)
        assert not alone(other)
    assert alone(other)
    with other.slot():
        with other.slot():
            assert not alone(admission)
        assert not alone(admission)
    assert alone(admission)


def test_a_process_with_the_exclusive_lock_admits_others(tmp_path: Path) -> None:
    """The exclusive lock keeps no other process out, and a process that fails to get it keeps its shared one."""
    admission, other, third = (Admission(4, tmp_path / "lock") for _ in range(3))
    with other.slot():
        with admission.slot(), admission.turn() as turn:
            assert not turn.alone
            with other.turn() as another:
                assert not another.alone
        assert not alone(third)
    with admission.slot(), admission.turn() as turn:
        assert turn.alone
        others = other.slot()
        others.__enter__()
    assert not alone(admission)
    others.__exit__(None, None, None)
    assert alone(admission)


def test_a_process_that_is_killed_gives_back_its_slots(tmp_path: Path) -> None:
    """The slot of a killed process is free again."""
    admission = Admission(0, tmp_path / "lock")
    command = [sys.executable, "-c", OTHER, str(tmp_path / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"taken\n"
        assert not alone(admission)
        process.kill()
        process.wait()
        assert alone(admission)


def test_without_a_lock_file_no_process_is_alone(tmp_path: Path) -> None:
    """Without a lock file, or if its folder is missing, admission still works."""
    assert not alone(Admission(0))
    assert not alone(Admission(0, tmp_path / "missing" / "lock"))


@pytest.mark.parametrize(
    ("path", "form"),
    [(OBJECTS, {"content_type": "image/png"}), ("/v1/vision/detection", {"content_type": "multipart/form-data"})],
)
def test_a_single_request_has_all_cores(
    make_app: MakeApp, settings: Settings, png: bytes, path: str, form: dict[str, str]
) -> None:
    """Of two workers, one detects with all cores if the other has no request, and with its own share otherwise."""
    settings, detector = replace(settings, deepstack=True), FakeDetector()
    app, other = make_app(settings, detector), make_app(settings)
    headers = bearer(add_user_to(app.extensions[KEY]))

    def post() -> None:
        body = {"image": (BytesIO(png), "photo.png")} if "multipart" in form["content_type"] else png
        assert app.test_client().post(path, data=body, headers=headers, **form).status_code == 200

    post()
    with other.extensions[KEY].admission.slot():
        post()
    post()
    assert detector.all_cores == [True, False, True]


def test_all_cores_give_the_same_result(settings: Settings) -> None:
    """The engine uses one thread per core for a single photo, and detects what one thread detects."""
    engine, photo = OnnxEngine(find("bundled", settings), 1), np.asarray(picture("coffee"))
    threads = [session.get_session_options().intra_op_num_threads for session in (engine.session, engine.all_cores)]
    assert threads == [1, CORES]
    ours = engine.detect(photo)
    del engine.session
    theirs = engine.detect(photo, all_cores=True)
    assert len(ours) > 10
    assert [d.name for d in ours] == [d.name for d in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert one.box == pytest.approx(other.box, abs=0.01)
        assert one.score == pytest.approx(other.score, abs=1e-4)
