"""Admission to the detector: slots, turns, and what processes know about one another."""

import random
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gunicorn.http.errors import InvalidChunkSize  # type: ignore[import-untyped]  # gunicorn has no types
from numpy.typing import NDArray
from PIL import Image
from werkzeug.test import TestResponse

from augu_api.config import CORES, Settings
from augu_api.detection import Detection
from augu_api.detection.catalogue import find
from augu_api.detection.onnx import OnnxEngine
from augu_api.web.admission import Admission
from augu_api.web.body import MAX_BODY
from augu_api.web.rooms import MB, QueueFull, Rooms
from augu_api.web.service import KEY
from tests.helpers import (
    BAD_TOKEN,
    BOUNDARY,
    DETECTION,
    MULTIPART,
    OBJECTS,
    FakeDetector,
    Headers,
    MakeApp,
    add_user_to,
    bearer,
    full,
    multipart,
    picture,
    png_of,
)

OTHER = """
import sys
from pathlib import Path
from augu_api.web.admission import Admission
with Admission(0, Path(sys.argv[1])).slot("other"):
    print("taken", flush=True)
    sys.stdin.read()
"""


def alone(admission: Admission) -> bool:
    """Whether a turn taken now would get all cores."""
    with admission.slot("this"), admission.turn(1) as turn:
        return turn.alone


def test_slots_are_bounded() -> None:
    """There is one slot at the detector and one for each waiting request; a returned slot can be taken again."""
    admission = Admission(2)
    for _ in range(2):
        with ExitStack() as slots:
            for caller in range(3):
                slots.enter_context(admission.slot(caller))
            with pytest.raises(QueueFull), admission.slot(3):
                pass


def test_a_process_knows_whether_it_is_alone(tmp_path: Path) -> None:
    """Its own waiting requests do not count; those of other processes do until their slots are given back."""
    admission, other = Admission(4, tmp_path / "lock"), Admission(4, tmp_path / "lock")
    assert alone(admission)
    with admission.slot(1), admission.slot(2):
        assert alone(admission)
        assert not alone(other)
    assert alone(other)
    with other.slot(1):
        with other.slot(2):
            assert not alone(admission)
        assert not alone(admission)
    assert alone(admission)


def test_a_process_with_the_exclusive_lock_admits_others(tmp_path: Path) -> None:
    """The exclusive lock keeps no other process out, and a process that fails to get it keeps its shared one."""
    admission, other, third = (Admission(4, tmp_path / "lock") for _ in range(3))
    with other.slot(1):
        with admission.slot(1), admission.turn(1) as turn:
            assert not turn.alone
            with other.turn(1) as another:
                assert not another.alone
        assert not alone(third)
    with admission.slot(1), admission.turn(1) as turn:
        assert turn.alone
        others = other.slot(1)
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
    [(OBJECTS, {"content_type": "image/png"}), (DETECTION, {"content_type": "multipart/form-data"})],
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
    with other.extensions[KEY].admission.slot(1):
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


# --- fairness


@pytest.mark.parametrize(("waiting", "share"), [(0, 1), (1, 1), (2, 1), (5, 2), (8, 3)])
def test_a_caller_gets_a_third_of_the_slots(waiting: int, share: int) -> None:
    """A caller holds at most a third of the slots, and at least one; the others find the rest free."""
    admission = Admission(waiting)
    with ExitStack() as slots:
        for _ in range(share):
            slots.enter_context(admission.slot("greedy"))
        with pytest.raises(QueueFull), admission.slot("greedy"):
            pass
        for other in range(waiting + 1 - share):
            slots.enter_context(admission.slot(other))
    with admission.slot("greedy"):
        pass


