"""The brush, with a real mouse, fingers and keys, and the pairs to train on that come of it."""

import csv
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from pages import encoded, saved, slice_of, zipped
from PIL import Image
from playwright.sync_api import Page, expect
from visits import asked, drop, opened

from space.views import EXAMPLES, describe
from train.__main__ import main


HEIGHT, WIDTH = 40, 30


@pytest.fixture
def scan(page, tmp_path) -> Path:
    """A slice of 40 × 30 on the stage, with a brush of 3 pixels over it."""
    path = saved(tmp_path / "scan.png", slice_of(HEIGHT, WIDTH))
    drop(page, path)
    expect(page.locator("#stage .caption")).to_contain_text("scan.png")
    take_brush(page)
    return path


def take_brush(page: Page, size: int = 3):
    page.get_by_role("button", name="Brush").first.click()
    expect(page.locator("#stage.painting")).to_be_visible()
    page.locator("#brush-size").fill(str(size))


def place(page: Page, column: int, row: int, width: int = WIDTH, height: int = HEIGHT) -> tuple[float, float]:
    """The middle of a pixel of the slice, on the screen."""
    frame = page.locator("#anatomy .slice").bounding_box()
    return frame["x"] + (column + 0.5) / width * frame["width"], frame["y"] + (row + 0.5) / height * frame["height"]


def paint(page: Page, start: tuple[int, int], end: tuple[int, int], **size: int):
    """A stroke with the mouse, of which the server hears."""
    with page.expect_request("**/queue/join*"):
        page.mouse.move(*place(page, *start, **size))
        page.mouse.down()
        page.mouse.move(*place(page, *end, **size), steps=3)
        page.mouse.up()


def save_pairs(page: Page) -> zipfile.ZipFile:
    with page.expect_download() as started:
        page.locator("#save-pairs").click()
    assert started.value.suggested_filename == "corrections.zip"
    return zipfile.ZipFile(io.BytesIO(Path(started.value.path()).read_bytes()))


