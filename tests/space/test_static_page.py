"""The page without a server: in a browser, with the shipped weights, it gives the masks of `TumorSegmenter`."""

import base64
import functools
import gzip
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

import nibabel as nib
import numpy as np
import phantoms
import pytest
from pages import BAD_FILES
from PIL import Image
from playwright.sync_api import BrowserContext, Error, Page, expect
from surroundings import WEBGL
from visits import barriers

from benchmarks.perturbations import KINDS, perturb
from modeling_unet import TumorSegmenter, __main__, read_image, read_mask, read_picture
from modeling_unet.comparison import Overlap
from modeling_unet.overlay import DEFAULT_ALPHA
from modeling_unet.prediction import summarize
from modeling_unet.segmentation import UNLIKE, Segmentation
from modeling_unet.volumes import Volume, VolumeSegmentation, read_volume, segment_volume
from modeling_unet.volumes.lesions import find_lesions
from modeling_unet.volumes.nifti import GEOMETRY_FIELDS
from modeling_unet.volumes.planes import spacing_of
from modeling_unet.web import MAX_SLICE_SIDE, RUNTIME, RUNTIME_FILES, page_sources, runtime_files
from space.views import BRUSH, GLASS, PAINT, TOOLS, VIEWS, VOLUME
from train.__main__ import main as train


ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples" / "images").glob("*.png"))
LIMIT_MS = 300_000  # two slow cores; nothing here asserts how long something takes
SAME = 0.999  # Dice of two masks that differ by rounding alone
ONE_PIXEL = 1  # of the boxes of heads, which a decoder of JPEG that rounds otherwise may move

BROWSER_OPTIONS = WEBGL

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


