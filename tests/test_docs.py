"""The page at `/docs` in Chromium: it shows openapi.json, and requests can be tried."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from flask.testing import FlaskClient
from playwright.sync_api import Browser, BrowserContext, Locator, Page, Route, expect

from augu_api.config import ROOT, Settings
from augu_api.flags import Flag
from augu_api.web.docs.pages import POLICY
from tests.helpers import OBJECTS, FakeDetector, MakeApp
from tests.servers import Server, add, serving

MARKUP = "<img src=/x onerror=alert(1)>"
MAX_TRANSFER = 100 * 1024


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests of this file."""
    with serving(tmp_path_factory.mktemp("docs")) as start:
        yield start(WEB_CONCURRENCY="1", AUGU_DEEPSTACK="1")


@pytest.fixture(scope="module")
def token(server: Server) -> str:
    """The token of a user with plenty of requests."""
    return add(server, coefficient=1000)


@pytest.fixture
def context(browser: Browser, server: Server, request: pytest.FixtureRequest) -> Iterator[BrowserContext]:
    """A fresh browser context; a violation of the page's policy or a request to another server fails the test."""
    wrong: list[str] = []
    context = browser.new_context(**getattr(request, "param", {}))
    context.set_default_timeout(30_000)
    context.on("weberror", lambda error: wrong.append(str(error.error)))
    context.on("console", lambda said: wrong.append(said.text) if "Content Security Policy" in said.text else None)
    context.on("request", lambda sent: None if sent.url.startswith((server.url, "blob:")) else wrong.append(sent.url))
    yield context
    context.close()
    assert wrong == []


@pytest.fixture
def page(context: BrowserContext, server: Server) -> Page:
    """The page, loaded."""
    page = context.new_page()
    page.goto(f"{server.url}/docs")
    return page


def form_of(page: Page, operation: str) -> Locator:
    """The form of an operation, which is unfolded first if need be."""
    folded = page.locator(
        "details.operation:not([open]) > summary", has_text=re.compile(rf"^\s*{re.escape(operation)}\s*$")
    )
    if folded.count():
        folded.click()
    return page.get_by_role("form", name=f"Try {operation}", exact=True)


def send(form: Locator) -> Locator:
    """Press the button; the form, once the reply is there."""
    form.get_by_role("button", name="Send").click()
    expect(form.get_by_role("heading", name="Headers")).to_be_visible()
    return form


SCREENS = [{"width": 1100, "height": 900}, {"width": 360, "height": 740}]
LOOKS = [{"color_scheme": scheme, "viewport": screen} for scheme in ("light", "dark") for screen in SCREENS]


@pytest.mark.parametrize("context", LOOKS, indirect=True, ids=["light", "light phone", "dark", "dark phone"])
def test_accessibility(page: Page) -> None:
    """Axe finds no violation with everything expanded and a reply shown, and a phone need not scroll sideways."""
    send(form_of(page, "GET /session"))
    page.evaluate("for (const part of document.querySelectorAll('details')) part.open = true")
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_it_is_small(context: BrowserContext, server: Server) -> None:
    """The page and its files are less than 100 KB in total, uncompressed."""
    page, sizes = context.new_page(), []
    page.on("requestfinished", lambda request: sizes.append(request.sizes()["responseBodySize"]))
    page.goto(f"{server.url}/docs", wait_until="networkidle")
    assert len(sizes) >= 4  # the page, its style, its two scripts
    assert 0 < sum(sizes) < MAX_TRANSFER