@pytest.mark.parametrize(
    ("waiting", "expected"),
    [
        ("aaaa", "0123"),  # one caller's, as they came
        ("abcd", "1023"),
        ("aaab", "3012"),  # `a` had the turn before
        ("aabb", "2031"),
        ("baac", "0132"),
    ],
)
def test_callers_take_turns(waiting: str, expected: str) -> None:
    """After `a` had a turn, the callers who wait get one each, and the requests of a caller come in their order.

    Whoever gives back a turn and asks for another at once waits for the others.
    """
    admission, order = Admission(8), list[str]()

    def take(caller: str, number: int) -> None:
        with admission.turn(caller):
            order.append(str(number))

    for _ in range(5):
        order.clear()
        with ThreadPoolExecutor() as pool:
            with admission.turn("a"):
                for number, caller in enumerate(waiting):
                    pool.submit(take, caller, number)
                    time.sleep(0.02)  # until it waits
            take("a", 4)
        assert "".join(order).replace("4", "") == expected
        assert order[0] != "4"
        assert order[-1] == "4" or "a" not in waiting


@pytest.mark.parametrize(
    ("path", "form"),
    [(OBJECTS, {"content_type": "image/png"}), (DETECTION, {"content_type": "multipart/form-data"})],
)
def test_a_user_leaves_slots_to_the_others(
    make_app: MakeApp, settings: Settings, png: bytes, path: str, form: dict[str, str]
) -> None:
    """A user who holds a third of the slots gets 503 and is not counted; another user's photo is answered."""
    app = make_app(replace(settings, deepstack=True), FakeDetector())
    service, client = app.extensions[KEY], app.test_client()
    greedy, other = bearer(add_user_to(service, "greedy", id=1)), bearer(add_user_to(service, "other"))

    def post(headers: Headers) -> TestResponse:
        body = {"image": (BytesIO(png), "photo.png")} if path == DETECTION else png
        return client.post(path, data=body, headers=headers, **form)

    with service.admission.slot(1), service.admission.slot(1), service.admission.slot(1):
        refused = post(greedy)
        assert (refused.status_code, refused.headers["X-Ratelimit-Remaining"]) == (503, "48")
        assert post(other).status_code == 200
    assert post(greedy).status_code == 200


# --- room for bodies and replies

THIRD = 16 * MB


def rooms_are_free(rooms: Rooms) -> bool:
    """Whether nobody holds any room: three callers can take all of it."""
    taken = []
    try:
        taken = [rooms.take(caller, THIRD) for caller in ("a", "b", "c")]
    except QueueFull:
        return False
    finally:
        for room in taken:
            room.release()
    return True


def test_room_is_shared() -> None:
    """A caller gets at most a third of the room, all callers together get all of it, and a small body counts 1 MB."""
    rooms = Rooms(48 * MB)
    greedy = [rooms.take("greedy", 1) for _ in range(16)]
    with pytest.raises(QueueFull):
        rooms.take("greedy", 1)
    others = [rooms.take(other, 8 * MB) for other in (1, 1, 2, 2)]
    with pytest.raises(QueueFull):
        rooms.take(3, 1)
    for room in [*greedy, *others]:
        room.release()
        room.release()
    assert rooms_are_free(rooms)


def test_large_replies_count_for_their_caller_alone() -> None:
    """Whoever holds replies of more than a third gets no slot until they have left; nobody else notices."""
    admission = Admission(8)
    replies = [admission.rooms.take("greedy", MB) for _ in range(3)]
    for reply in replies:
        reply.resize(50 * MB)
    with pytest.raises(QueueFull), admission.slot("greedy"):
        pass
    with pytest.raises(QueueFull):
        admission.rooms.take("greedy", MB)
    assert [admission.rooms.take(other, THIRD) for other in (1, 2)]
    with admission.slot("other"):
        pass
    for reply in replies:
        reply.release()
    with admission.slot("greedy"):
        pass


def test_large_replies_are_bounded_together() -> None:
    """While all replies take more than there is, or those of a caller more than a share, none is added."""
    rooms = Rooms(48 * MB)
    rooms.check_reply("one")
    replies = [rooms.take(caller, MB) for caller in ("one", "two", "three", "four")]
    for reply in replies[:3]:
        reply.resize(15 * MB)
    rooms.check_reply("four")
    replies[0].resize(18 * MB)
    for caller in ("one", "four"):
        with pytest.raises(QueueFull):
            rooms.check_reply(caller)
    for reply in replies[1:]:
        reply.release()
    rooms.check_reply("four")
    with pytest.raises(QueueFull):
        rooms.check_reply("one")


