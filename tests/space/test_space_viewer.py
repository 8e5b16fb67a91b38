"""The stage as a viewer, and all that a visitor meets on arrival: a real mouse, fingers and keys in a browser."""

import base64
import io
import re

import numpy as np
import pytest
from pages import encoded, free_port, saved, served, slice_of, zipped
from PIL import Image
from playwright.sync_api import Page, expect
from visits import asked, choose_example, drop, leave, opened, style_of, visit

import app
from space.views import EXAMPLES, ON_ARRIVAL, describe


SETTLE_MS = 300


def box(page: Page, selector: str = "#anatomy .slice") -> dict:
    return page.locator(selector).first.bounding_box()


def point(page: Page, x: float, y: float) -> tuple[float, float]:
    """On the screen, of a place on the stage as shares of its sides."""
    frame = box(page)
    return frame["x"] + x * frame["width"], frame["y"] + y * frame["height"]


def drag(page: Page, start: tuple[float, float], end: tuple[float, float], button: str = "left"):
    page.mouse.move(*point(page, *start))
    page.mouse.down(button=button)
    page.mouse.move(*point(page, *end), steps=4)
    page.mouse.up(button=button)


def matrix(page: Page, selector: str = "#anatomy .slice > img") -> tuple[float, float, float]:
    """(zoom, x, y) of a picture, x and y as shares of the stage."""
    scale, *_, x, y = map(float, re.findall(r"-?[\d.e-]+", style_of(page.locator(selector).first, "transform")[7:]))
    frame = box(page)
    return scale, x / frame["width"], y / frame["height"]


# ---------------------------------------------------------------------------------------------------------- on arrival


def test_a_result_is_there_before_anything_is_asked(page, network):
    name = describe(ON_ARRIVAL)
    expect(page.locator("#stage .caption")).to_contain_text(name)
    expect(page.locator("#layers :is(.fill, .truth)")).to_have_count(2)
    cut = network.segmenter(ON_ARRIVAL).cut(spacing=(0.49, 0.49))
    expect(page.locator("#report dd").first).to_contain_text(f"{cut.area_mm2:,.0f} mm²")
    expect(page.locator("#report")).to_contain_text("Dice")
    expect(page.locator("#spacing")).to_contain_text("Pixel size: 0.49 × 0.49 mm (data set)")
    expect(page.get_by_role("button", name=name)).to_have_attribute("aria-pressed", "true")
    assert not [request for request in asked(page) if "/queue/" in request]
    # It is a result like any other.
    page.locator("#threshold input[type=range]").press("Home")
    expect(page.locator("#report")).to_contain_text(f"{512 * 512:,} px")


@pytest.mark.parametrize(("width", "height"), [(1366, 768), (1366, 660)])
def test_verdict_stage_and_examples_are_on_one_screen(page, width, height):
    page.set_viewport_size({"width": width, "height": height})
    for selector in ("#report .verdict", "#anatomy .slice", "#tools #reset", "#upload .box", "#examples .strip"):
        frame = box(page, selector)
        assert frame["y"] >= 0 and frame["y"] + frame["height"] <= height, selector
        assert frame["x"] >= 0 and frame["x"] + frame["width"] <= width, selector


def test_in_a_frame_it_is_the_same_page(browser, url):
    page = browser.new_page(viewport={"width": 1366, "height": 768})
    page.set_content(f'<iframe src="{url}" style="width: 1340px; height: 700px; border: 0"></iframe>')
    frame = page.frame_locator("iframe")
    for selector in ("#report .verdict", "#anatomy .slice", "#tools #reset", "#examples .strip"):
        expect(frame.locator(selector)).to_be_in_viewport(ratio=1)
    page.close()


SHIFTS = """
window.shifts = [];
new PerformanceObserver(list => shifts.push(...list.getEntries())).observe({type: 'layout-shift', buffered: true});
"""