@pytest.mark.parametrize("context", [{"java_script_enabled": False}], indirect=True, ids=["no script"])
def test_it_is_complete_without_scripts(page: Page, server: Server) -> None:
    """The page has every operation, parameter, body, status, header and example of openapi.json, and each flag."""
    document = json.loads(page.request.get(f"{server.url}/openapi.json").text())
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            section = page.locator(f"[id='{operation['operationId']}']")
            text = " ".join((section.text_content() or "").split())
            assert f"{method.upper()} {path}" in text
            assert operation["summary"] in text
            assert operation.get("description", "") in text
            names = [parameter["name"] for parameter in operation.get("parameters", [])]
            names += operation.get("requestBody", {"content": []})["content"]
            bodies = [*operation.get("requestBody", {"content": {}})["content"].values()]
            for status, reply in operation["responses"].items():
                names += [status, *reply["content"], *reply["headers"]]
                bodies += reply["content"].values()
            assert [name for name in names if name not in text] == []
            for example in [example for body in bodies for example in body.get("examples", {}).values()]:
                if "externalValue" in example:
                    assert section.locator(f"a[href='{example['externalValue']}']").count() > 0
                elif isinstance(example["value"], dict):
                    assert " ".join(json.dumps(example["value"], indent=2).split()) in text
                else:
                    assert example["value"].strip() in text
    table = page.locator("#flags table").text_content() or ""
    assert [flag.name for flag in Flag if f"{flag.name}" not in table] == []
    assert page.locator("form:visible").count() == 0


@pytest.mark.parametrize("context", [{"viewport": {"width": 390, "height": 844}}], indirect=True, ids=["phone"])
def test_a_phone_sees_the_endpoint_first(page: Page, server: Server) -> None:
    """The endpoint for photos is on the first screen, and everything is within six; all else is folded."""
    expect(page.get_by_role("link", name=f"POST {OBJECTS}", exact=True)).to_be_in_viewport()
    assert page.evaluate("document.documentElement.scrollHeight") < 6 * 844
    document = json.loads(page.request.get(f"{server.url}/openapi.json").text())
    operations = sum(len(operations) for operations in document["paths"].values())
    assert page.locator("details.operation").count() == operations - 1
    assert page.locator("details.operation[open], details.folded[open]").count() == 0


def test_a_link_unfolds_an_operation(page: Page, server: Server) -> None:
    """`/docs#session.details` shows a folded operation, when the page is loaded and when a link is followed."""
    heading = page.get_by_role("heading", name="Try it")
    expect(heading).to_have_count(1)
    page.evaluate("location.hash = '#session.details'")
    expect(heading).to_have_count(2)
    page.goto("about:blank")
    page.goto(f"{server.url}/docs#session.details")
    expect(heading).to_have_count(2)
    expect(page.locator("[id='session.details'] > summary")).to_be_in_viewport()


def test_a_link_leads_to_an_operation(page: Page, server: Server) -> None:
    """`/docs#images.objects` shows the operation, and its title is a link to itself."""
    page.goto(f"{server.url}/docs#images.objects")
    title = page.locator("[id='images.objects']").get_by_role("link", name=f"POST {OBJECTS}")
    expect(title).to_be_in_viewport()
    assert title.get_attribute("href") == "#images.objects"


def test_a_request_is_sent_by_keyboard(page: Page, token: str) -> None:
    """Tab and Enter send the example; its status, time, body and headers are shown and announced."""
    page.get_by_label("Token", exact=True).focus()
    page.keyboard.type(token)
    form = form_of(page, f"POST {OBJECTS}")
    for _ in range(200):
        page.keyboard.press("Tab")
        if form.get_by_label("min_score").evaluate("input => input === document.activeElement"):
            break
    page.keyboard.type("80")
    with page.expect_response(lambda response: OBJECTS in response.url) as replied:
        page.keyboard.press("Enter")
    assert replied.value.url.endswith("?min_score=80")
    expect(form.get_by_role("status")).to_have_text(re.compile(r"^200 OK in \d+ ms$"))
    body, headers = form.locator("pre").all_text_contents()
    assert json.loads(body)["data"]["objects"][0]["name"] == "stop sign"
    assert "x-ratelimit-limit: 60000" in headers


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/json", "application/x-www-form-urlencoded", "multipart/form-data"]
)
def test_each_form_of_the_body_is_sent(page: Page, token: str, kind: str) -> None:
    """The chosen form is the one that is sent."""
    page.get_by_label("Token", exact=True).fill(token)
    form = form_of(page, f"POST {OBJECTS}")
    form.get_by_label("Content-Type").select_option(kind)
    with page.expect_request(lambda request: OBJECTS in request.url) as sent:
        send(form)
    assert sent.value.headers["content-type"].startswith(kind)
    expect(form.get_by_role("status")).to_contain_text("200 OK")
    expect(form.locator("pre").first).to_contain_text("stop sign")


