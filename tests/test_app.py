"""The page and its endpoint: a client, a browser and a tiny random network behind them."""

import base64
import io
import json
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import gradio as gr
import httpx
import numpy as np
import pytest
import torch
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright
from tiny import tiny_config

import app
from modeling_unet import UNetForSemanticSegmentation, UNetImageProcessor, read_mask
from modeling_unet.overlay import DEFAULT_ALPHA, DEFAULT_COLOR
from modeling_unet.segmenter import Segmentation, TumorSegmenter
from train.data import mask_hash
from train.folds import read_manifest


ROOT = Path(__file__).resolve().parents[1]
# Two cores and a cold browser: nothing here asserts how long something takes.
PATIENCE_MS = 60_000

expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    # These weights, by chance, put probabilities on both sides of the default threshold.
    config = tiny_config(widths=[4, 8], depths=[1, 1], strides=[1, 2], decoder_widths=[4])
    torch.manual_seed(0)
    UNetForSemanticSegmentation(config).save_pretrained(folder)
    UNetImageProcessor(size={"longest_edge": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def segmenter(model_dir) -> TumorSegmenter:
    return TumorSegmenter.from_pretrained(model_dir, device="cpu")


@pytest.fixture(scope="module")
def url(segmenter) -> Iterator[str]:
    """The page, served as `python app.py` does it."""
    page = app.build_app(segmenter)
    _, local_url, _ = page.launch(**app.LAUNCH_OPTIONS, server_name="127.0.0.1", prevent_thread_lock=True, quiet=True)
    yield local_url
    page.close(verbose=False)


@pytest.fixture
def forwards(segmenter) -> Iterator[list]:
    """One entry for every run of the network."""
    runs = []
    hook = segmenter.model.register_forward_pre_hook(lambda *_: runs.append(1))
    yield runs
    hook.remove()


def slice_of(height: int, width: int, dtype=np.uint8) -> np.ndarray:
    top = np.iinfo(dtype).max
    return np.random.default_rng(0).integers(0, top, (height, width), dtype=dtype, endpoint=True)


def saved(path: Path, image: np.ndarray) -> Path:
    Image.fromarray(image).save(path)
    return path


# ------------------------------------------------------------------------------------------------------- before serving


def test_the_model_comes_from_model_id(model_dir):
    assert isinstance(app.load_segmenter(str(model_dir)), TumorSegmenter)


@pytest.mark.parametrize("model_id", [None, "no/such/folder"])
def test_a_missing_model_is_one_sentence(model_id, tmp_path, monkeypatch):
    monkeypatch.setattr(app, "SHIPPED_MODEL", tmp_path / "weights")
    monkeypatch.delenv("MODEL_ID", raising=False)
    if model_id:
        monkeypatch.setenv("MODEL_ID", str(tmp_path / model_id))
    with pytest.raises(SystemExit) as stop:
        app.main()
    assert str(stop.value).startswith("error: ")
    assert str(tmp_path) in str(stop.value)
    assert "\n" not in str(stop.value)


def test_on_zero_gpu_only_arrays_pass(segmenter, monkeypatch):
    decorated = []

    class Spaces:
        @staticmethod
        def GPU(function):  # noqa: N802 - the name that `spaces` gives it
            decorated.append(function)
            return function

    monkeypatch.setattr(app, "spaces", Spaces)
    app.Server(segmenter)
    (infer,) = decorated
    segmentation = infer(slice_of(24, 20))
    assert isinstance(segmentation, Segmentation)
    assert {type(segmentation.image), type(segmentation.probability)} == {np.ndarray}


def test_the_page_keeps_no_giants(segmenter, forwards, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    path = saved(tmp_path / "long.png", slice_of(app.MAX_SIDE + 1, 20))
    with pytest.raises(gr.Error, match=r"long\.png: .* 4096"):
        app.Server(segmenter).show_upload({"path": str(path)}, 0.5, 0)
    assert not forwards


def test_examples_are_of_persons_that_no_model_trains_on():
    manifest = read_manifest()
    attribution = (ROOT / "examples" / "ATTRIBUTION.md").read_text(encoding="utf-8")
    assert len(app.EXAMPLES) == 9
    for path in app.EXAMPLES:
        tumor_type, plane, number = path.stem.split("-")
        row = manifest[number]
        mask = read_mask(ROOT / "examples" / "masks" / path.name)
        assert (row["tumor_type"], row["plane"], row["split"]) == (tumor_type, plane, "example")
        assert row["mask_sha256"] == mask_hash(mask)
        with Image.open(path) as image:
            assert (image.mode, image.size) == ("L", mask.shape[::-1])
        assert f"| `{path.name}` | {number} | {row['person_id']} |" in attribution


# --------------------------------------------------------------------------------------------------------- the endpoint


@pytest.fixture
def client(url, tmp_path) -> Client:
    return Client(url, verbose=False, download_files=tmp_path / "downloads")


@pytest.mark.parametrize(("height", "width", "dtype"), [(40, 56, np.uint8), (33, 17, np.uint16)])
def test_segment_answers_as_the_package_does(client, segmenter, tmp_path, height, width, dtype):
    path = saved(tmp_path / "slice.png", slice_of(height, width, dtype))
    overlay, measurements, mask = client.predict(handle_file(path), api_name="/segment")
    expected = segmenter(path)
    assert measurements == json.loads(json.dumps(expected.to_dict()))
    with Image.open(mask) as picture:
        assert picture.mode == "L"
        np.testing.assert_array_equal(picture, expected.mask * np.uint8(255))
    with Image.open(overlay) as picture:
        np.testing.assert_array_equal(picture.convert("RGB"), expected.overlay())


def test_segment_takes_a_spacing_and_a_threshold(client, tmp_path):
    path = saved(tmp_path / "slice.tif", slice_of(40, 50))
    _, measurements, _ = client.predict(handle_file(path), spacing=0.5, threshold=0.05, api_name="/segment")
    assert measurements["area_px"] == 40 * 50
    assert measurements["area_mm2"] == 40 * 50 * 0.25
    assert measurements["lesions"][0]["longest_diameter_mm"] == pytest.approx(np.hypot(20, 25))


def test_segment_is_the_only_endpoint_and_says_what_it_is(client):
    (endpoint,) = client.view_api(return_format="dict")["named_endpoints"].items()
    assert endpoint[0] == "/segment"
    assert "Not a medical device" in endpoint[1]["description"]
    assert [parameter["parameter_name"] for parameter in endpoint[1]["parameters"]] == ["image", "spacing", "threshold"]


def png_header(width: int, height: int) -> bytes:
    """A PNG that only claims its size: whoever decodes it finds that its pixels are missing."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def encoded(image: np.ndarray, file_format: str) -> bytes:
    content = io.BytesIO()
    Image.fromarray(image).save(content, format=file_format)
    return content.getvalue()


BAD_FILES = {
    "text.png": (b"not an image at all", "not an image"),
    "truncated.png": (encoded(slice_of(64, 64), "PNG")[:2000], "truncated"),
    "empty.png": (b"", "empty"),
    "tiny.png": (encoded(slice_of(8, 8), "PNG"), "8 × 8"),
    "huge.png": (png_header(20_000, 20_000), "at most 8192 × 8192"),
    "wide.png": (png_header(9000, 20), "9000 × 20"),
    "nan.tif": (encoded(np.full((20, 20), np.nan, np.float32), "TIFF"), "NaN"),
    "film.mp4": (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(500), "not an image"),
    "paper.pdf": (b"%PDF-1.4\n1 0 obj<<>>endobj\ntrailer<<>>\n%%EOF", "not an image"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_are_refused_in_one_sentence(client, forwards, tmp_path, name):
    content, reason = BAD_FILES[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(AppError) as refusal:
        client.predict(handle_file(tmp_path / name), api_name="/segment")
    message = str(refusal.value)
    assert name in message
    assert reason in message
    assert "\n" not in message
    assert "Traceback" not in message
    assert not forwards


@pytest.mark.parametrize(
    ("arguments", "reason"), [({"threshold": 1.5}, "threshold is 1.5"), ({"spacing": -1}, "spacing is")]
)
def test_bad_numbers_are_refused_in_one_sentence(client, tmp_path, arguments, reason):
    path = saved(tmp_path / "slice.png", slice_of(20, 20))
    with pytest.raises(AppError, match=reason):
        client.predict(handle_file(path), **arguments, api_name="/segment")


def test_no_file_is_refused_in_one_sentence(client):
    with pytest.raises(AppError, match="no file was given"):
        client.predict(None, api_name="/segment")


def test_no_file_of_the_project_is_served(url):
    for path in ("app.py", "README.md", "examples/ATTRIBUTION.md"):
        assert httpx.get(f"{url}gradio_api/file={ROOT / path}").status_code in (403, 404)


@pytest.mark.parametrize("meta", [{}, {"meta": {"_type": "gradio.FileData"}}])
def test_files_of_the_server_are_no_input(url, forwards, meta):
    """Gradio checks the path of a file, but for `gr.Image` only where the request says that it is one (`meta`)."""
    file = {"path": str(app.EXAMPLES[0]), **meta}
    event = httpx.post(f"{url}gradio_api/call/segment", json={"data": [file, 0, 0.5]}).json()["event_id"]
    assert "event: error" in httpx.get(f"{url}gradio_api/call/segment/{event}", timeout=60).text
    assert not forwards


# ------------------------------------------------------------------------------------------------------------- the page


@pytest.fixture(scope="module")
def browser(chromium) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-background-networking", "--disable-gpu"]
        )
        yield browser
        browser.close()


def opened(browser: Browser, url: str, width: int = 1280) -> Page:
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.set_default_timeout(PATIENCE_MS)
    page.requests = []
    page.on("request", lambda request: page.requests.append(request.url))
    page.goto(url)
    # The controls are there once the scripts of the page run.
    expect(page.locator("#opacity input[type=range]")).to_be_visible()
    expect(page.locator("#examples button")).to_have_count(len(app.EXAMPLES))
    return page


@pytest.fixture
def page(browser, url) -> Iterator[Page]:
    page = opened(browser, url)
    yield page
    page.close()


def asked(page: Page) -> list[str]:
    """What the page has requested from any server."""
    return [request for request in page.requests if not request.startswith(("data:", "blob:"))]


def choose_example(page: Page, index: int = 0):
    page.locator("#examples button").nth(index).click()
    expect(page.locator("#stage .caption")).to_contain_text(app.describe(app.EXAMPLES[index]))
    expect(page.locator("#layers .fill")).to_be_visible()


def style_of(locator: Locator, name: str) -> str:
    return locator.evaluate("(element, name) => getComputedStyle(element)[name]", name)


def measured(page: Page, name: str) -> str:
    cell = page.locator("#report dl > div").filter(has=page.locator("dt", has_text=name))
    return cell.locator("dd").inner_text().split("\n")[0]


def test_the_page_asks_nobody_else(page, url):
    choose_example(page)
    assert asked(page)
    assert [request for request in asked(page) if not request.startswith(url)] == []
    expect(page.locator("#footer")).to_contain_text("Not a medical device")


def test_an_example_shows_its_overlay_and_its_truth(page, segmenter):
    choose_example(page, 4)
    anatomy, fill = page.locator("#anatomy img").first, page.locator("#layers .fill")
    assert anatomy.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [512, 512]
    assert fill.bounding_box() == pytest.approx(anatomy.bounding_box())
    assert float(style_of(fill, "opacity")) == DEFAULT_ALPHA
    expected = segmenter(app.EXAMPLES[4])
    truth = read_mask(ROOT / "examples" / "masks" / app.EXAMPLES[4].name)
    assert measured(page, "Area") == f"{expected.area_px:,} px"
    assert measured(page, "Dice") == f"{expected.dice(truth):.2f}"
    expect(page.locator("#layers .truth")).to_be_visible()


def test_opacity_never_asks_the_server(page):
    choose_example(page)
    fill, slider = page.locator("#layers .fill"), page.locator("#opacity input[type=range]")
    before = len(asked(page))

    box = slider.bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + DEFAULT_ALPHA * box["width"], middle)
    page.mouse.down()
    seen = set()
    for step in range(1, 21):
        page.mouse.move(box["x"] + (DEFAULT_ALPHA + step / 50) * box["width"], middle)
        seen.add(style_of(fill, "opacity"))
    page.mouse.up()
    assert len(seen) > 10
    expect(fill).to_have_css("opacity", slider.input_value())

    for _ in range(5):
        slider.press("ArrowLeft")
    expect(fill).to_have_css("opacity", slider.input_value())
    page.locator("#opacity input[type=number]").fill("0.2")
    expect(fill).to_have_css("opacity", "0.2")
    # A request that is about to leave has time to.
    page.wait_for_timeout(500)
    assert asked(page)[before:] == []


def test_style_colour_and_outline_never_ask_the_server(page):
    choose_example(page)
    fill, contour = page.locator("#layers .fill"), page.locator("#layers .contour")
    heatmap, truth = page.locator("#anatomy .heatmap"), page.locator("#layers .truth")
    before = len(asked(page))

    page.get_by_label("Lime").check()
    expect(fill).to_have_css("background-color", "rgb(163, 230, 53)")
    page.get_by_label("Outline", exact=True).check()
    expect(contour).to_be_visible()
    expect(fill).to_be_hidden()
    expect(contour).to_have_css("background-color", "rgb(163, 230, 53)")
    page.get_by_label("Heat map").check()
    expect(heatmap).to_be_visible()
    expect(contour).to_be_hidden()
    page.get_by_label("Outline drawn by hand").uncheck()
    expect(truth).to_be_hidden()
    page.wait_for_timeout(500)
    assert asked(page)[before:] == []


def test_the_threshold_cuts_again_without_the_network(page, forwards):
    choose_example(page)
    assert len(forwards) == 1
    slider, report = page.locator("#threshold input[type=range]"), page.locator("#report")
    layer = page.locator("#layers .fill")
    before = layer.get_attribute("style")
    slider.press("Home")
    expect(report).to_contain_text(f"{512 * 512:,} px")
    assert layer.get_attribute("style") != before
    slider.press("End")
    expect(report).to_contain_text("No tumour found")
    assert measured(page, "Area") == "0 px"
    assert len(forwards) == 1


def test_a_pixel_size_gives_millimetres_without_the_network(page, forwards):
    choose_example(page)
    page.locator("#threshold input[type=range]").press("Home")
    page.locator("#spacing input").fill("0.5")
    expect(page.locator("#report")).to_contain_text(f"{512 * 512 // 4:,} mm²")
    assert measured(page, "Longest diameter") == f"{np.hypot(256, 256):.1f} mm"
    assert len(forwards) == 1


def test_an_upload_that_browsers_cannot_draw_is_shown(page, segmenter, tmp_path):
    path = saved(tmp_path / "scan.tif", slice_of(60, 40, np.uint16))
    page.set_input_files("#upload input[type=file]", path)
    expect(page.locator("#stage .caption")).to_have_text("scan.tif40 × 60 px")
    anatomy = page.locator("#anatomy img").first
    assert anatomy.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [40, 60]
    assert page.locator("#layers .fill").bounding_box() == pytest.approx(anatomy.bounding_box())
    shown = base64.b64decode(anatomy.get_attribute("src").partition(",")[2])
    np.testing.assert_array_equal(Image.open(io.BytesIO(shown)).convert("RGB"), segmenter(path).image)
    expect(page.locator("#layers .truth")).to_have_count(0)
    # The box waits for the next one.
    expect(page.locator("#upload input[type=file]")).to_have_count(1)


@pytest.mark.parametrize("name", ["text.png", "huge.png"])
def test_a_bad_upload_is_one_sentence_on_the_page(page, tmp_path, name):
    content, reason = BAD_FILES[name]
    (tmp_path / name).write_bytes(content)
    choose_example(page)
    page.set_input_files("#upload input[type=file]", tmp_path / name)
    sentence = re.compile(rf"^Error\s*×?\s*{name}: [^\n]*{reason}[^\n]*\.$")
    expect(page.get_by_test_id("toast-body")).to_have_text(sentence, use_inner_text=True)
    assert "Traceback" not in page.content()
    expect(page.locator("#report")).to_contain_text("No slice yet")
    expect(page.locator("#layers .fill")).to_have_count(0)
    expect(page.locator("#upload input[type=file]")).to_have_count(1)


def test_a_film_is_not_even_sent(page, tmp_path):
    (tmp_path / "film.mp4").write_bytes(BAD_FILES["film.mp4"][0])
    before = len(asked(page))
    page.set_input_files("#upload input[type=file]", tmp_path / "film.mp4")
    expect(page.get_by_test_id("toast-body")).to_contain_text("film.mp4")
    assert asked(page)[before:] == []


def test_saved_files_have_the_slices_own_pixels(page, segmenter, tmp_path):
    path = saved(tmp_path / "scan.png", slice_of(60, 44))
    page.set_input_files("#upload input[type=file]", path)
    expect(page.locator("#stage .caption")).to_contain_text("scan.png")
    page.get_by_label("Outline", exact=True).check()
    expected = segmenter(path)
    pictures = {}
    for label, name in (("Save mask", "scan_mask.png"), ("Save overlay", "scan_overlay.png")):
        with page.expect_download() as download:
            page.get_by_role("button", name=label).click()
        assert download.value.suggested_filename == name
        download.value.save_as(tmp_path / name)
        pictures[name] = np.asarray(Image.open(tmp_path / name).convert("RGB"))
    np.testing.assert_array_equal(pictures["scan_mask.png"][..., 0], expected.mask * np.uint8(255))
    np.testing.assert_array_equal(
        pictures["scan_overlay.png"], expected.overlay(DEFAULT_COLOR, DEFAULT_ALPHA, "contour")
    )


def test_visitors_do_not_see_each_other(page, browser, url):
    choose_example(page)
    other = opened(browser, url)
    try:
        other.locator("#threshold input[type=range]").press("Home")
        expect(other.locator("#report")).to_contain_text("No slice yet")
        expect(page.locator("#report")).not_to_contain_text(f"{512 * 512:,} px")
    finally:
        other.close()


def test_a_phone_needs_no_horizontal_scrolling(browser, url):
    page = opened(browser, url, width=390)
    try:
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        choose_example(page)
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        assert page.locator("#layers .fill").bounding_box()["width"] > 300
    finally:
        page.close()
