"""The page without a server: in a browser, with the shipped weights, it gives the masks of `TumorSegmenter`."""

import base64
import functools
import io
import json
import re
import shutil
import struct
import tarfile
import threading
import zlib
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from pages import BAD_FILES
from PIL import Image
from playwright.sync_api import BrowserContext, Page, expect

from modeling_unet import TumorSegmenter, __main__, read_image, read_mask
from modeling_unet.comparison import Overlap
from modeling_unet.framing import find_frames
from modeling_unet.overlay import DEFAULT_ALPHA
from modeling_unet.prediction import summarize
from modeling_unet.segmentation import UNLIKE, Segmentation
from modeling_unet.web import RUNTIME, RUNTIME_FILES, page_sources, runtime_files
from space.views import GLASS, TOOLS


ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples" / "images").glob("*.png"))
LIMIT_MS = 300_000  # two slow cores; nothing here asserts how long something takes
SAME = 0.999  # Dice of two masks that differ by rounding alone

expect.set_options(timeout=LIMIT_MS)


class Handler(SimpleHTTPRequestHandler):
    """What `python -m http.server` does, without a word."""

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def site(shipped_weights, onnxruntime_web, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site") / "new"
    where = ["--model", str(shipped_weights), "--runtime", str(onnxruntime_web)]
    assert __main__.main(["export", "--web", str(folder), *where]) == 0
    return folder


@pytest.fixture(scope="module")
def server(site) -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=site)) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def address(server) -> str:
    return f"http://127.0.0.1:{server.server_port}/"


@pytest.fixture(scope="module")
def context(browser) -> Iterator[BrowserContext]:
    context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    context.set_default_timeout(LIMIT_MS)
    yield context
    context.close()


@pytest.fixture(scope="module")
def page(context, address) -> Iterator[Page]:
    """One page for all tests, as it loads the network; each test opens its own slice."""
    page = context.new_page()
    page.asked, page.errors = [], []
    page.on("request", lambda request: page.asked.append(request.url))
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.goto(address)
    expect(page.locator("body[data-ready]")).to_be_attached()
    yield page
    assert page.errors == []


@pytest.fixture(scope="module")
def segmenter(shipped_weights) -> TumorSegmenter:
    return TumorSegmenter.from_pretrained(shipped_weights, device="cpu", optimize="none")


def choose(page: Page, index: int):
    page.locator("#examples button").nth(index).click()
    expect(page.locator(f"#examples button[aria-pressed=true][data-index='{index}']")).to_be_visible()
    expect(page.locator("#report:not([aria-busy]) dl")).to_be_visible()


def drop(page: Page, path: Path):
    page.set_input_files("#upload input[type=file]", path)
    expect(page.locator("#report[aria-busy]")).to_have_count(0)


def download(page: Page, label: str, folder: Path) -> Path:
    with page.expect_download() as started:
        page.get_by_role("button", name=f"Save {label}", exact=True).click()
    path = folder / started.value.suggested_filename
    started.value.save_as(path)
    return path


# ----------------------------------------------------------------------------------------------------- the same answer


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def interlaced(grey: np.ndarray) -> bytes:
    """An interlaced PNG, which Pillow reads and does not write: every pass is a picture of its own, line by line."""
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    lines = [line for y, x, down, right in passes for line in grey[y::down, x::right]]
    header = struct.pack(">IIBBBBB", grey.shape[1], grey.shape[0], 8, 0, 0, 0, 1)
    pixels = zlib.compress(b"".join(b"\0" + line.tobytes() for line in lines))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def written(image: Image.Image, file_format: str = "PNG", **options) -> bytes:
    content = io.BytesIO()
    image.save(content, file_format, **options)
    return content.getvalue()


@functools.cache
def slices() -> list[np.ndarray]:
    return [np.asarray(Image.open(path)) for path in EXAMPLES]


def colours(index: int) -> Image.Image:
    return Image.fromarray(np.dstack([slices()[index]] * 3))


def seen_through() -> Image.Image:
    grey = slices()[4]
    return Image.fromarray(np.dstack([grey] * 3 + [np.where(grey > 20, 255, 90).astype(np.uint8)]))


def turned(file_format: str, **options) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return written(Image.fromarray(slices()[3]).transpose(Image.Transpose.ROTATE_90), file_format, exif=exif, **options)


def screenshot() -> Image.Image:
    picture = Image.new("RGB", (1200, 800), (40, 44, 52))
    picture.paste(Image.fromarray(slices()[3]), (500, 150))
    picture.paste((200, 200, 205), (0, 0, 1200, 40))
    return picture