@pytest.mark.parametrize("kind", ["image/png", "multipart/form-data"])
def test_a_chosen_file_is_sent(page: Page, token: str, kind: str) -> None:
    """A chosen file is sent in place of the example, and the drawn reply is shown."""
    page.get_by_label("Token", exact=True).fill(token)
    form = form_of(page, f"POST {OBJECTS}")
    form.get_by_label("Content-Type").select_option(kind)
    form.locator("input[type=file]:visible").set_input_files(Path(ROOT, "examples", "street.png"))
    expect(send(form).locator("pre").first).to_contain_text("traffic light")
    form.get_by_label("Accept").select_option("image/png")
    picture = send(form).get_by_role("img", name="The reply's picture")
    expect(picture).to_be_visible()
    assert picture.evaluate("image => image.decode().then(() => [image.naturalWidth, image.naturalHeight])") == [
        640,
        480,
    ]


def test_deepstacks_form_is_sent(page: Page, token: str) -> None:
    """The form is sent with its file and its fields."""
    page.get_by_label("Token", exact=True).fill(token)
    form = form_of(page, "POST /v1/vision/detection")
    form.get_by_label("min_confidence").fill("0.8")
    expect(send(form).locator("pre").first).to_contain_text('"label": "stop sign"')


def test_a_failure_says_what_to_do(page: Page) -> None:
    """A failure is explained in words, in addition to the reply."""
    form = send(form_of(page, "GET /session"))
    expect(form.get_by_role("status")).to_contain_text("401")
    expect(form.get_by_role("alert")).to_contain_text("Enter the whole token")


def test_a_path_argument_is_escaped(page: Page) -> None:
    """An argument is escaped, so that it stays a single part of the path."""
    form = form_of(page, "GET /assets/{name}")
    form.get_by_label("name").fill("../openapi.json?a#b")
    with page.expect_request(lambda request: "/assets/.." in request.url) as sent:
        send(form)
    assert sent.value.url.endswith("/assets/..%2Fopenapi.json%3Fa%23b")


def test_a_service_that_is_gone(page: Page) -> None:
    """If the service does not answer, the page says so, and the request can be sent again."""
    page.route("**/session", lambda route: route.abort())
    form = form_of(page, "GET /session")
    form.get_by_role("button", name="Send").click()
    expect(form.get_by_role("status")).to_contain_text("No reply.")
    expect(form.get_by_role("button", name="Send")).to_be_enabled()


def test_a_reply_is_not_markup(page: Page) -> None:
    """Markup in a reply, whether in JSON, HTML or a header, is shown as text."""

    def reply(route: Route) -> None:
        body = json.dumps({"error": MARKUP, "message": MARKUP, "details": {MARKUP: [MARKUP]}})
        route.fulfill(status=400, body=body, content_type="application/json", headers={"X-Request-Id": MARKUP})

    page.route("**/session", reply)
    page.route("**/metrics", lambda route: route.fulfill(body=MARKUP, content_type="text/html"))
    form = send(form_of(page, "GET /session"))
    expect(form.get_by_role("alert")).to_contain_text(MARKUP)
    expect(form.locator("pre").first).to_contain_text(MARKUP)
    assert send(form_of(page, "GET /metrics")).locator("pre").first.text_content() == MARKUP
    assert page.locator("main img").count() == 0


def test_the_document_is_not_markup(make_app: MakeApp, settings: Settings) -> None:
    """Markup in a model's category is shown as text."""
    text = make_app(settings, FakeDetector(names=(MARKUP,))).test_client().get("/docs").text
    assert "&lt;img src=/x onerror=alert(1)&gt;" in text
    assert "<img" not in text


def test_the_policy(client: FlaskClient) -> None:
    """The policy lets the page load its own files and call this service, and nothing else."""
    response = client.get("/docs")
    assert response.headers["Content-Security-Policy"] == POLICY
    assert "unsafe" not in POLICY
    assert response.content_type == "text/html; charset=utf-8"
