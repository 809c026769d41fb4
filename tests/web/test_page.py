"""The page at / in a real browser."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

from playwright.sync_api import Browser, Page, expect, sync_playwright  # noqa: E402
from running import Running, environment_of, web_tier  # noqa: E402
from telling_model import label_of, picture  # noqa: E402

from cis_tasks.local.workers import Worker  # noqa: E402
from cis_tasks.web.tokens import make_token  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
OPTIONS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
PATIENCE_MS = 120_000
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")
expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Browser, tier: Running, request: pytest.FixtureRequest) -> Iterator[Page]:
    """The page; the test fails where it logs an error or asks another host for anything."""
    context = browser.new_context(**getattr(request, "param", {}))
    page, wrong = context.new_page(), []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda said: said.type == "error" and wrong.append(said.text))
    ours = (tier.url, tier.cloud.endpoint, "blob:")
    page.on("request", lambda asked: asked.url.startswith(ours) or wrong.append(asked.url))
    page.goto(tier.url)
    yield page
    assert wrong == []
    context.close()


def drop(page: Page, name: str, data: bytes) -> None:
    """Drop a file onto the page, as from a folder."""
    handle = page.evaluate_handle(
        """([name, bytes]) => {
            const held = new DataTransfer();
            held.items.add(new File([new Uint8Array(bytes)], name, {type: "image/png"}));
            return held;
        }""",
        [name, list(data)],
    )
    for kind in ("dragenter", "dragover", "drop"):
        page.dispatch_event("#drop", kind, {"dataTransfer": handle})


def test_a_dropped_image_shows_its_class_and_stands_in_the_list(page: Page) -> None:
    image = picture(80)
    drop(page, "my moped.png", image)
    card = page.get_by_role("article", name="my moped.png")
    expect(card.locator(".answer")).to_have_text(label_of(image))
    expect(card.locator(".classes li")).to_have_count(3)
    expect(card.locator("img")).to_be_visible()
    page.get_by_role("searchbox").fill("moped")
    line = page.locator("#list .line").first
    expect(line).to_contain_text("my moped")
    expect(line).to_contain_text("Done")
    expect(line).to_contain_text(label_of(image))
    line.click()
    dialog = page.get_by_role("dialog")
    expect(dialog.locator(".answer")).to_have_text(label_of(image))
    expect(dialog.get_by_alt_text("my moped")).to_be_visible()
    page.get_by_role("searchbox").evaluate("box => box.value = ''")
    expect(page.get_by_role("link", name="Flower")).to_have_attribute(
        "href", "http://127.0.0.1:5555"
    )


def test_an_image_that_is_refused_says_why(page: Page) -> None:
    drop(page, "red.png", picture(81, refused=True))
    card = page.get_by_role("article", name="red.png")
    expect(card.locator(".state")).to_have_text("Failed")
    expect(card.locator(".error")).to_have_text("red.png is red. Send another.")


def test_all_can_be_done_with_the_keyboard(page: Page, tmp_path: Path) -> None:
    image = picture(82)
    (tmp_path / "keys.png").write_bytes(image)
    page.on("filechooser", lambda chooser: chooser.set_files(tmp_path / "keys.png"))
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("() => document.activeElement.id") == "files":
            break
    page.keyboard.press("Enter")
    expect(page.locator(".card .answer")).to_have_text(label_of(image))
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("() => document.activeElement.type") == "search":
            break
    page.keyboard.type("keys")
    expect(page.locator("#list .line")).to_have_count(1)
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog").locator(".answer")).to_have_text(label_of(image))
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    focused = page.evaluate("() => document.activeElement.className")
    assert focused == "line"


@pytest.mark.parametrize("page", [PHONE], indirect=True)
def test_it_fits_a_phone(page: Page) -> None:
    drop(page, "a rather long name of a photograph.png", picture(83))
    expect(page.locator(".card .answer")).to_be_visible()
    label = page.locator(".classes .label").nth(1).bounding_box()
    assert label is not None
    assert label["width"] > 100
    wide = page.evaluate("() => document.documentElement.scrollWidth")
    assert wide <= PHONE["viewport"]["width"]
    for button in page.locator("button:visible, .button:visible").all():
        box = button.bounding_box()
        assert box is not None
        assert box["height"] >= 40 or "quiet" in (button.get_attribute("class") or "")


@pytest.mark.parametrize("page", [{"color_scheme": "dark"}], indirect=True)
def test_it_is_dark_where_that_is_wanted(page: Page) -> None:
    ground = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    assert max(int(part) for part in re.findall(r"\d+", ground)[:3]) < 60


def test_a_session_goes_straight_to_s3_and_shows_its_angles(
    page: Page, tier: Running, tmp_path: Path
) -> None:
    files = {"walk.csv": b"t,x\n0,1\n", "walk.json": b"{}", "walk.mp4": b"video"}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    worker = Worker(
        "spine",
        "CIS_Data_load_in_fifo.fifo",
        environment=environment_of(tier.cloud),
        folder=tmp_path,
        app="telling_app",
    )
    try:
        page.set_input_files("#files", [tmp_path / "walk.csv"])
        expect(page.get_by_role("alert")).to_contain_text("needs its video too")
        page.set_input_files("#files", [tmp_path / name for name in files])
        expect(page.locator(".plot svg")).to_have_count(2)
        expect(page.locator("table")).to_contain_text("passed")
        expect(page.get_by_role("link", name="report.html")).to_be_visible()
        described = page.locator(".plot svg").first.get_attribute("aria-label")
        assert described == (
            "Angles of sacrum – L1 over time: flexion from -10 to 10 degrees, "
            "lateral from 0 to 2 degrees, axial unknown"
        )
    finally:
        worker.kill()


def test_it_asks_for_a_token_where_one_is_needed(
    browser: Browser, tier: Running, tmp_path: Path
) -> None:
    text, token = make_token("me")
    (tmp_path / "tokens").write_text(token.line)
    with web_tier(tier.cloud, tmp_path, tokens_file=tmp_path / "tokens") as guarded:
        page = browser.new_page()
        page.goto(guarded.url)
        page.get_by_label("Token").fill("wrong")
        page.get_by_role("button", name="Enter").click()
        expect(page.get_by_role("alert")).to_have_text("This token is not valid.")
        page.get_by_label("Token").fill(text)
        page.get_by_role("button", name="Enter").click()
        image = picture(84)
        drop(page, "let in.png", image)
        expect(page.locator(".card .answer")).to_have_text(label_of(image))
        stored = json.loads(page.evaluate("() => JSON.stringify(localStorage)"))
        assert stored == {}
        page.close()