@pytest.mark.parametrize("width", [1366, 390])
def test_nothing_moves_while_the_page_loads(browser, url, width):
    page = browser.new_page(viewport={"width": width, "height": 768})
    page.add_init_script(SHIFTS)
    page.goto(url)
    expect(page.locator("#footer p").first).to_be_attached()
    page.wait_for_timeout(1500)
    assert page.evaluate("shifts.filter(one => !one.hadRecentInput).reduce((sum, one) => sum + one.value, 0)") < 0.1
    page.close()


def test_a_link_leads_to_an_example_and_a_button_copies_it(tab, url):
    tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = tab
    page.goto(f"{url}?example={EXAMPLES[5].stem}")
    expect(page.locator("#stage .caption")).to_contain_text(describe(EXAMPLES[5]))
    expect(page.locator("#examples button").nth(5)).to_have_attribute("aria-pressed", "true")
    page.locator("#examples button").nth(3).click()
    expect(page.locator("#stage .caption")).to_contain_text(describe(EXAMPLES[3]))
    page.get_by_role("button", name="Copy link").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == page.url == f"{url}?example={EXAMPLES[3].stem}"
    page.get_by_role("button", name="Clear").click()
    expect(page).to_have_url(url)
    page.goto(f"{url}?example=nobody")
    expect(page.locator("#drop-hint")).to_have_text("There is no example called nobody; choose one here.")
    expect(page.locator("#stage .caption")).to_contain_text(describe(ON_ARRIVAL))


def test_a_click_on_the_empty_stage_opens_the_dialog(page, tmp_path):
    page.get_by_role("button", name="Clear").click()
    expect(page.locator("#report")).to_contain_text("No slice yet")
    expect(page.locator("#stage img")).to_have_count(0)
    expect(page.locator("#examples [aria-pressed=true]")).to_have_count(0)
    with page.expect_file_chooser() as chooser:
        page.mouse.click(*page.locator("#stage .invitation").evaluate(CENTRE))
    chooser.value.set_files(saved(tmp_path / "scan.png", slice_of(40, 30)))
    expect(page.locator("#stage .caption")).to_contain_text("scan.png")
    # A slice that somebody has brought is nobody else's: there is no link to it.
    expect(page.get_by_role("button", name="Copy link")).to_have_count(0)


CENTRE = """
element => {
    const {x, y, width, height} = element.getBoundingClientRect();
    return [x + width / 3, y + height / 3];
}
"""


def test_the_verdict_is_a_heading_and_is_read_aloud(page):
    expect(page.get_by_role("heading", name=re.compile("Tumour found|does not know"))).to_be_visible()
    choose_example(page)
    expect(page.locator("#said")).to_contain_text(describe(EXAMPLES[4]))
    assert page.locator("#said").get_attribute("role") == "status"


def test_with_keys_it_is_seen_where_they_are(page):
    page.keyboard.press("Tab")
    files, folder = page.locator("#upload .box"), page.locator("#upload .folder")
    expect(files).to_have_css("outline-style", "solid")
    page.keyboard.press("Tab")
    expect(folder).to_have_css("outline-style", "solid")
    expect(files).to_have_css("outline-style", "none")
    page.keyboard.press("Tab")
    chosen = style_of(page.locator("#examples [aria-pressed=true]"), "outlineColor")
    expect(page.locator("#examples button").first).to_have_css("outline-style", "solid")
    expect(page.locator("#examples button").first).not_to_have_css("outline-color", chosen)


# ------------------------------------------------------------------------------------------------------ small screens


def test_on_a_phone_the_stage_stays_in_sight(tab, url):
    page = visit(tab, url, width=390)
    page.locator("#opacity").evaluate("element => element.scrollIntoView({block: 'end'})")
    page.wait_for_timeout(SETTLE_MS)
    expect(page.locator("#anatomy .slice")).to_be_in_viewport(ratio=1)
    slider = page.locator("#opacity input[type=range]")
    expect(slider).to_be_in_viewport()
    slider.press("ArrowLeft")
    expect(page.locator("#layers .fill")).to_have_css("opacity", slider.input_value())


