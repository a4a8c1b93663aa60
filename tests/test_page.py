"""The page at `/` in Chromium.

AUGU_SCREENSHOTS names a folder for the pictures that README.md shows.
"""

import base64
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urljoin, urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, FilePayload, Locator, Page, Request, expect

from augu_api.config import ROOT, Settings
from augu_api.detection.catalogue import find
from augu_api.detection.drawing import colour_of, ink_on
from tests.helpers import OBJECTS, file_of, picture
from tests.readme import BLOCK
from tests.servers import Nginx, Server, add, serving

NAMES = [name for name in find("bundled", Settings()).names if name != "N/A"]
EXAMPLE = (ROOT / "examples" / "street.png").read_bytes()
CAT = file_of(picture("chelsea"), "PNG")
ORIENTATION = 0x0112
GIVE = """([encoded, type, kind]) => {
    const bytes = Uint8Array.from(atob(encoded), (c) => c.charCodeAt(0));
    const given = new DataTransfer();
    given.items.add(new File([bytes], "photo", { type }));
    const event = kind === "drop" ? new DragEvent(kind, { dataTransfer: given, bubbles: true, cancelable: true })
        : new ClipboardEvent(kind, { clipboardData: given, bubbles: true, cancelable: true });
    document.querySelector("#drop").dispatchEvent(event);
}"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for the tests of this file."""
    with serving(tmp_path_factory.mktemp("page")) as start:
        yield start(WEB_CONCURRENCY="1")


@pytest.fixture
def user(request: pytest.FixtureRequest) -> str:
    """The name of a user for this test only."""
    return re.sub(r"\W", "_", request.node.name)[:64]


@pytest.fixture
def token(server: Server, user: str) -> str:
    """The token of that user, who has plenty of requests."""
    return add(server, user, 1000)


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A fresh browser context; an error in a script or a violation of the security policy fails the test."""
    complaints: list[str] = []
    context = browser.new_context(viewport={"width": 1100, "height": 900})
    context.on("weberror", lambda error: complaints.append(str(error.error)))
    context.on("console", lambda message: complaints.append(message.text) if "Policy" in message.text else None)
    yield context
    context.close()
    assert complaints == []


@pytest.fixture
def page(context: BrowserContext, server: Server) -> Page:
    """The page, loaded."""
    page = context.new_page()
    page.goto(server.url)
    return page


def enter(page: Page, token: str) -> None:
    page.get_by_label("Token", exact=True).fill(token)


def objects_of(page: Page, act: Callable[[], object], least: float = 50) -> list[dict[str, Any]]:
    """Do something that sends a request; the reply's objects from that score on, once the page shows them."""
    with page.expect_response(lambda response: OBJECTS in response.url) as reply:
        act()
    found = [item for item in reply.value.json()["data"]["objects"] if item["score"] >= least]
    expect(page.get_by_role("status")).to_have_text(re.compile(rf"^{len(found)} objects? found\.$"))
    return found


def give(page: Page, image: bytes, kind: Literal["drop", "paste"] = "drop", mimetype: str = "image/png") -> None:
    """Drop or paste a file."""
    page.evaluate(GIVE, [base64.b64encode(image).decode(), mimetype, kind])


def choose(page: Page, image: bytes, mimetype: str = "image/png") -> None:
    page.get_by_label("Choose a photo").set_input_files({"name": "photo", "mimeType": mimetype, "buffer": image})


def boxes(page: Page) -> Locator:
    return page.locator(".box")


def drawn(page: Page, size: tuple[int, int]) -> list[list[float]]:
    """The boxes x, y, width and height in pixels of a photo of that size, best first."""
    whole = page.locator("#picture").bounding_box()
    assert whole
    scale = [side / shown for side, shown in zip(size, (whole["width"], whole["height"]), strict=True)]
    found = []
    for box in reversed(boxes(page).all()):
        at = box.bounding_box()
        assert at
        corner = [(at["x"] - whole["x"]) * scale[0], (at["y"] - whole["y"]) * scale[1]]
        found.append([*corner, at["width"] * scale[0], at["height"] * scale[1]])
    return found