# Slices of the examples in forms that people have.
ODD_FILES = {
    "16 bit": lambda: written(Image.fromarray(slices()[0].astype(np.uint16) * 200 + 3)),
    "16 bit, faint": lambda: written(Image.fromarray((slices()[1] // 2).astype(np.uint16))),
    "colours": lambda: written(colours(6)),
    "see-through": lambda: written(seen_through()),
    "grey and opacity": lambda: written(seen_through().convert("LA")),
    "palette": lambda: written(Image.fromarray(slices()[3]).quantize(200)),
    "16 greys": lambda: written(Image.fromarray(slices()[3]).quantize(16), bits=4),
    "one colour clear": lambda: written(Image.fromarray(slices()[3]), transparency=0),
    "interlaced": lambda: interlaced(slices()[5]),
    "turned": lambda: turned("PNG"),
    "JPEG": lambda: written(Image.fromarray(slices()[3]), "JPEG", quality=92),
    "JPEG in colour": lambda: written(colours(6), "JPEG", quality=85),
    "JPEG, turned": lambda: turned("JPEG", quality=95),
    "WebP": lambda: written(colours(6), "WEBP", quality=90),
    "WebP, lossless": lambda: written(colours(6), "WEBP", lossless=True),
    "BMP": lambda: written(Image.fromarray(slices()[3]), "BMP"),
    "wide": lambda: written(Image.fromarray(slices()[2][60:460])),
    "tall and large": lambda: written(Image.fromarray(slices()[7][:, 40:470]).resize((900, 1070))),
    "small": lambda: written(Image.fromarray(slices()[3]).resize((100, 96))),
    "negative": lambda: written(Image.fromarray(255 - slices()[8])),
    "screenshot": lambda: written(screenshot()),
}


# A file → its mask and probability as the page would save them, and the warnings; by the page's own worker.
SEGMENT = """
async ([name, base64]) => {
    const {Network} = await import(new URL('network.js', location));
    window.network ??= (async () => {
        const network = new Network(() => {}), given = await (await fetch('settings.json')).json();
        await network.ask('start', {given});
        return network;
    })();
    const network = await window.network, cut = {threshold: 0.5, minArea: 0, spacing: 0};
    const bytes = Uint8Array.from(atob(base64), letter => letter.charCodeAt(0)).buffer;
    const {warnings, familiarity} = await network.ask('open', {bytes, name, title: name});
    const saved = async kind => {
        const {blob} = await network.ask('save', {kind, cut, look: {}});
        return btoa(Array.from(new Uint8Array(await blob.arrayBuffer()), byte => String.fromCharCode(byte)).join(''));
    };
    return {mask: await saved('mask'), probability: await saved('probability'), warnings, familiarity};
}
"""


def check_same(page: Page, name: str, content: bytes, expected: Segmentation):
    found = page.evaluate(SEGMENT, [name, base64.b64encode(content).decode()])
    mask, probability = (read_image(io.BytesIO(base64.b64decode(found[key]))) for key in ("mask", "probability"))
    assert Overlap.of(mask > 0, expected.mask).dice >= SAME
    np.testing.assert_allclose(probability / 65535, expected.probability, atol=0.02)
    assert found["warnings"] == list(expected.warnings)
    assert found["familiarity"] == pytest.approx(expected.familiarity, abs=0.02)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_have_the_masks_of_the_package(page, segmenter, path):
    check_same(page, path.stem, path.read_bytes(), segmenter(path))


@pytest.mark.parametrize("name", ODD_FILES)
def test_odd_files_have_the_masks_of_the_package(page, segmenter, name):
    content = ODD_FILES[name]()
    # Frames are the one thing that the page does not know.
    assert name not in ("negative", "screenshot") or find_frames(read_image(io.BytesIO(content)))
    check_same(page, name, content, next(segmenter.batch([io.BytesIO(content)], framing="none")))


# ------------------------------------------------------------------------------------------------------ what it does


def test_an_example_is_shown_with_its_measurements_as_python_has_them(page, segmenter, tmp_path):
    choose(page, 4)
    expected = segmenter(EXAMPLES[4])
    report, by_hand = page.locator("#report"), read_mask(EXAMPLES[4].parents[1] / "masks" / EXAMPLES[4].name)
    expect(report).to_contain_text(f"{expected.area_px:,} px")
    expect(report).to_contain_text(f"{expected.longest_diameter_px:.1f} px")
    expect(report).to_contain_text(f"{expected.dice(by_hand):.2f}")
    expect(page.locator("#stage .caption")).to_contain_text("512 × 512 px")
    first = page.locator("#report tbody tr").first.locator("td")
    assert first.nth(1).inner_text() == f"{expected.lesions[0].area_px:,}"
    assert first.last.inner_text() == f"{expected.lesions[0].mean_probability:.2f}"
    fill = page.locator("#layers .fill")
    expect(fill).to_have_css("opacity", str(DEFAULT_ALPHA))
    page.locator("#opacity input[type=number]").fill("0.2")
    expect(fill).to_have_css("opacity", "0.2")
    page.locator("#opacity input[type=number]").fill(str(DEFAULT_ALPHA))
    page.get_by_label("Heat map").check()
    expect(page.locator("#anatomy .heatmap")).to_be_visible()
    page.get_by_label("Outline", exact=True).check()
    expect(page.locator("#layers .contour")).to_be_visible()

    saved = {kind: download(page, kind, tmp_path) for kind in ("Overlay", "Mask", "Probability", "Table")}
    assert Overlap.of(read_mask(saved["Mask"]), expected.mask).dice >= SAME
    overlay = np.asarray(Image.open(saved["Overlay"]).convert("RGB")).astype(int)
    apart = abs(overlay - expected.overlay(style="contour")).max(axis=2)
    assert (apart > 1).mean() < 1e-4
    assert Image.open(saved["Probability"]).mode.startswith("I")
    columns, row = (line.split(",") for line in saved["Table"].read_text(encoding="utf-8").splitlines())
    assert dict(zip(columns, row, strict=True)) == {
        "slice": EXAMPLES[4].stem,
        **{name: "" if value is None else str(value) for name, value in summarize(expected).items()},
    }
    page.get_by_label("Fill").check()


def test_threshold_pixel_size_and_hidden_pieces_cut_again(page, segmenter):
    choose(page, 1)
    expected = segmenter(EXAMPLES[1])
    cut = expected.cut(threshold=0.3, spacing=(0.5, 0.5))
    page.locator("#threshold input[type=number]").fill("0.3")
    page.locator("#spacing input").fill("0.5")
    # Weights of 16 bits move a pixel or two at the edge.
    nearly = "|".join(f"{area:,.0f} mm²" for area in cut.area_mm2 + np.arange(-2, 3) * 0.25)
    expect(page.locator("#report")).to_contain_text(re.compile(nearly))
    expect(page.locator("#report")).to_contain_text(f"{cut.longest_diameter_mm:.1f} mm")
    page.locator("#spacing input").fill("0")
    page.locator("#threshold input[type=number]").fill("0.5")
    large = expected.cut(min_area_px=500)
    page.locator("#min-area input[type=number]").fill("500")
    expect(page.locator("#report")).to_contain_text(f"{large.lesion_mask.sum():,} px")
    page.locator("#min-area input[type=number]").fill("0")


def test_the_stage_is_that_of_the_space(page):
    choose(page, 0)
    fill = page.locator("#layers .fill")
    page.get_by_role("button", name="Before / after").click()
    page.locator("#split").fill("20")
    assert page.locator("#stage").evaluate("stage => stage.style.getPropertyValue('--split')") == "20%"
    page.get_by_role("button", name="Before / after").click()
    page.keyboard.press("+")
    expect(page.locator("#stage.zoomed")).to_be_visible()
    page.get_by_role("button", name="Reset").click()
    expect(page.locator("#stage.zoomed")).to_have_count(0)
    page.keyboard.down("h")
    expect(fill).to_be_hidden()
    page.keyboard.up("h")
    expect(fill).to_be_visible()
    page.get_by_role("button", name="Clear").click()
    expect(page.locator("#report")).to_contain_text("No slice yet")
    assert page.get_by_role("button", name="Save Mask").is_disabled()


def test_it_has_every_part_that_the_scripts_of_the_space_look_for():
    part = re.compile(r'(?:id|class|data-tool)="[^"]+"')
    wanted = {*part.findall(GLASS + TOOLS)}
    assert len(wanted) > 10 and wanted <= {*part.findall((ROOT / "web" / "index.html").read_text(encoding="utf-8"))}


def test_a_picture_unlike_its_slices_is_doubted(page, segmenter, tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (300, 200, 3), dtype=np.uint8)
    path = tmp_path / "noise.png"
    Image.fromarray(noise).save(path)
    assert UNLIKE in segmenter(path).warnings
    drop(page, path)
    expect(page.locator("#report .verdict")).to_have_text("The network does not know such pictures")
    expect(page.locator("#report .warnings li").first).to_have_text(UNLIKE)


@pytest.mark.parametrize("name", [name for name in BAD_FILES if name.endswith((".png", ".mp4"))])
def test_a_file_that_cannot_be_used_is_one_sentence(page, tmp_path, name):
    content, _ = BAD_FILES[name]
    (tmp_path / name).write_bytes(content)
    choose(page, 0)
    drop(page, tmp_path / name)
    expect(page.locator("#drop-hint")).to_have_text(re.compile(rf"^{name}: [^\n]+\.$"))
    expect(page.locator("#layers .fill")).to_be_visible()  # what the page shows stays
    expect(page.locator("#examples button").first).to_have_attribute("aria-pressed", "true")


def test_what_a_browser_cannot_read_is_named(page, tmp_path):
    Image.fromarray(np.zeros((40, 40), np.uint8)).save(tmp_path / "scan.tif")
    drop(page, tmp_path / "scan.tif")
    expect(page.locator("#drop-hint")).to_contain_text("scan.tif: this is a TIFF picture, which this page cannot read")


def test_nobody_but_its_own_server_is_asked(page, address):
    choose(page, 2)
    assert page.asked
    assert [url for url in page.asked if not url.startswith((address, "blob:", "data:"))] == []


# ------------------------------------------------------------------------------------------------- without a network


def test_after_the_first_visit_it_works_without_a_network_and_with_threads(context, page, segmenter):
    page.evaluate("navigator.serviceWorker.ready.then(() => {})")
    context.set_offline(True)
    try:
        again = context.new_page()
        again.goto(page.url)
        expect(again.locator("body[data-ready]")).to_be_attached()
        assert again.evaluate("crossOriginIsolated")
        choose(again, 6)
        expect(again.locator("#report")).to_contain_text(f"{segmenter(EXAMPLES[6]).area_px:,} px")
        again.close()
    finally:
        context.set_offline(False)


def test_it_can_be_installed(page):
    manifest = page.evaluate("fetch(document.querySelector('link[rel=manifest]').href).then(answer => answer.json())")
    assert manifest["display"] == "standalone" and manifest["name"] and manifest["start_url"] == "./"
    for icon in manifest["icons"]:
        assert page.evaluate("name => fetch(name).then(answer => answer.ok)", icon["src"])


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_sticks_out(page, width):
    choose(page, 0)
    page.set_viewport_size({"width": width, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.set_viewport_size({"width": 1280, "height": 900})


# ------------------------------------------------------------------------------------------------------- the folder


def test_the_folder_holds_everything_and_names_it(site):
    files = {path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file()}
    listed = json.loads(re.search(r"FILES = (.*);", (site / "files.js").read_text(encoding="utf-8")).group(1))
    assert set(listed) == files - {"files.js"} | {"./"}
    assert page_sources().keys() | {f"runtime/{name}" for name in RUNTIME_FILES} < files
    assert (site / "model.onnx").stat().st_size < 15_000_000
    assert str(ROOT).encode() not in (site / "model.onnx").read_bytes()


def test_every_script_of_the_page_is_there():
    names = {path.name for path in page_sources().values()} | RUNTIME_FILES.keys()
    for path in (ROOT / "web").glob("*.js"):
        imported = re.findall(r"from '\./(?:runtime/|scripts/)?([^']+)'", path.read_text(encoding="utf-8"))
        assert set(imported) <= names, path.name


def test_another_runtime_is_refused(tmp_path):
    (tmp_path / "dist").mkdir()
    for name in RUNTIME_FILES:
        (tmp_path / "dist" / name).write_bytes(b"of another version")
    with pytest.raises(ValueError, match=f"is not that of {RUNTIME}; allowed is this version alone"):
        runtime_files(tmp_path)
    with pytest.raises(ValueError, match=r"holds no ort\.wasm\.bundle\.min\.mjs; allowed are onnxruntime-web"):
        runtime_files(tmp_path / "nowhere.tgz")
    shutil.rmtree(tmp_path / "dist")
    with tarfile.open(tmp_path / "empty.tgz", "w:gz"):
        pass
    with pytest.raises(ValueError, match="holds no ort"):
        runtime_files(tmp_path / "empty.tgz")


def test_without_npm_the_command_says_what_to_do(monkeypatch, tmp_path, shipped_weights, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert __main__.main(["export", "--web", str(tmp_path / "site"), "--model", str(shipped_weights)]) == 2
    assert "npm is not installed; install it, or name onnxruntime-web-1.30.0.tgz with" in capsys.readouterr().err
    assert not (tmp_path / "site").exists()