@pytest.mark.parametrize("width", [1366, 1024, 768, 390])
def test_no_label_is_cut(tab, url, width):
    page = visit(tab, url, width=width)
    if width >= 1024:
        assert box(page, "#tools #reset")["y"] == box(page, "#tools [data-tool=brush]")["y"]
    labels = "#controls :is(label, span, button), #saving button, #tools button, #report :is(th, td)"
    cut = page.locator(labels).evaluate_all(CUT)
    assert cut == []
    assert page.evaluate("document.documentElement.scrollWidth") == width


# Texts that reach beyond what is to be seen of the boxes around them.
CUT = """
elements => elements.filter(element => {
    if (!element.checkVisibility() || !element.innerText?.trim()) return false;
    if (element.closest('#color label') || element.closest('.bar')) return false;
    const text = document.createRange();
    text.selectNodeContents(element);
    const {left, right} = text.getBoundingClientRect();
    for (let around = element; around && around !== document.body; around = around.parentElement) {
        const box = around.getBoundingClientRect(), {overflowX} = getComputedStyle(around);
        if (overflowX === 'auto') return false;
        if (overflowX !== 'visible' && (left < box.left - 1 || right > box.right + 1)) return true;
    }
    return right > innerWidth || left < 0;
}).map(element => element.innerText)
"""


# --------------------------------------------------------------------------------------------------------- the viewer


def test_the_wheel_zooms_about_the_cursor_and_a_double_click_fits(page):
    before = len(asked(page))
    page.mouse.move(*point(page, 0.25, 0.6))
    page.mouse.wheel(0, -400)
    page.wait_for_timeout(SETTLE_MS)
    zoom, x, y = matrix(page)
    assert zoom > 1.3
    # What was under the cursor still is.
    assert (0.25 - x) / zoom == pytest.approx(0.25, abs=0.01) and (0.6 - y) / zoom == pytest.approx(0.6, abs=0.01)
    # And the overlay lies where it lay.
    assert matrix(page, "#layers .fill") == pytest.approx(matrix(page), abs=0.01)
    drag(page, (0.5, 0.5), (0.55, 0.45))
    _, moved_x, moved_y = matrix(page)
    assert moved_x == pytest.approx(min(x + 0.05, 0), abs=0.01) and moved_y == pytest.approx(y - 0.05, abs=0.01)
    # Never beyond the edges.
    drag(page, (0.1, 0.1), (0.9, 0.9))
    assert matrix(page)[1:] == pytest.approx((0, 0), abs=0.01)
    page.mouse.dblclick(*point(page, 0.5, 0.5))
    assert matrix(page)[0] == 1
    assert asked(page)[before:] == []


def test_where_nothing_is_zoomed_the_wheel_scrolls_the_page(page):
    page.mouse.move(*point(page, 0.5, 0.5))
    page.mouse.wheel(0, 200)
    page.wait_for_function("window.scrollY > 0")
    assert matrix(page)[0] == 1


def test_two_fingers_zoom(browser, url):
    page = opened(browser, url, width=390, has_touch=True, is_mobile=True)
    session = page.context.new_cdp_session(page)

    def touch(kind: str, *places: float):
        points = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(point(page, at, 0.5) for at in places)]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", 0.45, 0.55)
    for wide in (0.1, 0.15, 0.2):
        touch("touchMove", 0.5 - wide, 0.5 + wide)
    touch("touchEnd")
    page.wait_for_timeout(SETTLE_MS)
    zoom, x, _ = matrix(page)
    assert zoom == pytest.approx(4, rel=0.1)
    assert (0.5 - x) / zoom == pytest.approx(0.5, abs=0.03)
    # One finger moves what is zoomed, and not the page.
    touch("touchStart", 0.5)
    touch("touchMove", 0.6)
    touch("touchEnd")
    assert matrix(page)[1] == pytest.approx(x + 0.1, abs=0.03)
    assert page.evaluate("scrollY") == 0
    page.close()