def no_violations(page: Page) -> None:
    """Axe finds no violation."""
    results = Axe().run(page)
    assert results.violations_count == 0, results.generate_report()


# --- a photo and its objects


@pytest.mark.parametrize("width", [1100, 360])
def test_a_dropped_photo_has_its_boxes(page: Page, token: str, width: int) -> None:
    """The boxes are where the reply says, to a screen pixel, with names and scores above them and in the list."""
    page.set_viewport_size({"width": width, "height": 900})
    enter(page, token)
    street = picture("astronaut").resize((800, 600))
    found = objects_of(page, lambda: give(page, file_of(street, "PNG")))
    assert len(found) > 0
    shown = page.locator("#picture").bounding_box()
    assert shown
    pixel = 800 / shown["width"]
    for at, item in zip(drawn(page, street.size), found, strict=True):
        assert at == pytest.approx([item[side] for side in ("x", "y", "width", "height")], abs=pixel)
    labels = [f"{item['name']} {item['score']:.0f}" for item in found]
    assert boxes(page).all_inner_texts() == labels[::-1]
    lines = page.get_by_role("listitem").all_inner_texts()
    assert [line.split("\n") for line in lines] == [[item["name"], f"{item['score']:.2f} %"] for item in found]


def test_the_example(page: Page, token: str) -> None:
    """One click sends the built-in photo; the facts and the remaining quota are shown."""
    enter(page, token)
    found = objects_of(page, page.get_by_role("button", name="Try the example").click)
    assert [item["name"] for item in found] == ["stop sign", "traffic light"]
    facts = page.locator("#facts").inner_text()
    assert re.fullmatch(
        r"640 x 480 pixels\. The service took \d+ ms, the whole request \d+ ms\. "
        r"59999 of 60000 requests left, for (60|59) s\.",
        facts,
    )
    expect(page.locator("#picture")).to_have_attribute("alt", "Your photo, with boxes around: stop sign, traffic light")


@pytest.mark.parametrize("kind", ["drop", "paste", "choose"])
def test_every_way_to_give_a_photo(page: Page, token: str, kind: Literal["drop", "paste", "choose"]) -> None:
    """A photo can be dropped, pasted or chosen, one after the other."""
    enter(page, token)
    for image, name in ((CAT, "cat"), (EXAMPLE, "stop sign")):
        found = objects_of(page, lambda: choose(page, image) if kind == "choose" else give(page, image, kind))  # noqa: B023 - called at once
        assert found[0]["name"] == name


@pytest.mark.parametrize("format", ["JPEG", "WEBP", "GIF", "BMP"])
def test_every_format_of_the_browser(page: Page, token: str, format: str) -> None:
    """The page converts every format that the browser can show to PNG."""
    enter(page, token)
    image = file_of(picture("chelsea"), format)
    with page.expect_response(lambda response: OBJECTS in response.url) as reply:
        give(page, image, mimetype=f"image/{format.lower()}")
    assert "cat" in [item["name"] for item in reply.value.json()["data"]["objects"]]