def array(values: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.save(content, values)
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
    "negative in colour, JPEG": lambda: written(Image.fromarray(255 - np.asarray(colours(6))), "JPEG", quality=90),
    "screenshot": lambda: written(screenshot()),
    "screenshot, JPEG": lambda: written(screenshot(), "JPEG", quality=90),
    "screenshot, see-through": lambda: written(screenshot().convert("RGBA")),
    "16 bit in a border": lambda: written(Image.fromarray(np.pad(slices()[0].astype(np.uint16) * 200, 300))),
    "half a head": lambda: written(Image.fromarray(np.pad(slices()[5][:, 256:], [(300, 40), (0, 700)]))),
    "npy of floats": lambda: array(slices()[3].astype(np.float32) / 7),
    "npy of colours": lambda: array(np.asfortranarray(np.moveaxis(np.asarray(colours(6)), 2, 0))),
    "no head": lambda: written(Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 400), dtype=np.uint8))),
    "one grey": lambda: written(Image.fromarray(np.full((64, 64), 255, np.uint8))),
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
    const {warnings, familiarity, frames, inverted} = await network.ask('open', {bytes, name, title: name});
    const saved = async kind => {
        const {blob} = await network.ask('save', {kind, cut, look: {}});
        return btoa(Array.from(new Uint8Array(await blob.arrayBuffer()), byte => String.fromCharCode(byte)).join(''));
    };
    const [mask, probability] = [await saved('mask'), await saved('probability')];
    return {mask, probability, warnings, familiarity, frames, inverted};
}
"""


def check_same(page: Page, name: str, content: bytes, expected: Segmentation):
    found = page.evaluate(SEGMENT, [name, base64.b64encode(content).decode()])
    mask, probability = (read_image(io.BytesIO(base64.b64decode(found[key]))) for key in ("mask", "probability"))
    assert Overlap.of(mask > 0, expected.mask).dice >= SAME
    # The edge of what is black around a head that was cut out may lie a pixel off.
    apart = abs(probability / 65535 - expected.probability)
    assert (apart > 0.02).mean() < 1e-4 and apart.max() < 0.1
    assert found["warnings"] == list(expected.warnings)
    assert found["inverted"] == expected.inverted and len(found["frames"]) == len(expected.frames)
    # Of heads that are as likely, either may come first.
    for box, of_python in zip(sorted(found["frames"]), sorted(map(list, expected.frames)), strict=True):
        np.testing.assert_allclose(box, of_python, atol=ONE_PIXEL)
    assert found["familiarity"] == pytest.approx(expected.familiarity, abs=0.02)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_have_the_masks_of_the_package(page, segmenter, path):
    check_same(page, path.stem, path.read_bytes(), segmenter(path))


@pytest.mark.parametrize("name", ODD_FILES)
def test_odd_files_have_the_masks_of_the_package(page, segmenter, name):
    content = ODD_FILES[name]()
    check_same(page, name, content, segmenter(io.BytesIO(content)))


def banner() -> Image.Image:
    """What is larger than the page keeps."""
    picture = Image.new("RGB", (MAX_SLICE_SIDE + 403, 701), (0, 0, 30))
    picture.paste(Image.fromarray(slices()[3]), (300, 100))
    return picture


@pytest.mark.parametrize("form", [("PNG", "RGB"), ("PNG", "LA"), ("JPEG", "RGB")], ids=" ".join)
def test_large_pictures_are_scaled_down_as_on_the_page_of_python(page, segmenter, form):
    content = written(banner().convert(form[1]), form[0])
    expected = segmenter(read_picture(io.BytesIO(content), MAX_SLICE_SIDE))
    assert expected.full_size == banner().size
    check_same(page, "large", content, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_heads_are_found_where_the_package_finds_them(page, segmenter, kind):
    number = [*KINDS].index(kind) % len(EXAMPLES)
    masks = [read_mask(path.parents[1] / "masks" / path.name) for path in EXAMPLES]
    pairs = [*zip(slices(), masks, strict=True)]
    others = pairs[number + 1 :] + pairs[:number]
    content = written(Image.fromarray(perturb(kind, *pairs[number], seed=number, others=others).picture))
    check_same(page, kind, content, segmenter(io.BytesIO(content)))


# --------------------------------------------------------------------------------------------------------- volumes


class Bright:
    """Finds what is brighter than any brain, as `BRIGHT` does in the browser."""

    def batch(self, images: list[np.ndarray], batch_size: int = 8, *, framing: str = "auto") -> Iterator[Segmentation]:
        for image in images:
            probability = (image > (phantoms.BRAIN + phantoms.TUMOR) / 2).astype(np.float32)
            yield Segmentation(np.zeros((*image.shape, 3), np.uint8), probability, familiarity=0.5)


# Files → the volume as the modules of the page read it and put it together, without the network.
BRIGHT = """
async ([contents, bright]) => {
    const load = name => import(new URL(name, location));
    const {readNifti} = await load('volumes/nifti.js'), {volumeOf} = await load('volumes/volume.js');
    const {isDicom, readDicom} = await load('volumes/dicom.js');
    const {segmentVolume} = await load('volumes/segmenting.js'), {findLesions} = await load('volumes/lesions.js');
    const {limits, volumes, sentences} = await (await fetch('settings.json')).json();
    const files = contents.map(base64 => Uint8Array.from(atob(base64), letter => letter.charCodeAt(0)));
    const all = {...limits, ...volumes}, read = isDicom(files[0])
        ? () => readDicom(files, all, limits) : () => readNifti(files[0], 'scan', sentences, all);
    const volume = volumeOf(await read(), 'scan', limits);
    const look = ({data}) => ({probability: data.map(value => value > bright ? 1 : 0), familiarity: 0.5});
    const whole = await segmentVolume(volume, look, () => {}, volumes);
    const {slices, spacing, sliceSpacing, affine, ...others} = volume;
    const mask = Uint8Array.from(whole.probability, value => value > 0.5 ? 1 : 0);
    const encode = part => new Promise(done => {
        const reader = new FileReader();
        reader.onload = () => done(reader.result.split(',')[1]);
        reader.readAsDataURL(new Blob([part]));
    });
    return {
        ...others, ...whole, spacing, sliceSpacing, affine, shape: slices.shape, slices: await encode(slices.data),
        probability: await encode(whole.probability), saved: await encode(await volume.toNifti(mask)),
        lesions: findLesions(mask, whole.probability, slices.shape, [sliceSpacing, ...spacing], affine, 10),
    };
}
"""


def stand_in(
    sizes: tuple[float, float, float], codes: str, turn: float = 0.0, skull: bool = True, size: int = 0, edit=None
) -> bytes:
    """A head whose axes end at `codes`, turned by so many degrees, with an empty slice where it has no skull.

    Of its axial slices, all, or so many from the middle.
    """
    voxels = phantoms.head(sizes, skull)[0].copy()
    if size:
        voxels = voxels[:, :, voxels.shape[2] // 2 :][:, :, :size]
    if not skull:
        voxels[:, :, voxels.shape[2] // 2] = 0
    lay = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(codes))
    affine = np.diag([*sizes, 1.0])
    affine[:3, 3] = (-90, -100, -70)
    angle = np.deg2rad(turn)
    affine[:2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]] @ affine[:2]
    affine = affine @ nib.orientations.inv_ornt_aff(lay, voxels.shape)
    turned = np.ascontiguousarray(nib.orientations.apply_orientation(voxels, lay))
    return phantoms.nifti(turned, affine, packed=turn == 0, edit=edit)


def qform_alone(header):
    header["sform_code"], header["scl_slope"], header["scl_inter"] = 0, 0.5, 3


def below_zero(header):
    header["scl_slope"], header["scl_inter"] = 1, -200


def nowhere(header):
    header["sform_code"] = header["qform_code"] = 0


VOLUMES = {
    "axial": lambda: stand_in((3, 3, 6), "LPS"),
    "coronal": lambda: stand_in((3, 6, 3), "SAR"),
    "sagittal, oblique": lambda: stand_in((6, 3, 3), "AIL", turn=12),
    "cubes, by its qform": lambda: stand_in((5, 5, 5), "PIR", edit=qform_alone),
    "below 0": lambda: stand_in((4, 4, 4), "RAS", edit=below_zero),
    "thin": lambda: stand_in((4, 4, 4), "RPS", size=9),
    "far apart": lambda: stand_in((4, 4, 8), "RAS"),
    "anywhere": lambda: stand_in((4, 4, 4), "RAS", edit=nowhere),
    "stripped, a slice empty": lambda: stand_in((3, 3, 5), "LAS", skull=False),
}


@pytest.mark.parametrize("name", VOLUMES)
def test_volumes_are_turned_and_put_together_as_by_the_package(page, tmp_path, name):
    content = VOLUMES[name]()
    (tmp_path / "scan.nii").write_bytes(content)
    check_volume(page, read_volume(tmp_path / "scan.nii"), [content])


PLAIN = {"SeriesDescription": "localizer", "ContrastBolusAgent": None}
SERIES = {
    "axial": {},
    "coronal": {"plane": "coronal", "RescaleSlope": 0.37, "RescaleIntercept": -5},
    "sagittal, white on black": {"plane": "sagittal", "PhotometricInterpretation": "MONOCHROME1", **PLAIN},
    "12 bits": {"BitsStored": 12, "HighBit": 11, "SeriesDescription": "Ax T1 w/o", "ContrastBolusAgent": "NONE"},
    "another kind": {"Modality": "CT", "gap": 2.5, "start": -30.0},
    "nothing said": {"SeriesDescription": None, "ContrastBolusAgent": None},
}


@pytest.mark.parametrize("name", SERIES)
def test_dicom_series_are_read_as_by_the_package(page, tmp_path, name):
    folder = phantoms.series(tmp_path / "series", phantoms.noise(5, 40, 36), **SERIES[name])
    contents = [path.read_bytes() for path in sorted(folder.iterdir())]
    check_volume(page, read_volume(folder), contents)


REFUSED = {
    "compressed": [phantoms.run_length(phantoms.noise(20, 24))],
    "several slices": [phantoms.dicom(phantoms.noise(3, 20, 24))],
    "several series": [
        phantoms.dicom(phantoms.noise(20, 24), number, SeriesInstanceUID=series)
        for number, series in enumerate((phantoms.SERIES, phantoms.OTHER_SERIES))
    ],
    "missing": [phantoms.dicom(phantoms.noise(20, 24), number) for number in (1, 2, 3, 5)],
    "at one place": [phantoms.dicom(phantoms.noise(20, 24)) for _ in range(2)],
    "aslant": [
        phantoms.dicom(phantoms.noise(20, 24), number, ImagePositionPatient=[0, 2 * number, 6 * number])
        for number in range(4)
    ],
    "how large": [phantoms.dicom(phantoms.noise(20, 24), PixelSpacing=None)],
}


@pytest.mark.parametrize("reason", REFUSED)
def test_dicom_that_is_for_the_package_is_named(page, reason):
    contents = [base64.b64encode(part).decode() for part in REFUSED[reason]]
    with pytest.raises(Error, match=f"The DICOM series: .*{reason}.*; the Python page reads such files"):
        page.evaluate(BRIGHT, [contents, 0])


def check_volume(page: Page, volume: Volume, contents: list[bytes]):
    expected = segment_volume(volume, Bright())
    bright = (phantoms.BRAIN + phantoms.TUMOR) / 2
    found = page.evaluate(BRIGHT, [[base64.b64encode(part).decode() for part in contents], bright])

    def voxels(key: str) -> np.ndarray:
        return np.frombuffer(base64.b64decode(found[key]), np.float32).reshape(volume.slices.shape)

    np.testing.assert_array_equal(voxels("slices"), volume.slices)
    np.testing.assert_allclose(voxels("probability"), expected.probability, atol=1e-5)
    assert (found["plane"], tuple(found["planes"])) == (volume.plane, expected.planes)
    assert (found["hasSkull"], found["filled"]) == (expected.has_skull, expected.filled)
    assert found["warnings"] == list(volume.warnings)
    np.testing.assert_allclose(found["spacing"], volume.spacing)
    assert found["sliceSpacing"] == pytest.approx(volume.slice_spacing)
    if volume.affine is None:
        assert found["affine"] is None
    else:
        np.testing.assert_allclose(found["affine"], volume.affine[:3], atol=1e-6)
    saved, by_package = (
        nib.Nifti1Image.from_bytes(gzip.decompress(part))
        for part in (base64.b64decode(found["saved"]), expected.to_nifti())
    )
    np.testing.assert_array_equal(np.asarray(saved.dataobj), np.asarray(by_package.dataobj))
    for field in [field for field in GEOMETRY_FIELDS if not field.startswith("quatern")]:
        np.testing.assert_allclose(saved.header[field], by_package.header[field], atol=1e-5, err_msg=field)
    np.testing.assert_allclose(saved.header.get_qform(), by_package.header.get_qform(), atol=1e-4)
    lesions = find_lesions(expected.mask, expected.probability, spacing_of(volume), volume.affine)
    assert [lesion["voxels"] for lesion in found["lesions"]] == [lesion.voxels for lesion in lesions]
    for one, other in zip(found["lesions"], lesions, strict=True):
        assert one["longest_diameter_mm"] == pytest.approx(other.longest_diameter_mm)
        np.testing.assert_allclose(one["centre"], other.centre)


def three_slices(folder: Path) -> Path:
    """Slices of an example, so far apart that they are looked at in their own plane alone."""
    voxels = np.stack([slices()[4].T * share for share in (0.9, 1.0, 0.8)], axis=2).astype(np.int16)
    path = folder / "head.nii.gz"
    path.write_bytes(phantoms.nifti(voxels, np.diag([-0.49, -0.49, 9.0, 1.0])))
    return path


def test_a_volume_is_shown_measured_and_saved(page, axe, segmenter, tmp_path):
    path = three_slices(tmp_path)
    expected = segment_volume(read_volume(path), segmenter)
    drop(page, path)
    report = page.locator("#report")
    expect(report).to_contain_text(f"{expected.volume_ml:.0f}"[:-1])
    expect(report).to_contain_text("of 3")
    for sentence in expected.warnings:
        expect(report.locator(".warnings")).to_contain_text(sentence)
    assert read_saved(page, tmp_path, expected) >= SAME
    areas = expected.mask.sum(axis=(1, 2))
    expect(page.locator("#stage .caption")).to_contain_text(f"Axial slice {areas.argmax() + 1} of 3")
    page.locator("#scrubber input[type=number]").fill("1")
    expect(page.locator("#stage .caption")).to_contain_text("Axial slice 1 of 3")
    expect(page.locator("#anatomy b")).to_have_text(["R", "L"])
    page.locator("#overview td button").first.click()
    middle = round(expected.lesions[0].centre[0])
    expect(page.locator("#stage .caption")).to_contain_text(f"Axial slice {middle + 1} of 3")
    page.locator("#views label").filter(has_text="3 planes").click()
    expect(page.locator("#volume .place")).to_contain_text(" mm: ")
    page.evaluate(axe)
    assert barriers(page) == []
    page.locator("#views label").filter(has_text="Slices").click()
    choose(page, 0)
    expect(page.locator("#views fieldset")).to_be_hidden()
    expect(page.locator("#scrubber")).to_be_hidden()


def read_saved(page: Page, folder: Path, expected: VolumeSegmentation) -> float:
    """Dice of the mask that the page saves."""
    (folder / "saved.nii.gz").write_bytes(download(page, "Mask of the volume", folder).read_bytes())
    saved, by_package = (
        nib.load(folder / "saved.nii.gz"),
        nib.Nifti1Image.from_bytes(gzip.decompress(expected.to_nifti())),
    )
    np.testing.assert_array_equal(saved.affine, by_package.affine)
    return Overlap.of(np.asarray(saved.dataobj) > 0, np.asarray(by_package.dataobj) > 0).dice


def test_a_volume_can_be_stopped_and_what_was_shown_stays(page, tmp_path):
    choose(page, 0)
    before = page.locator("#report dl").inner_text()
    page.set_input_files("#upload input[type=file]", three_slices(tmp_path))
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#drop-hint")).to_have_text("The volume was stopped before its last slice.")
    expect(page.locator("#report dl")).to_have_text(re.sub(r"\s+", " ", before).strip(), use_inner_text=True)


def test_a_damaged_volume_is_one_sentence(page, tmp_path):
    content = stand_in((4, 4, 8), "RAS", turn=1)
    for name, part in {"short.nii": content[:5000], "headless.nii": content[:100] + bytes(244) + content[344:]}.items():
        (tmp_path / name).write_bytes(part)
        drop(page, tmp_path / name)
        expect(page.locator("#drop-hint")).to_have_text(re.compile(rf"^{name}: [^\n]+\.$"))


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


def test_it_has_every_part_that_the_scripts_of_the_space_look_for(site):
    """What both pages have comes from the same files."""
    written = (site / "index.html").read_text(encoding="utf-8")
    assert "<!-- space/" not in written
    assert all(part in written for part in (BRUSH, GLASS, PAINT, TOOLS, VIEWS))
    part = re.compile(r'(?:id|class)="[^"]+"')
    assert {*part.findall(VOLUME)} <= {*part.findall(written)}


def test_corrected_masks_are_measured_saved_and_pairs_to_train_on(page, tmp_path, capsys):
    for index in (4, 6):
        choose(page, index)
        page.get_by_role("button", name="Brush").first.click()
        expect(page.locator("#stage.painting")).to_be_visible()
        page.keyboard.press("Space")
        expect(page.locator("#report .verdict")).to_have_text("Tumour, corrected by hand")
        expect(page.locator("#layers [data-corrected]")).to_be_attached()
        mask = read_mask(download(page, "Mask", tmp_path))
        expect(page.locator("#report")).to_contain_text(f"{mask.sum():,} px")
        page.locator("#tools [data-tool=brush]").click()
    with page.expect_download() as started:
        page.locator("#tools [data-tool=brush]").click()
        page.locator("#save-pairs").click()
    started.value.save_as(tmp_path / "corrections.zip")
    shutil.unpack_archive(tmp_path / "corrections.zip", tmp_path / "pairs")
    name = EXAMPLES[6].name
    pair = {
        folder: np.asarray(Image.open(tmp_path / "pairs" / folder / name)) for folder in ("images", "masks", "network")
    }
    np.testing.assert_array_equal(pair["images"], slices()[6])
    np.testing.assert_array_equal(pair["masks"] > 0, mask)
    painted = np.argwhere(pair["masks"] != pair["network"])
    assert (pair["masks"] >= pair["network"]).all() and np.hypot(*(painted - 256).T).max() <= 6
    assert train(["check", str(tmp_path / "pairs"), "--num_folds", "2"]) == 0
    found = capsys.readouterr().out
    assert "persons          2" in found and "slices           2" in found
    page.locator("#uncorrect").click()
    expect(page.locator("#report .verdict")).to_have_text("Tumour found")
    expect(page.locator("#save-pairs")).to_have_text("Save 1 training pair")
    page.locator("#tools [data-tool=brush]").click()


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
def test_nothing_sticks_out_or_bars_the_way(page, axe, width):
    choose(page, 0)
    page.set_viewport_size({"width": width, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.evaluate(axe)
    assert barriers(page) == []
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
    for path in (ROOT / "web").rglob("*.js"):
        imported = re.findall(r"from '\.\.?/(?:runtime/|scripts/|volumes/)?([^']+)'", path.read_text(encoding="utf-8"))
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