@pytest.mark.parametrize("how", ["right", "tool"])
def test_a_drag_changes_the_window_and_reset_undoes_it(page, how):
    picture = page.locator("#anatomy .slice > img").first
    before = picture.screenshot()
    if how == "tool":
        page.get_by_role("button", name="Window").click()
    drag(page, (0.6, 0.5), (0.2, 0.4), button="right" if how == "right" else "left")
    page.mouse.move(0, 0)
    expect(picture).to_have_css("filter", re.compile("#window"))
    # To the left: a narrower window, so more contrast.
    assert float(page.locator("#window feFuncR").get_attribute("slope")) == pytest.approx(4**0.4, rel=0.05)
    assert picture.screenshot() != before
    assert matrix(page)[0] == 1
    page.get_by_role("button", name="Reset").click()
    page.mouse.move(0, 0)
    expect(picture).to_have_css("filter", "none")
    expect(page.get_by_role("button", name="Reset")).to_be_disabled()


def test_the_ruler_measures_in_mm_where_they_are_known_and_else_in_px(page, tmp_path):
    page.get_by_role("button", name="Ruler").click()
    drag(page, (0.25, 0.5), (0.75, 0.5))
    length = page.locator("#glass .length")
    expect(length).to_have_text(re.compile(r"^12[45]\.\d mm$"))  # half of 512 × 0.49 mm
    drop(page, saved(tmp_path / "scan.png", slice_of(100, 200)))
    expect(page.locator("#stage .caption")).to_contain_text("scan.png")
    # What was measured on another slice is gone.
    expect(length).to_have_text("")
    drag(page, (0.25, 0.25), (0.75, 0.75))
    expect(length).to_have_text(re.compile(r"^11[12]\.\d px$"))
    page.locator("#spacing input").fill("0.5")
    expect(length).to_have_text(re.compile(r"^(55\.[5-9]|56\.\d) mm$"))


def test_a_scale_bar_is_as_long_as_it_says(page, tmp_path):
    bar = page.locator("#glass .scale")
    expect(bar).to_have_text("5 cm")
    assert box(page, "#glass .scale")["width"] / box(page)["width"] == pytest.approx(50 / (512 * 0.49), abs=0.005)
    page.mouse.move(*point(page, 0.5, 0.5))
    page.mouse.wheel(0, -2000)
    page.wait_for_timeout(SETTLE_MS)
    text, zoom = bar.inner_text(), matrix(page)[0]
    mm = float(text.split()[0]) * (10 if text.endswith("cm") else 1)
    share = box(page, "#glass .scale")["width"] / box(page)["width"]
    assert zoom > 1 and share == pytest.approx(mm * zoom / (512 * 0.49), abs=0.01)
    drop(page, saved(tmp_path / "scan.png", slice_of(100, 200)))
    expect(bar).to_be_hidden()


def test_the_value_under_the_cursor_is_that_of_the_pixel(page, tmp_path):
    image = slice_of(40, 40)
    drop(page, saved(tmp_path / "scan.png", image))
    expect(page.locator("#stage .caption")).to_contain_text("scan.png")
    expected = np.asarray(page.evaluate(PIXELS))
    page.mouse.move(*point(page, 10.5 / 40, 30.5 / 40))
    expect(page.locator("#glass .probe")).to_have_text(f"10, 30: {expected[30, 10]}")
    page.mouse.move(0, 0)
    expect(page.locator("#glass .probe")).to_be_hidden()


PIXELS = """
async () => {
    const image = document.querySelector('#anatomy .slice > img'), canvas = new OffscreenCanvas(40, 40);
    await image.decode();
    const context = canvas.getContext('2d');
    context.drawImage(image, 0, 0);
    const {data} = context.getImageData(0, 0, 40, 40);
    return [...Array(40).keys()].map(row => [...Array(40).keys()].map(column => data[4 * (40 * row + column)]));
}
"""