def test_a_picture_waits_for_others_to_leave(make_app: MakeApp, settings: Settings, png: bytes) -> None:
    """While large replies take all the memory there is for them, a picture is refused with 503, and JSON is not."""
    app = make_app(settings, FakeDetector())
    service, client = app.extensions[KEY], app.test_client()
    waiting = service.admission.rooms.take("another", MB)
    waiting.resize(49 * MB)
    body: dict[str, Any] = {"data": png, "content_type": "image/png"}
    authorized = bearer(add_user_to(service))
    as_picture = authorized | {"Accept": "image/png"}
    assert client.post(OBJECTS, headers=as_picture, **body).status_code == 503
    assert client.post(OBJECTS, headers=authorized, **body).status_code == 200
    waiting.release()
    assert client.post(OBJECTS, headers=as_picture, **body).status_code == 200


def test_room_is_passed_on() -> None:
    """Room that an address took counts for the user once that one is known, unless the user has no room left."""
    rooms = Rooms(48 * MB)
    room = rooms.take("192.0.2.1", THIRD)
    room.give_to(1)
    with pytest.raises(QueueFull):
        rooms.take(1, MB)
    other = rooms.take("192.0.2.1", THIRD)
    with pytest.raises(QueueFull):
        other.give_to(1)
    with pytest.raises(QueueFull):
        rooms.take("192.0.2.1", MB)
    room.release()
    other.release()
    assert rooms_are_free(rooms)


class Watched:
    """A body that calls a function when it is read. Like gunicorn's, it can only be read."""

    def __init__(self, body: bytes, watch: Callable[[], object]) -> None:
        self.body, self.watch = BytesIO(body), watch

    def read(self, size: int) -> bytes:
        self.watch()
        return self.body.read(size)


@pytest.mark.parametrize("path", [OBJECTS, DETECTION])
def test_a_body_that_arrives_holds_room_and_no_slot(
    make_app: MakeApp, settings: Settings, png: bytes, path: str
) -> None:
    """While a body is read, all slots are free; the body counts as long as it is announced, or 8 MB if it is not."""
    app = make_app(replace(settings, deepstack=True), FakeDetector())
    service, seen = app.extensions[KEY], list[bool]()
    headers = bearer(add_user_to(service, id=1, coefficient=1000))
    body = multipart(png, 'name="image"; filename="a"') if path == DETECTION else png

    def look(left: int) -> None:
        with full(service):
            pass
        taken = service.admission.rooms.take(1, left)
        with pytest.raises(QueueFull):
            service.admission.rooms.take(1, MB)
        taken.release()
        seen.append(True)

    for environ in (
        read_from(Watched(body, lambda: look(15 * MB)), len(body)),
        read_from(Watched(body, lambda: look(8 * MB))),
    ):
        environ["CONTENT_TYPE"] = MULTIPART if path == DETECTION else "image/png"
        reply = app.test_client().post(path, headers=headers, environ_overrides=environ)
        assert reply.status_code == 200
        reply.close()
    assert len(seen) >= 2
    assert rooms_are_free(service.admission.rooms)


class Broken(FakeDetector):
    """Fails."""

    def detect(self, photo: NDArray[np.uint8], *, all_cores: bool = False) -> list[Detection]:
        raise RuntimeError


def read_from(stream: Watched, length: int | None = None) -> dict[str, Any]:
    """What a server puts in the environment of a request with this body; without a length it comes in chunks."""
    head = {"HTTP_TRANSFER_ENCODING": "chunked"} if length is None else {"CONTENT_LENGTH": str(length)}
    return {"wsgi.input": stream, "wsgi.input_terminated": True} | head


def breaks() -> None:
    raise ConnectionResetError