def picture(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    assert archive.testzip() is None
    with Image.open(archive.open(name)) as image:
        assert image.mode == "L"
        return np.asarray(image)


def drawn(page: Page) -> np.ndarray:
    """The mask that the canvas shows."""
    pixels = page.locator("#paint canvas").evaluate(
        "canvas => [...canvas.getContext('2d')"
        ".getImageData(0, 0, canvas.width, canvas.height).data].filter((_, index) => index % 4 === 3)"
    )
    return np.reshape(pixels, (HEIGHT, WIDTH)) > 0


def test_a_stroke_is_the_mask_that_is_measured_and_saved_to_the_pixel(page, network, scan):
    own = network.segmenter(scan).mask
    expected = own.copy()
    expected[19:22, 4:17] = True  # of 3 × 3 pixels along a row
    paint(page, (5, 20), (15, 20))
    report = page.locator("#report")
    expect(report).to_contain_text(f"{expected.sum():,} px")
    expect(report).to_contain_text("The mask was corrected by hand")
    expect(report.get_by_role("heading")).to_contain_text("corrected by hand")
    page.get_by_role("button", name="Erase").click()
    paint(page, (10, 30), (12, 30))
    expected[29:32, 9:14] = False
    expect(report).to_contain_text(f"{expected.sum():,} px")
    np.testing.assert_array_equal(drawn(page), expected)
    archive = save_pairs(page)
    np.testing.assert_array_equal(picture(archive, "masks/scan.png"), expected * np.uint8(255))
    np.testing.assert_array_equal(picture(archive, "network/scan.png"), own * np.uint8(255))
    np.testing.assert_array_equal(picture(archive, "images/scan.png"), Image.open(scan))


def test_corrections_of_several_studies_are_data_to_train_on(page, tmp_path, capsys):
    take_brush(page, 12)
    for index in (4, 7):
        page.locator("#examples button").nth(index).click()
        expect(page.locator("#stage .caption")).to_contain_text(describe(EXAMPLES[index]))
        expect(page.locator("#person")).to_have_value("study-2" if index == 4 else "study-3")
        paint(page, (200, 200), (260, 240), width=512, height=512)
        expect(page.locator("#layers [data-corrected]")).to_be_attached()
    page.locator("#person").fill("=Ms. Smith, 2")
    archive = save_pairs(page)
    archive.extractall(tmp_path / "corrections")
    rows = list(csv.DictReader(io.StringIO(archive.read("metadata.csv").decode())))
    assert [row["person_id"] for row in rows] == ["study-2", "Ms.-Smith-2"]
    assert {(row["row_mm"], row["column_mm"]) for row in rows} == {("0.49", "0.49")}
    assert main(["check", str(tmp_path / "corrections"), "--num_folds", "2"]) == 0
    found = capsys.readouterr().out
    assert "persons          2" in found and "slices           2" in found and "0.49" in found


def test_undo_redo_and_the_mask_of_the_network(page, network, scan):
    own = network.segmenter(scan).mask
    report, undo, redo = page.locator("#report"), page.locator("#undo"), page.locator("#redo")
    expect(undo).to_be_disabled()
    expect(page.locator("#save-pairs")).to_be_disabled()
    paint(page, (5, 5), (20, 5))
    expect(page.locator("#save-pairs")).to_have_text("Save 1 training pair")
    paint(page, (5, 12), (20, 12))
    both = drawn(page)
    page.keyboard.press("Control+z")
    one = drawn(page)
    assert own.sum() < one.sum() < both.sum()
    redo.click()
    np.testing.assert_array_equal(drawn(page), both)
    expect(redo).to_be_disabled()
    page.keyboard.press("Control+z")
    undo.click()
    # Nothing is left that was corrected.
    np.testing.assert_array_equal(drawn(page), own)
    expect(report).not_to_contain_text("corrected by hand")
    expect(page.locator("#save-pairs")).to_be_disabled()
    page.keyboard.press("Control+Shift+z")
    np.testing.assert_array_equal(drawn(page), one)
    expect(report).to_contain_text("corrected by hand")
    page.locator("#uncorrect").click()
    np.testing.assert_array_equal(drawn(page), own)
    expect(report).not_to_contain_text("corrected by hand")
    undo.click()
    np.testing.assert_array_equal(drawn(page), one)


def test_keys_alone_paint_and_erase(page, network, scan):
    expected = network.segmenter(scan).mask.copy()
    page.keyboard.press("Escape")
    expect(page.locator("#stage.painting")).to_have_count(0)
    page.keyboard.press("b")
    surface = page.locator("#paint .slice")
    expect(surface).to_be_focused()
    expect(page.locator("#paint .ring")).to_be_visible()
    for key in ("[", "[", "ArrowLeft", "ArrowUp", "Shift+ArrowUp"):  # from the middle, 15, 20
        page.keyboard.press(key)
    expect(page.locator("#brush-size")).to_have_value("1")
    page.keyboard.down("Space")
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    with page.expect_request("**/queue/join*"):
        page.keyboard.up("Space")
    expected[9, 14:18] = True
    np.testing.assert_array_equal(drawn(page), expected)
    page.keyboard.press("e")
    expected[9, 17] = False
    np.testing.assert_array_equal(drawn(page), expected)
    expect(page.locator("#said")).to_have_text("Erased 1 pixel.")
    assert page.evaluate("scrollY") == 0


def test_one_finger_paints_and_two_zoom(browser, url, network, tmp_path):
    page = opened(browser, url, width=390, has_touch=True, is_mobile=True)
    path = saved(tmp_path / "scan.png", slice_of(HEIGHT, WIDTH))
    drop(page, path)
    expect(page.locator("#stage .caption")).to_contain_text("scan.png")
    page.locator("#tools [data-tool=brush]").tap()
    expect(page.locator("#stage.painting")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.locator("#brush-size").fill("1")
    page.locator("#anatomy .slice").evaluate("element => element.scrollIntoView({block: 'center'})")
    session = page.context.new_cdp_session(page)
    own = network.segmenter(path).mask

    def touch(kind: str, *places: tuple[int, int]):
        points = [(*place(page, *at), number) for number, at in enumerate(places)]
        session.send(
            "Input.dispatchTouchEvent",
            {"type": kind, "touchPoints": [{"x": x, "y": y, "id": number} for x, y, number in points]},
        )

    touch("touchStart", (5, 20))
    touch("touchMove", (10, 20))
    touch("touchEnd")
    expected = own.copy()
    expected[20, 5:11] = True
    np.testing.assert_array_equal(drawn(page), expected)
    # The first of two fingers has begun a stroke, which is taken back.
    touch("touchStart", (14, 10))
    touch("touchStart", (14, 10), (16, 10))
    touch("touchMove", (10, 10), (20, 10))
    touch("touchEnd")
    expect(page.locator("#stage.zoomed")).to_be_visible()
    np.testing.assert_array_equal(drawn(page), expected)
    page.close()


def test_what_is_painted_looks_like_the_overlay_and_nobody_is_asked(page, scan):
    paint(page, (5, 20), (15, 20))
    expect(page.locator("#layers [data-corrected]")).to_be_attached()
    page.wait_for_timeout(500)
    canvas, before = page.locator("#paint canvas"), len(asked(page))
    page.locator("#opacity input[type=number]").fill("0.2")
    expect(canvas).to_have_css("opacity", "0.2")
    page.get_by_label("Yellow").check()
    expect(page.locator("#layers .fill")).to_be_hidden()
    colour = "() => [...document.querySelector('#paint canvas').getContext('2d').getImageData(8, 20, 1, 1).data]"
    page.wait_for_function(f"({colour})().join() === '240,228,66,255'")
    page.keyboard.down("h")
    expect(canvas).to_be_hidden()
    page.keyboard.up("h")
    expect(canvas).to_be_visible()
    assert canvas.bounding_box() == pytest.approx(page.locator("#anatomy .slice > img").first.bounding_box(), abs=0.1)
    page.wait_for_timeout(500)
    assert asked(page)[before:] == []
    # Without the brush, it is the overlay.
    page.get_by_role("button", name="Brush").first.click()
    expect(canvas).to_be_hidden()
    expect(page.locator("#layers .fill")).to_be_visible()


def test_every_slice_keeps_its_correction_and_both_masks_can_be_saved(page, network, tmp_path):
    slices = {f"{name}.png": slice_of(HEIGHT, WIDTH, seed=seed) for seed, name in enumerate("ab")}
    drop(page, zipped(tmp_path / "slices.zip", {name: encoded(image) for name, image in slices.items()}))
    expect(page.locator("#stage .caption")).to_contain_text("a.png")
    take_brush(page)
    paint(page, (5, 20), (15, 20))
    expect(page.locator("#overview table")).to_contain_text("corrected by hand")
    first = drawn(page)
    page.locator("#overview .gallery button").nth(1).click()
    expect(page.locator("#stage .caption")).to_contain_text("b.png")
    expect(page.locator("#report")).not_to_contain_text("corrected by hand")
    paint(page, (5, 30), (15, 30))
    expect(page.locator("#report")).to_contain_text("corrected by hand")
    page.locator("#overview .gallery button").first.click()
    expect(page.locator("#stage .caption")).to_contain_text("a.png")
    np.testing.assert_array_equal(drawn(page), first)
    # No threshold changes what a hand has painted.
    page.locator("#threshold input[type=range]").press("Home")
    expect(page.locator("#report")).to_contain_text(f"{first.sum():,} px")
    page.locator("#threshold input[type=number]").fill("0.5")
    archive = save_pairs(page)
    np.testing.assert_array_equal(picture(archive, "masks/a.png") > 0, first)
    rows = list(csv.DictReader(io.StringIO(archive.read("metadata.csv").decode())))
    assert [(row["mask_file_name"], row["person_id"]) for row in rows] == [
        ("masks/a.png", "study-1"),
        ("masks/b.png", "study-1"),
    ]
    for button, name in (("Mask", "a_corrected_mask.png"), ("Network's mask", "a_mask.png")):
        with page.expect_download() as started:
            page.locator("#saving").get_by_role("button", name=f"Save {button}", exact=True).click()
        assert started.value.suggested_filename == name