def test_keys_zoom_change_the_opacity_and_turn_slices(page, tmp_path):
    page.keyboard.press("+")
    page.keyboard.press("+")
    assert matrix(page)[0] == pytest.approx(1.25**2)
    page.keyboard.press("-")
    assert matrix(page)[0] == pytest.approx(1.25)
    page.keyboard.press("0")
    assert matrix(page)[0] == 1
    fill = page.locator("#layers .fill")
    for key, opacity in (("o", 0.6), ("o", 0.8), ("Shift+O", 0.6), ("o", 0.8), ("o", 1), ("o", 0)):
        page.keyboard.press(key)
        expect(fill).to_have_css("opacity", f"{opacity:g}")
    expect(page.locator("#opacity input[type=range]")).to_have_value("0")

    files = {f"{name}.png": encoded(slice_of(40, 30, seed=seed)) for seed, name in enumerate("abc")}
    drop(page, zipped(tmp_path / "slices.zip", files))
    expect(page.locator("#stage .caption")).to_contain_text("a.png")
    for key, name in (("ArrowRight", "b"), ("ArrowRight", "c"), ("ArrowRight", "c"), ("ArrowLeft", "b")):
        page.keyboard.press(key)
        expect(page.locator("#stage .caption")).to_contain_text(f"{name}.png")
        expect(page.locator("#overview .gallery [aria-pressed=true]")).to_have_attribute("title", re.compile(name))
    # In a box, keys are text.
    page.locator("#spacing input").press("+")
    assert matrix(page)[0] == 1


# -------------------------------------------------------------------------------------------------- before and after


def test_the_line_between_before_and_after_follows_mouse_and_keys(page):
    before = len(asked(page))
    page.get_by_role("button", name="Before / after").click()
    fill, split = page.locator("#layers .fill"), page.get_by_role("slider", name="Line between before and after")
    expect(split).to_be_focused()
    expect(fill).to_have_css("clip-path", re.compile("50%"))
    expect(page.locator("#layers .truth")).to_be_visible()
    split.press("ArrowRight")
    expect(fill).to_have_css("clip-path", re.compile(r"50\.5%"))
    drag(page, (0.5, 0.5), (0.8, 0.5))
    assert float(split.input_value()) == pytest.approx(80, abs=1)
    line = box(page, "#glass .divider")
    assert (line["x"] + 1 - box(page)["x"]) / box(page)["width"] == pytest.approx(0.8, abs=0.01)
    assert line["width"] >= 2 and line["height"] == pytest.approx(box(page)["height"])
    assert asked(page)[before:] == []
    # Another slice is compared in the same way.
    choose_example(page)
    expect(fill).to_have_css("clip-path", re.compile("80%"))
    page.get_by_role("button", name="Before / after").click()
    expect(fill).to_have_css("clip-path", "none")