def is_no_chunk() -> None:
    raise InvalidChunkSize(b"ZZ")


KEPT: dict[str, tuple[int, dict[str, Any]]] = {
    "a photo": (200, {}),
    "a picture": (200, {"headers": {"Accept": "image/png"}}),
    "no photo": (400, {"data": b"x"}),
    "no body": (400, {"data": b""}),
    "too large a body": (400, {"environ_overrides": {"CONTENT_LENGTH": str(MAX_BODY + 1)}}),
    "a disconnected client": (400, {"environ_overrides": read_from(Watched(b"", breaks), 10)}),
    "broken chunks": (400, {"environ_overrides": read_from(Watched(b"", is_no_chunk))}),
    "no type": (406, {"headers": {"Accept": "text/html"}}),
    "a wrong parameter": (400, {"query_string": "limit=0"}),
    "a wrong token": (401, {"headers": BAD_TOKEN}),
    "an error": (500, {"query_string": "limit=1"}),
}


@pytest.mark.parametrize(("status", "options"), KEPT.values(), ids=KEPT)
@pytest.mark.parametrize("path", [OBJECTS, DETECTION])
def test_nothing_keeps_its_room(
    make_app: MakeApp, settings: Settings, png: bytes, path: str, status: int, options: dict[str, Any]
) -> None:
    """However a request ends, its slot and its room are free when the reply is closed."""
    is_error = status == 500
    app = make_app(replace(settings, deepstack=True), Broken() if is_error else FakeDetector())
    service = app.extensions[KEY]
    headers = bearer(add_user_to(service, coefficient=1000)) | options.get("headers", {})
    form = {"data": multipart(png, 'name="image"; filename="a"'), "content_type": MULTIPART}
    sent = (form if path == DETECTION else {"data": png, "content_type": "image/png"}) | options
    reply = app.test_client().post(path, **sent | {"headers": headers})
    assert reply.status_code == status if path == OBJECTS else reply.status_code in (status, 200)
    reply.close()
    assert rooms_are_free(service.admission.rooms)
    with full(service):
        pass


def test_a_form_without_a_token_keeps_no_room(make_app: MakeApp, settings: Settings, png: bytes) -> None:
    """The room of an address is free after a form without a token, with a wrong or a right one, and after no form."""
    app = make_app(replace(settings, deepstack=True), FakeDetector())
    service = app.extensions[KEY]
    token = add_user_to(service, coefficient=1000).removeprefix("Bearer ")
    form = multipart(png, 'name="image"; filename="a"')
    key = b'--%b\r\nContent-Disposition: form-data; name="api_key"\r\n\r\n%b\r\n'
    forms = {
        form: 401,
        key % (BOUNDARY.encode(), b"wrong") + form: 401,
        b"x" * 100: 400,
        key % (BOUNDARY.encode(), token.encode()) + form: 200,
    }
    for body, status in forms.items():
        with app.test_client().post(DETECTION, data=body, content_type=MULTIPART) as reply:
            assert reply.status_code == status
        assert rooms_are_free(service.admission.rooms)


def test_a_reply_holds_its_room_until_it_has_left(make_app: MakeApp, settings: Settings) -> None:
    """A picture counts for the user until the server closes the reply; then the user gets the next one."""
    app = make_app(settings, FakeDetector())
    service = app.extensions[KEY]
    headers = bearer(add_user_to(service, coefficient=1000)) | {"Accept": "image/png"}
    dice = random.Random(1)
    noise = Image.frombytes("P", (1300, 1300), dice.randbytes(1300 * 1300))  # the reply is three times as large
    noise.putpalette(dice.randbytes(768))
    sent: dict[str, Any] = {"data": png_of(noise), "content_type": "image/png", "headers": headers}
    pictures = [app.test_client().post(OBJECTS, **sent) for _ in range(4)]
    assert [reply.status_code for reply in pictures] == [200, 200, 200, 503]
    for reply in pictures:
        reply.close()
    assert rooms_are_free(service.admission.rooms)