def test_a_turned_photo_is_upright(page: Page, token: str) -> None:
    """A photo with an EXIF orientation is sent upright."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # the stored image must be rotated clockwise
    stored = picture("chelsea").transpose(Image.Transpose.ROTATE_90)
    enter(page, token)
    with page.expect_response(lambda response: OBJECTS in response.url) as reply:
        give(page, file_of(stored, "JPEG", exif=exif.tobytes()), mimetype="image/jpeg")
    assert "cat" in [item["name"] for item in reply.value.json()["data"]["objects"]]
    assert page.locator("#facts").inner_text().startswith("451 x 300 pixels.")


def test_a_large_photo_is_made_smaller(page: Page, token: str) -> None:
    """A photo whose PNG would be larger than 5 MB is shrunk until it is not, and its boxes fit what is shown."""
    large = picture("astronaut").resize((3600, 3600), Image.Resampling.BICUBIC)
    enter(page, token)
    found = objects_of(page, lambda: give(page, file_of(large, "JPEG"), mimetype="image/jpeg"))
    assert "person" in [item["name"] for item in found]
    width, height = map(int, page.locator("#facts").inner_text().split(" pixels")[0].split(" x "))
    assert 1000 < width == height < 3600
    for at, item in zip(drawn(page, (width, height)), found, strict=True):
        assert at == pytest.approx([item[side] for side in ("x", "y", "width", "height")], abs=width / 300)


def test_a_photo_that_the_browser_cannot_draw_is_made_smaller(page: Page, token: str) -> None:
    """A photo that is wider than what the browser can draw is shrunk until it can."""
    enter(page, token)
    with page.expect_response(lambda response: OBJECTS in response.url) as reply:
        give(page, file_of(Image.new("RGB", (70_000, 10)), "PNG"))
    assert reply.value.status == 200
    expect(page.locator("#facts")).to_contain_text("35000 x 5 pixels")


@pytest.mark.parametrize("most", [1_000, 10_001])
def test_the_largest_photo_is_that_of_the_service(browser: Browser, tmp_path: Path, most: int) -> None:
    """A photo with more than AUGU_MAX_PIXELS is shrunk to it before it is sent."""
    with serving(tmp_path) as start:
        strict = start(WEB_CONCURRENCY="1", AUGU_MAX_PIXELS=str(most))
        page = browser.new_page()
        page.goto(strict.url)
        enter(page, add(strict))
        with page.expect_response(lambda response: OBJECTS in response.url) as reply:
            give(page, EXAMPLE)
        assert reply.value.status == 200
        width, height = map(int, page.locator("#facts").inner_text().split(" pixels")[0].split(" x "))
        assert 0.9 * most < width * height <= most
        page.close()


def test_a_file_that_is_not_a_photo(page: Page, token: str) -> None:
    """For a file that is not a photo the page says so, and sends nothing."""
    enter(page, token)
    sent: list[Request] = []
    page.on("request", lambda request: sent.append(request))  # noqa: PLW0108 - Playwright sets an attribute on it
    give(page, b"no photo", mimetype="text/plain")
    expect(page.get_by_role("alert")).to_have_text(re.compile(r"^This browser cannot show that file\."))
    assert sent == []


def test_the_slider_chooses_by_score(page: Page, token: str) -> None:
    """Only objects with at least the slider's score are drawn and listed; the shown program has the same limit."""
    enter(page, token)
    with page.expect_response(lambda response: OBJECTS in response.url) as reply:
        give(page, file_of(picture("astronaut"), "PNG"))
    scores = [item["score"] for item in reply.value.json()["data"]["objects"]]
    assert len({score // 20 for score in scores}) > 1
    slider = page.get_by_role("slider")
    for least in (5, 30, 50, 90, 100):
        slider.fill(str(least))
        expect(boxes(page)).to_have_count(sum(score >= least for score in scores))
        expect(page.get_by_role("listitem")).to_have_count(sum(score >= least for score in scores))
        assert f"min_score={least}" in page.locator("#program").inner_text()
    expect(page.locator("#none")).to_be_visible()


def test_a_list_item_highlights_its_box(page: Page, token: str) -> None:
    """Only the box of the list item with the pointer or the focus is highlighted."""
    enter(page, token)
    found = objects_of(page, page.get_by_role("button", name="Try the example").click)
    for index, item in enumerate(found):
        for act in (Locator.hover, Locator.focus):
            act(page.get_by_role("listitem").get_by_role("button").nth(index))
            lit = page.locator(".box.lit")
            expect(lit).to_have_count(1)
            assert lit.inner_text().startswith(item["name"])
        page.get_by_role("heading", name="Augu API").hover()
        page.get_by_role("slider").focus()
        expect(page.locator(".box.lit")).to_have_count(0)


def test_colours_are_those_of_the_annotated_replies(page: Page) -> None:
    """Boxes and labels have the same colours as in the annotated photos."""
    paint = """async (names) => {
        const { paint } = await import("/assets/colours.js");
        return names.map((name) => {
            const element = document.createElement("div");
            paint(element, name);
            return [element.style.getPropertyValue("--colour"), element.style.getPropertyValue("--ink")];
        });
    }"""
    wanted = [[f"rgb({','.join(map(str, colour_of(name)))})", ink_on(colour_of(name))] for name in NAMES]
    assert page.evaluate(paint, NAMES) == wanted


# --- what goes wrong


def shows_alert(page: Page, words: str) -> None:
    """Assert that the page shows this alert and no objects."""
    expect(page.get_by_role("alert")).to_contain_text(words)
    expect(page.locator("#result")).to_be_hidden()


def try_example(page: Page, token: str) -> None:
    enter(page, token)
    page.get_by_role("button", name="Try the example").click()


def test_a_wrong_token(page: Page) -> None:
    """A 401 is explained, with the remedy."""
    try_example(page, "wrong")
    shows_alert(page, "401 Unauthorized: You are not authorized. Enter the whole token that the operator gave you")


def test_a_missing_flag(page: Page, server: Server, user: str) -> None:
    """A 403 is shown with the service's message."""
    try_example(page, server.run("users", "add", user).strip())
    shows_alert(page, "403 Forbidden: You do not have the flag required to access this endpoint.")


def test_an_exhausted_quota(page: Page, server: Server, user: str) -> None:
    """A 429 is shown with the seconds to wait and the remaining quota."""
    token = add(server, user, 1 / 60)
    enter(page, token)
    objects_of(page, page.get_by_role("button", name="Try the example").click)
    page.get_by_role("button", name="Try the example").click()
    shows_alert(page, "429 Too Many Requests: You have made too many requests. Please wait")
    expect(page.get_by_role("alert")).to_have_text(re.compile(r"Try again in \d+ seconds?\.$"))
    expect(page.get_by_role("status")).to_have_text(re.compile(r"^0 of 1 requests left"))


def test_a_refused_photo(browser: Browser, tmp_path: Path) -> None:
    """A 400 is shown with the field and the reason; a stopped server is reported as not answering."""
    with serving(tmp_path) as start:
        before = start(WEB_CONCURRENCY="1")
        page = browser.new_page()
        page.goto(before.url)
        before.stop()  # the page is still open when the service is restarted with a lower limit
        strict = start(port=before.port, WEB_CONCURRENCY="1", AUGU_MAX_PIXELS="1000")
        try_example(page, add(strict))
        shows_alert(page, "400 Bad request: Invalid request body. data: More than 1000 pixels: 640 x 480.")
        strict.stop()
        give(page, CAT)
        shows_alert(page, "The service does not answer. Is it running, and are you online?")
        page.close()


def test_a_problem_goes_away(page: Page, token: str) -> None:
    """After a failure the next photo is shown normally."""
    try_example(page, "wrong")
    shows_alert(page, "401")
    enter(page, token)
    objects_of(page, lambda: give(page, EXAMPLE))
    expect(page.get_by_role("alert")).to_be_hidden()


# --- the token


@pytest.fixture
def sent(page: Page) -> list[Request]:
    """The photos that the page sends."""
    found: list[Request] = []
    page.on("request", lambda request: found.append(request) if OBJECTS in request.url else None)
    return found


def give_token(page: Page, token: str, way: str) -> None:
    """Give the page a token in the focused field."""
    if way == "pasted":
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        page.evaluate("(token) => navigator.clipboard.writeText(token)", token)
        page.keyboard.press("ControlOrMeta+A")
        page.keyboard.press("ControlOrMeta+V")
        return
    enter(page, token)
    if way == "button":
        page.get_by_role("button", name="Send the photo").click()
    else:
        page.keyboard.press(way)


@pytest.mark.parametrize("first", ["", "wrong"])
@pytest.mark.parametrize("way", ["pasted", "Enter", "Tab", "button"])
def test_the_photo_waits_for_the_token(page: Page, token: str, sent: list[Request], way: str, first: str) -> None:
    """Without a token nothing is sent; once it is there, or a wrong one is replaced, the photo is sent, only once."""
    enter(page, first)
    give(page, EXAMPLE)
    shows_alert(page, "401 Unauthorized" if first else "Enter your token.")
    expect(page.get_by_role("status")).to_have_text("The photo is sent as soon as you enter the token.")
    expect(page.get_by_label("Token", exact=True)).to_be_focused()
    assert len(sent) == (1 if first else 0)
    sent.clear()
    found = objects_of(page, lambda: give_token(page, token, way))
    assert [item["name"] for item in found] == ["stop sign", "traffic light"]
    expect(page.get_by_role("alert")).to_be_hidden()
    expect(page.get_by_role("button", name="Send the photo")).to_be_hidden()
    page.get_by_label("Token", exact=True).press("Enter")
    page.get_by_role("slider").focus()
    objects_of(page, lambda: give(page, CAT))
    assert len(sent) == 2


def test_a_wrong_token_is_sent_once(page: Page, sent: list[Request]) -> None:
    """A photo that waits is not sent again with the token that was refused, unless the user asks for it."""
    give(page, EXAMPLE)
    shows_alert(page, "Enter your token.")
    give_token(page, "wrong", "pasted")
    shows_alert(page, "401")
    page.get_by_label("Keep it in this browser").focus()
    with page.expect_response(lambda response: OBJECTS in response.url):
        page.get_by_role("button", name="Send the photo").click()
    assert len(sent) == 2


def test_the_token_is_kept_only_if_asked(page: Page) -> None:
    """The token is saved only while "Keep it in this browser" is checked, and never in a cookie."""
    field, keep = page.get_by_label("Token", exact=True), page.get_by_label("Keep it in this browser")
    for kept in (False, True, False):
        field.fill("a token")
        keep.set_checked(kept)
        page.reload()
        expect(field).to_have_value("a token" if kept else "")
        assert keep.is_checked() is kept
    assert page.context.cookies() == []


# --- the same request as a program


def program_of(page: Page, language: str, folder: Path) -> list[str]:
    """The command that runs the program which the page shows in a language."""
    page.get_by_role("button", name=language, exact=True).click()
    file = folder / {"curl": "program.sh", "Python": "program.py", "JavaScript": "program.mjs"}[language]
    file.write_text(page.locator("#program").inner_text())
    return [{"curl": "bash", "Python": sys.executable, "JavaScript": "node"}[language], str(file)]


@pytest.mark.parametrize("language", ["curl", "Python", "JavaScript"])
def test_the_programs_do_the_same(page: Page, token: str, tmp_path: Path, language: str) -> None:
    """The shown program, run with the saved photo, gets the objects that are shown."""
    enter(page, token)
    found = objects_of(page, page.get_by_role("button", name="Try the example").click)
    with page.expect_download() as download:
        page.get_by_role("link", name="photo.png").click()
    download.value.save_as(tmp_path / "photo.png")
    program = program_of(page, language, tmp_path)
    assert token not in page.locator("#program").inner_text()
    env = os.environ | {"AUGU_TOKEN": token}
    output = subprocess.run(program, cwd=tmp_path, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout
    for item in found:
        assert item["name"] in output
        assert all(f"{item[side]:g}" in output for side in ("score", "x", "y", "width", "height"))


@pytest.mark.parametrize("language", ["curl", "Python", "JavaScript"])
def test_the_programs_say_what_is_wrong(page: Page, token: str, tmp_path: Path, language: str) -> None:
    """The shown program prints the message and the details of a failure as one line, and exits with an error."""
    enter(page, token)
    objects_of(page, page.get_by_role("button", name="Try the example").click)
    program = program_of(page, language, tmp_path)
    (tmp_path / "photo.png").write_bytes(b"no photo")
    env = os.environ | {"AUGU_TOKEN": token}
    done = subprocess.run(program, cwd=tmp_path, env=env, check=False, capture_output=True, text=True)
    assert done.returncode != 0
    [line] = (done.stdout if language == "curl" else done.stderr).splitlines()  # curl's own words are in the other
    said = json.loads(line)
    assert said["message"] == "Invalid request body."
    assert said["details"]["data"]


def test_a_program_can_be_copied(page: Page, token: str) -> None:
    """The button copies what is shown."""
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    enter(page, token)
    objects_of(page, page.get_by_role("button", name="Try the example").click)
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == page.locator("#program").inner_text()


# --- accessibility, size and security


def test_the_keyboard_is_enough(page: Page, token: str) -> None:
    """Tab reaches the token, photo, slider, objects and programs in this order, and keys operate them."""
    cat: FilePayload = {"name": "cat.png", "mimeType": "image/png", "buffer": CAT}
    page.on("filechooser", lambda chooser: chooser.set_files(cat))
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the photo")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.get_by_label("Token", exact=True)).to_be_focused()
    page.keyboard.insert_text(token)
    page.keyboard.press("Tab")
    expect(page.get_by_label("Keep it in this browser")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_label("Choose a photo")).to_be_focused()
    page.keyboard.press("Space")
    expect(page.get_by_role("status")).to_have_text("1 object found.")
    page.keyboard.press("Tab")
    objects_of(page, lambda: page.keyboard.press("Enter"))  # the example
    page.keyboard.press("Tab")
    expect(page.get_by_role("slider")).to_be_focused()
    page.keyboard.press("End")
    expect(page.locator("#least")).to_have_text("100")
    page.keyboard.press("Home")
    page.keyboard.press("Tab")
    expect(page.locator(".box.lit")).to_have_count(1)
    for _ in range(page.get_by_role("listitem").count()):
        page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="photo.png")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert page.locator("#program").inner_text().startswith("import os")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_violation_of_accessibility(page: Page, token: str, scheme: Literal["light", "dark"]) -> None:
    """Axe finds no violation: empty, asking for a token, with a failure, with objects and a program, also narrow."""
    page.emulate_media(color_scheme=scheme)
    no_violations(page)
    try_example(page, "")
    shows_alert(page, "Enter your token.")
    no_violations(page)
    try_example(page, "wrong")
    shows_alert(page, "401")
    no_violations(page)
    enter(page, token)
    objects_of(page, lambda: give(page, EXAMPLE))
    no_violations(page)
    page.set_viewport_size({"width": 360, "height": 640})
    no_violations(page)


def test_a_phone_shows_it(page: Page, token: str) -> None:
    """At a phone's width nothing is cut off, before and after a photo, and touch targets are large enough."""
    page.set_viewport_size({"width": 360, "height": 640})
    overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    hidden = "[...document.querySelectorAll('pre')].filter((pre) => pre.scrollWidth > pre.clientWidth).length"
    assert page.evaluate(overflow) == 0
    enter(page, token)
    objects_of(page, page.get_by_role("button", name="Try the example").click)
    for language in ("curl", "Python", "JavaScript"):
        page.get_by_role("button", name=language, exact=True).click()
        assert [page.evaluate(overflow), page.evaluate(hidden)] == [0, 0]
    for button in page.locator("button:visible, .button").all():
        at = button.bounding_box()
        assert at
        assert at["height"] >= 24  # WCAG 2.2, 2.5.8
        assert at["x"] >= 0
        assert at["x"] + at["width"] <= 360


def test_nothing_comes_from_elsewhere(context: BrowserContext, server: Server, token: str) -> None:
    """The page loads less than 100 KB, all from its own server, and its policy allows nothing else."""
    page, weights = context.new_page(), dict[str, int]()
    page.on("response", lambda response: weights.update({response.url: len(response.body())}))
    response = page.goto(server.url, wait_until="networkidle")
    assert response
    assert 0 < sum(weights.values()) < 100_000
    enter(page, token)
    objects_of(page, lambda: give(page, EXAMPLE))
    own = urlsplit(server.url).netloc
    assert {urlsplit(url).netloc for url in weights if not url.startswith("blob:")} == {own}
    policy = response.headers["content-security-policy"].split("; ")
    assert policy[0] == "default-src 'none'"
    assert not re.search(r"unsafe|https?:|\*|data:", "".join(policy))


def test_its_policy_is_kept(browser: Browser, server: Server) -> None:
    """The browser blocks requests from the page to other servers."""
    page = browser.new_page()
    page.goto(server.url)
    assert page.evaluate("fetch('http://127.0.0.1:9/').then(() => 'sent', (error) => error.name)") == "TypeError"
    with page.expect_console_message(lambda message: "connect-src 'self'" in message.text):
        page.evaluate("fetch('http://127.0.0.1:9/').catch(() => {})")
    page.close()


def test_it_works_under_a_path(
    context: BrowserContext, server: Server, nginx: Nginx, token: str, tmp_path: Path
) -> None:
    """Behind nginx with the lines of docs/operating.md, the pages, their requests and openapi.json keep to the path."""
    [lines] = [block for kind, block in BLOCK.findall((ROOT / "docs" / "operating.md").read_text()) if kind == "nginx"]
    port = nginx(server.port, locations=lines)
    site = f"http://127.0.0.1:{port}/augu/"
    page, asked = context.new_page(), list[str]()
    page.on("request", lambda request: asked.append(request.url))
    page.goto(site.removesuffix("/"))
    enter(page, token)
    found = objects_of(page, page.get_by_role("button", name="Try the example").click)
    expect(boxes(page)).to_have_count(len(found))
    assert f'"{site}images/classify/objects?min_score=50"' in page.locator("#program").inner_text()
    page.get_by_role("link", name="Documentation").click()
    page.get_by_label("Token", exact=True).fill(token)
    form = page.get_by_role("form", name=f"Try POST {OBJECTS}", exact=True)
    form.get_by_role("button", name="Send").click()
    expect(form.get_by_role("status")).to_contain_text("200 OK")
    page.get_by_role("link", name="Try it with a photo").click()
    expect(page).to_have_url(site)
    document = page.request.get(f"{site}openapi.json").json()
    base = urljoin(f"{site}openapi.json", document["servers"][0]["url"])
    assert base == site
    assert page.request.get(f"{base.removesuffix('/')}/session", headers={"Authorization": f"Bearer {token}"}).ok
    assert page.request.get(f"{site}metrics").status == 403
    assert [url for url in asked if not url.startswith((site, "blob:", site.removesuffix("/")))] == []


def test_hostile_names_are_text(page: Page) -> None:
    """Markup in a reply is shown as text."""
    hostile = "<img src=x onerror=alert(1)>"
    item = {"name": hostile, "x": 1, "y": 1, "width": 5, "height": 5, "score": 90}
    reply = {"statusCode": 200, "error": None, "message": "", "data": {"objects": [item], "took": 1}}
    page.route(f"**{OBJECTS}*", lambda route: route.fulfill(json=reply))
    enter(page, "a token")
    give(page, CAT)
    expect(page.get_by_role("listitem")).to_contain_text(hostile)
    expect(page.locator("main img")).to_have_count(1)


@pytest.mark.parametrize(("name", "width", "height"), [("page", 1000, 700), ("phone", 360, 700)])
def test_screenshots(page: Page, token: str, tmp_path: Path, name: str, width: int, height: int) -> None:
    """Take the screenshots for README.md, which show a cup on a table."""
    page.set_viewport_size({"width": width, "height": height})
    enter(page, token)
    found = objects_of(page, lambda: give(page, file_of(picture("coffee"), "PNG")))
    assert [item["name"] for item in found] == ["cup", "dining table"]
    page.locator("body").click(position={"x": 1, "y": 1})  # nothing is focused
    path = Path(os.environ.get("AUGU_SCREENSHOTS") or tmp_path) / f"{name}.jpg"
    page.screenshot(path=path, type="jpeg", quality=85)
    assert path.stat().st_size > 10_000