def test_the_line_is_where_the_overlay_begins_however_far_it_is_zoomed(page):
    page.locator("#threshold input[type=range]").press("Home")
    expect(page.locator("#report")).to_contain_text(f"{512 * 512:,} px")  # all of the slice is in colour
    page.locator("#opacity input[type=number]").fill("1")
    page.get_by_label("Outline drawn by hand").uncheck()
    page.get_by_role("button", name="Before / after").click()
    page.mouse.move(*point(page, 0.2, 0.5))
    page.mouse.wheel(0, -400)
    page.mouse.move(0, 0)
    page.wait_for_timeout(SETTLE_MS)
    assert matrix(page)[0] > 1
    picture = read(page.locator("#anatomy .slice").screenshot())
    colored = picture[picture.shape[0] // 4].astype(int)
    is_orange = colored[:, 0] - colored[:, 2] > 100
    assert np.argmax(is_orange) / len(is_orange) == pytest.approx(0.5, abs=0.02)
    assert is_orange[len(is_orange) // 2 + 5 :].all()


def read(screenshot: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(screenshot)).convert("RGB"))


# ------------------------------------------------------------------------------------------------- files and printing


DROP = """
([files, folder, text]) => {
    const transfer = new DataTransfer();
    for (const [name, content] of files)
        transfer.items.add(new File([Uint8Array.from(atob(content), one => one.charCodeAt())], name));
    if (text) transfer.setData('text/uri-list', text);
    const event = new Event('drop', {bubbles: true, cancelable: true});
    const entries = [...transfer.files].map(file => ({isFile: true, file: found => found(file)}));
    // A browser gives the entries of a folder in parts, and an empty one at the end.
    const parts = [entries.slice(0, 1), entries.slice(1), []];
    const reader = {readEntries: found => found(parts.shift())};
    const entry = {isDirectory: true, createReader: () => reader};
    const items = folder ? [{webkitGetAsEntry: () => entry}] : transfer.items;
    const getData = kind => kind === 'text/uri-list' ? text ?? '' : '';
    const data = {items, files: folder ? [] : transfer.files, getData};
    Object.defineProperty(event, 'dataTransfer', {value: data});
    document.body.dispatchEvent(event);
}
"""


def test_a_folder_is_dropped_with_all_that_is_in_it(page):
    files = {f"{name}.png": encoded(slice_of(40, 30, seed=seed)) for seed, name in enumerate("ab")} | {".hidden": b"x"}
    page.evaluate(DROP, [[(name, base64.b64encode(content).decode()) for name, content in files.items()], True, None])
    expect(page.locator("#overview h2")).to_contain_text("2 slices")


def test_a_folder_can_be_chosen(page, tmp_path):
    for name in "ab":
        saved(tmp_path / f"{name}.png", slice_of(40, 30))
    with page.expect_file_chooser() as chooser:
        page.locator("#upload .folder input").click()
    chooser.value.set_files(tmp_path)
    expect(page.locator("#overview h2")).to_contain_text("2 slices")


def test_the_address_of_a_picture_is_opened(page):
    open_to_all = {"access-control-allow-origin": "*"}
    page.route(
        "https://pictures.test/scan.png",
        lambda route: route.fulfill(body=encoded(slice_of(40, 30)), headers=open_to_all),
    )
    page.route("https://pictures.test/closed.png", lambda route: route.abort())
    page.evaluate(DROP, [[], False, "https://pictures.test/scan.png"])
    expect(page.locator("#stage .caption")).to_contain_text("scan.png")
    page.evaluate(DROP, [[], False, "https://pictures.test/closed.png"])
    expect(page.locator("#drop-hint")).to_contain_text("pictures.test does not let this page read the picture")
    expect(page.locator("#stage .caption")).to_contain_text("scan.png")


def test_what_is_printed_is_the_slice_with_its_overlay_and_its_measurements(page):
    page.emulate_media(media="print")
    for selector in ("#upload", "#examples", "#tools", "#controls", "#saving"):
        expect(page.locator(selector)).to_be_hidden()
    expect(page.locator("#report")).to_be_visible()
    assert style_of(page.locator("#layers .fill"), "printColorAdjust") == "exact"


# ------------------------------------------------------------------------------------------------------ the connection


def test_a_server_that_is_away_is_said_and_the_page_stays(page, tmp_path):
    choose_example(page)
    page.evaluate("window.isSamePage = true")
    page.route("**/gradio_api/**", lambda route: route.abort())
    page.locator("#examples button").nth(3).click()
    toast = page.get_by_test_id("toast-body")
    expect(toast).to_contain_text("The server cannot be reached; what the page shows stays")
    expect(page.locator("#stage .caption")).to_contain_text(describe(EXAMPLES[4]))
    expect(page.locator("#examples button").nth(4)).to_have_attribute("aria-pressed", "true")
    page.set_input_files("#upload input", saved(tmp_path / "scan.png", slice_of(40, 30)))
    expect(page.locator("#drop-hint")).to_contain_text("The server cannot be reached")
    page.unroute("**/gradio_api/**")
    choose_example(page, 3)
    assert page.evaluate("window.isSamePage") is True


def test_a_server_that_starts_anew_is_said_and_the_page_stays(tab, network, tmp_path):
    port = free_port()
    with served(app.build_app(network), port) as url:
        page = visit(tab, url)
        drop(page, saved(tmp_path / "scan.png", slice_of(40, 30)))
        expect(page.locator("#stage .caption")).to_contain_text("scan.png")
        page.evaluate("window.isSamePage = true")
    with served(app.build_app(network), port):
        page.locator("#threshold input[type=range]").press("ArrowRight")
        toast = page.get_by_test_id("toast-body")
        expect(toast).to_contain_text("The server has started anew and has forgotten what this page shows")
        expect(page.locator("#stage .caption")).to_contain_text("scan.png")
        expect(page.locator("#report")).not_to_contain_text("No slice yet")
        assert page.evaluate("window.isSamePage") is True
        leave(page)
