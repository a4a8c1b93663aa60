"""The line in front of a detector, and what processes know of each other's."""

import subprocess
import sys
from contextlib import ExitStack
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.data import coffee

from augu_api.config import CORES, Settings
from augu_api.detection.catalogue import find
from augu_api.detection.onnx import OnnxEngine
from augu_api.detection.torchvision import TorchvisionEngine
from augu_api.web.admission import Line, LineFull
from augu_api.web.service import KEY
from tests.conftest import OBJECTS, FakeDetector, MakeApp, add_user_to
from tests.test_contract import bearer

OTHER = """
import sys
from pathlib import Path
from augu_api.detection.line import Line
with Line(0, Path(sys.argv[1])).place():
    print("in line", flush=True)
    sys.stdin.read()
"""


def alone(line: Line) -> bool:
    """Whether a turn of this line has all cores for itself."""
    with line.place(), line.turn() as turn:
        return turn.alone


def test_a_line_has_so_many_places() -> None:
    """One at the detector and those who wait; whoever leaves makes room."""
    line = Line(2)
    for _ in range(2):
        with ExitStack() as places:
            for _ in range(3):
                places.enter_context(line.place())
            with pytest.raises(LineFull), line.place():
                pass


def test_a_line_knows_whether_it_is_alone(tmp_path: Path) -> None:
    """Its own waiting count for nothing, others do until they have left; each line is a process's own."""
    line, other = Line(4, tmp_path / "line"), Line(4, tmp_path / "line")
    assert alone(line)
    with line.place(), line.place():
        assert alone(line)
        assert not alone(other)
    assert alone(other)
    with other.place():
        with other.place():
            assert not alone(line)
        assert not alone(line)
    assert alone(line)


def test_who_was_alone_sees_others_come(tmp_path: Path) -> None:
    """The lock of one that is alone keeps nobody out, and one that is not alone has not lost its own."""
    line, other, third = (Line(4, tmp_path / "line") for _ in range(3))
    with other.place():
        with line.place(), line.turn() as turn:
            assert not turn.alone
            with other.turn() as turn:
                assert not turn.alone
        assert not alone(third)
    with line.place(), line.turn() as turn:
        assert turn.alone
        others = other.place()
        others.__enter__()
    assert not alone(line)
    others.__exit__(None, None, None)
    assert alone(line)


def test_a_process_that_is_killed_leaves_its_line(tmp_path: Path) -> None:
    """A real one, ended while it is at the detector."""
    line = Line(0, tmp_path / "line")
    command = [sys.executable, "-c", OTHER, str(tmp_path / "line")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"in line\n"
        assert not alone(line)
        process.kill()
        process.wait()
        assert alone(line)


def test_who_cannot_know_is_not_alone(tmp_path: Path) -> None:
    """Without a file, or in a folder that is not there, a line works all the same."""
    assert not alone(Line(0))
    assert not alone(Line(0, tmp_path / "missing" / "line"))


@pytest.mark.parametrize(
    ("path", "form"),
    [(OBJECTS, {"content_type": "image/png"}), ("/v1/vision/detection", {"content_type": "multipart/form-data"})],
)
def test_a_lone_request_has_all_cores(
    make_app: MakeApp, settings: Settings, png: bytes, path: str, form: dict[str, str]
) -> None:
    """Of two workers of a server, one that detects while nobody is in the other's line; another keeps to its own."""
    settings, detector = replace(settings, deepstack=True), FakeDetector()
    app, other = make_app(settings, detector), make_app(settings)
    headers = bearer(add_user_to(app.extensions[KEY]))

    def post() -> None:
        body = {"image": (BytesIO(png), "photo.png")} if "multipart" in form["content_type"] else png
        assert app.test_client().post(path, data=body, headers=headers, **form).status_code == 200

    post()
    with other.extensions[KEY].line.place():
        post()
    post()
    assert detector.all_cores == [True, False, True]


def test_all_cores_find_the_same(settings: Settings) -> None:
    """The engine has as many threads for a lone photo as there are cores, and finds in it what one thread finds."""
    engine, photo = OnnxEngine(find("bundled", settings), 1), coffee()
    threads = [session.get_session_options().intra_op_num_threads for session in (engine.session, engine.wide)]
    assert threads == [1, CORES]
    ours = engine.detect(photo)
    del engine.session
    theirs = engine.detect(photo, all_cores=True)
    assert len(ours) > 10
    assert [d.name for d in ours] == [d.name for d in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert one.box == pytest.approx(other.box, abs=0.01)
        assert one.score == pytest.approx(other.score, abs=1e-4)


def test_torch_has_as_many_threads(settings: Settings) -> None:
    """The module itself is run by all cores as well, if nobody else needs them."""
    engine, photo = TorchvisionEngine(find("bundled", settings), 1), np.zeros((64, 64, 3), np.uint8)
    for all_cores, threads in ((True, CORES), (False, 1)):
        engine.detect(photo, all_cores=all_cores)
        assert torch.get_num_threads() == threads
