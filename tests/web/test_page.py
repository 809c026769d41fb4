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


def test_an_image_is_done_even_where_its_results_cannot_be_shown(page: Page) -> None:
    page.route("**/v1/results/*", lambda route: route.fulfill(status=200, body="<a proxy's page>"))
    drop(page, "behind.png", picture(85))
    card = page.get_by_role("article", name="behind.png")
    expect(card.locator(".error")).to_contain_text("The results cannot be shown: ")
    expect(card.locator(".state")).to_have_text("Done")


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


@pytest.fixture(scope="module")
def spine_worker(tier: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    worker = Worker(
        "spine",
        "CIS_Data_load_in_fifo.fifo",
        environment=environment_of(tier.cloud),
        folder=tmp_path_factory.mktemp("spine"),
        app="telling_app",
    )
    yield worker
    worker.kill()


def session(folder: Path, name: str, recording: bytes) -> list[Path]:
    """The files of a session, in a folder."""
    files = {f"{name}.csv": recording, f"{name}.json": b"{}", f"{name}.mp4": b"video"}
    for file, data in files.items():
        (folder / file).write_bytes(data)
    return [folder / file for file in files]


ANGLES = (
    "Angles of sacrum – L1 over time: flexion from -10 to 10 degrees, "
    "lateral from 0 to 2 degrees, axial unknown"
)


@pytest.mark.usefixtures("spine_worker")
def test_a_session_goes_straight_to_s3_and_shows_its_angles(page: Page, tmp_path: Path) -> None:
    files = session(tmp_path, "walk", b"t,x\n0,1\n")
    page.set_input_files("#files", files[:1])
    expect(page.get_by_role("alert")).to_contain_text("needs its video too")
    page.set_input_files("#files", files)
    expect(page.locator(".plot svg")).to_have_count(2)
    expect(page.locator("table")).to_contain_text("passed")
    expect(page.get_by_role("link", name="report.html")).to_be_visible()
    assert page.locator(".plot svg").first.get_attribute("aria-label") == ANGLES


@pytest.mark.usefixtures("spine_worker")
def test_a_long_session_is_drawn_with_few_points_and_all_its_peaks(
    page: Page, tmp_path: Path
) -> None:
    page.set_input_files("#files", session(tmp_path, "hour", b"rows,150000\n"))
    expect(page.locator(".plot svg")).to_have_count(2)
    assert page.locator(".plot svg").first.get_attribute("aria-label") == ANGLES
    drawn = page.locator(".plot path.flexion").first.get_attribute("d") or ""
    points = re.findall(r"[ML]([\d.]+) ([\d.]+)", drawn)
    assert 1000 < len(points) <= 2000
    grid = (
        page.locator(".plot svg")
        .first.locator("line")
        .evaluate_all("lines => lines.map((line) => Number(line.getAttribute('y1')))")
    )
    heights = [float(y) for _, y in points]
    assert (min(heights), max(heights)) == pytest.approx((min(grid), max(grid)), abs=0.1)
    assert float(points[-1][0]) == pytest.approx(632, abs=2)  # to the end of the plot


@pytest.mark.usefixtures("spine_worker")
def test_a_session_too_long_to_draw_shows_its_quality_and_its_report(
    page: Page, tmp_path: Path
) -> None:
    page.set_input_files("#files", session(tmp_path, "day", b"rows,400000\n"))
    card = page.get_by_role("article", name="day.csv")
    expect(card.locator(".rest")).to_contain_text(
        "angles.csv has 19 MiB, and the page draws up to 16"
    )
    expect(card.locator(".state")).to_have_text("Done")
    expect(card.locator("table")).to_contain_text("passed")
    expect(card.get_by_role("link", name="report.html")).to_be_visible()
    expect(card.locator(".plot")).to_have_count(0)
    page.get_by_role("searchbox").fill("day")
    expect(page.locator("#list .line")).to_have_count(1)
    page.locator("#list .line").click()
    expect(page.get_by_role("dialog")).to_contain_text("angles.csv has 19 MiB")


@pytest.mark.usefixtures("spine_worker")
def test_a_session_whose_angles_cannot_be_read_is_done_all_the_same(
    page: Page, tmp_path: Path
) -> None:
    nothing = {"status": 200, "content_type": "application/octet-stream", "body": "<cut off>"}
    page.route("**/files/angles.csv", lambda route: route.fulfill(**nothing))
    page.set_input_files("#files", session(tmp_path, "fog", b"t,x\n0,2\n"))
    card = page.get_by_role("article", name="fog.csv")
    expect(card.locator(".rest")).to_contain_text("No plots here: angles.csv")
    expect(card.locator(".state")).to_have_text("Done")
    expect(card.locator("table")).to_contain_text("passed")


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
