"""Volumes as a whole, in three planes and in 3-D: what the server sends for the viewer, and the viewer in a browser."""

import gzip
import hashlib
import io
import re
import zipfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import nibabel as nib
import numpy as np
import phantoms
import pytest
from pages import until
from PIL import Image
from playwright.sync_api import Page, expect
from surroundings import WEBGL
from visits import WIDTH, asked, drop, visit

from modeling_unet.volumes import read_volume
from space import downloads, vendor
from space.events import NO_VOLUME, Server
from space.reading import in_eight_bits, segment_files
from space.studies import Settings, Study
from train.__main__ import main


BROWSER_OPTIONS = WEBGL
# (right, anterior, superior); all sides differ, and so do the voxels'.
SHAPE = (24, 30, 18)
AFFINE = np.array([[2.0, 0, 0, -21], [0, 2.5, 0, -40], [0, 0, 3, -11], [0, 0, 0, 1]])
ORIENTATIONS = ["RAS", "LPS", "SAR", "AIL"]
# The sides towards which the axes of a volume go, as a crosshair's place says them.
SIDES = ("RL", "AP", "SI")


def voxels() -> np.ndarray:
    """Noise, which is itself nowhere else; every axial slice has black and white in it, so that it stays as it is."""
    values = np.random.default_rng(0).integers(1, 255, SHAPE).astype(np.int16)
    values[:2], values[-2:] = 0, 255
    return values


def scan(folder: Path, axes: str = "RAS", edit=None) -> Path:
    """The same voxels at the same places, written along other axes."""
    image = nib.Nifti1Image(voxels(), AFFINE)
    turned = image.as_reoriented(
        nib.orientations.ornt_transform(nib.io_orientation(AFFINE), nib.orientations.axcodes2ornt(tuple(axes)))
    )
    path = folder / f"head-{axes}.nii.gz"
    path.write_bytes(phantoms.nifti(np.asarray(turned.dataobj), turned.affine, edit=edit))
    return path


# -------------------------------------------------------------------------------------------- what the server sends


def halved(study: Study) -> Settings:
    """By which about half of a volume is marked."""
    return Settings(threshold=round(float(np.median(study.whole.probability)), 3))


def sent(study: Study) -> dict[str, nib.Nifti1Image]:
    """What a file is called → its image."""
    paths = [Path(path) for path in downloads.write_viewed(study, halved(study), with_scan=True)]
    return {path.name: nib.load(path) for path in paths}


@pytest.mark.parametrize("axes", ORIENTATIONS)
def test_scan_and_mask_lie_where_the_file_says(network, tmp_path, axes):
    study = segment_files([scan(tmp_path, axes)], network)
    files = sent(study)
    assert [*files] == [f"scan_{study.token}.nii.gz", f"mask_{study.token}_{halved(study).name}.nii.gz"]
    viewed, mask = files.values()
    assert viewed.get_data_dtype() == mask.get_data_dtype() == np.uint8
    assert np.array_equal(viewed.affine, mask.affine)
    # Column, row and slice are those of the page.
    volume = read_volume(scan(tmp_path, axes))
    assert np.array_equal(np.asarray(viewed.dataobj), volume.slices.transpose(2, 1, 0))
    assert np.array_equal(np.asarray(mask.dataobj), study.masks(halved(study)).transpose(2, 1, 0))
    assert 0 < np.asarray(mask.dataobj).mean() < 1
    # And a place in mm is that of the file.
    canonical = nib.as_closest_canonical(viewed)
    assert np.allclose(canonical.affine, AFFINE)
    assert np.array_equal(np.asarray(canonical.dataobj), voxels())


def test_a_volume_that_does_not_say_how_it_lies_is_seen_as_its_slices_are(network, tmp_path):
    def forget(header):
        header["sform_code"] = header["qform_code"] = 0

    study = segment_files([scan(tmp_path, edit=forget)], network)
    assert study.volume.affine is None
    viewed = next(iter(sent(study).values()))
    assert nib.aff2axcodes(viewed.affine) == ("L", "P", "S")
    assert np.allclose(viewed.header.get_zooms(), (*study.volume.spacing[::-1], study.volume.slice_spacing))
    assert np.array_equal(np.asarray(viewed.dataobj), read_volume(study.paths[0]).slices.transpose(2, 1, 0))


def test_the_mask_is_that_of_the_settings_and_says_so(network, tmp_path):
    study = segment_files([scan(tmp_path)], network)
    settings = Settings(threshold=halved(study).threshold, min_area_px=20)
    (path,) = map(Path, downloads.write_viewed(study, settings, with_scan=False))
    assert path.name == f"mask_{study.token}_{settings.threshold:g}_20.nii.gz"
    assert np.array_equal(np.asarray(nib.load(path).dataobj), study.masks(settings).transpose(2, 1, 0))


def test_all_slices_have_one_window():
    slices = np.zeros((3, 64, 64), np.float32)
    slices[0, :32], slices[1, :32], slices[2, 0, 0] = 500, 1000, 90_000
    seen = in_eight_bits(slices)
    assert seen.dtype == np.uint8 and [part.max() for part in seen] == [128, 255, 255] and seen.min() == 0
    assert not in_eight_bits(np.full((2, 16, 16), 7, np.float32)).any()


def test_a_volume_that_is_too_large_is_seen_in_slices(network, tmp_path, monkeypatch):
    monkeypatch.setattr("space.reading.MAX_VIEWED_VOXELS", np.prod(SHAPE) - 1)
    assert segment_files([scan(tmp_path)], network).voxels is None
    monkeypatch.setattr("space.reading.MAX_VIEWED_VOXELS", np.prod(SHAPE))
    study = segment_files([scan(tmp_path)], network)
    assert study.nbytes >= study.voxels.nbytes == np.prod(SHAPE)


def test_a_slice_has_nothing_for_the_viewer(network):
    server = Server(network)
    page, chosen = SimpleNamespace(session_hash="page"), SimpleNamespace(moment=1, shown="", index=0)
    server.show_example(0.5, 0, 0, chosen, page)
    with pytest.raises(gr.Error, match=re.escape(NO_VOLUME)):
        server.view_volume(0.5, 0, 0, SimpleNamespace(moment=2, shown="", scan=True), page)


def test_niivue_is_the_file_that_the_list_names():
    folder = vendor.NIIVUE.parent
    listed = (folder / "README.md").read_text(encoding="utf-8")
    assert f"`{vendor.NIIVUE.name}`" in listed and hashlib.sha256(vendor.NIIVUE.read_bytes()).hexdigest() in listed
    licences = (folder / f"{vendor.NIIVUE.stem}.LICENSES.txt").read_text(encoding="utf-8")
    assert "BSD 2-Clause License" in licences and "Niivue" in licences
    # What it is made of, by its own comments.
    program = vendor.NIIVUE.read_text(encoding="utf-8")
    parts = re.findall(r"^// .*node_modules/((?:@[^/]+/)?[^/]+)", program, re.MULTILINE)
    assert parts and not [part for part in {*parts} if f"\n{part}, which" not in licences]


# ------------------------------------------------------------------------------------------------------- in a browser


@pytest.fixture
def page(page, url) -> Iterator[Page]:
    page.set_viewport_size({"width": WIDTH, "height": 720})  # a smaller canvas, whose pixels the processor draws
    yield page
    assert not [request for request in asked(page) if not request.startswith(url)]


def choose(page: Page, view: str):
    page.locator("#views label").filter(has_text=view).click()


def open_volume(page: Page, path: Path, view: str = "3 planes"):
    drop(page, path)
    expect(page.locator("#stage .caption")).to_contain_text("slice")
    choose(page, view)
    expect(page.locator("#volume .place")).to_contain_text(":")


def place(page: Page) -> tuple[np.ndarray, int]:
    """(mm towards right, anterior and superior side, grey value) under the crosshair."""
    text = page.locator("#volume .place").inner_text()
    *sides, grey = re.fullmatch(r"([RL]) ([\d.]+) ([AP]) ([\d.]+) ([SI]) ([\d.]+) mm: (\d+)", text).groups()
    signs = [1 if side == pair[0] else -1 for side, pair in zip(sides[::2], SIDES, strict=True)]
    return np.array(signs) * np.array(sides[1::2], float), int(grey)


def shown_slice(page: Page) -> int:
    return int(page.locator("#anatomy .slice").get_attribute("data-index"))


def picture(page: Page) -> np.ndarray:
    """The volume as it is drawn, int [H, W, 3]."""
    page.wait_for_timeout(400)  # until it is drawn
    content = page.locator("#volume canvas").screenshot()
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


def point(page: Page, x: float, y: float) -> tuple[float, float]:
    """On the screen, of a place as shares of the canvas."""
    frame = page.locator("#volume canvas").bounding_box()
    return frame["x"] + x * frame["width"], frame["y"] + y * frame["height"]


# Where the planes are drawn, as shares of the canvas.
TILES = {"coronal": (0.2, 0.25), "sagittal": (0.6, 0.25), "axial": (0.2, 0.75)}


def test_a_slice_needs_no_viewer(page):
    expect(page.locator("#views fieldset")).to_be_hidden()
    page.wait_for_timeout(500)
    assert not [request for request in asked(page) if "niivue" in request]
    assert page.locator("#volume canvas").count() == 0


@pytest.mark.parametrize("axes", ["RAS", "AIL"])
def test_the_crosshair_and_the_slice_are_at_one_place(page, tmp_path, axes):
    path = scan(tmp_path, axes)
    volume = read_volume(path)
    open_volume(page, path)
    assert len([request for request in asked(page) if "niivue" in request]) == 1
    expect(page.get_by_role("application", name="The volume in three planes")).to_be_visible()
    for x, y in TILES.values():
        page.mouse.click(*point(page, x, y))
        mm, grey = place(page)
        index = np.linalg.inv(volume.affine) @ (*mm, 1)
        assert np.allclose(index, np.round(index), atol=0.05)
        number, row, column = np.round(index[:3]).astype(int)
        assert grey == volume.slices[number, row, column]
        # The page follows.
        expect(page.locator("#anatomy .slice")).to_have_attribute("data-index", str(number))
    # In slices, the same pixel has the same value.
    choose(page, "Slices")
    frame = page.locator("#anatomy .slice").bounding_box()
    height, width = volume.slices.shape[1:]
    page.mouse.move(
        frame["x"] + (column + 0.5) / width * frame["width"], frame["y"] + (row + 0.5) / height * frame["height"]
    )
    expect(page.locator("#glass .probe")).to_have_text(f"{column}, {row}: {grey}")


def test_planes_lie_as_radiologists_look_at_them(page, tmp_path):
    open_volume(page, scan(tmp_path))
    # To the right, and down.
    towards = {"axial": ("R", "A"), "coronal": ("R", "S"), "sagittal": ("A", "S")}
    for plane, (x, y) in TILES.items():
        page.mouse.click(*point(page, x, y))
        before = place(page)[0]
        page.mouse.click(*point(page, x + 0.05, y))
        across = place(page)[0]
        page.mouse.click(*point(page, x + 0.05, y + 0.05))
        down = place(page)[0]
        horizontal, vertical = ("RAS".index(side) for side in towards[plane])
        assert across[horizontal] < before[horizontal] and down[vertical] < across[vertical], plane
        # Across the plane it stays where it is.
        assert len({*np.flatnonzero(down != before)}) == 2, plane


def test_wheel_keys_scrubber_and_profile_go_to_slices_in_both_viewers(page, tmp_path):
    open_volume(page, scan(tmp_path))
    page.mouse.click(*point(page, *TILES["axial"]))
    superior = place(page)[0][2]
    page.mouse.wheel(0, 100)
    until(lambda: place(page)[0][2] == superior + 3)
    page.keyboard.press("PageDown")
    page.keyboard.press("PageDown")
    assert place(page)[0][2] == superior - 3
    before = place(page)[0]
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowUp")
    assert np.array_equal(place(page)[0] - before, (-2, 2.5, 0))
    index = round((superior - 3 - AFFINE[2, 3]) / 3)
    expect(page.locator("#stage .caption")).to_contain_text(f"Axial slice {index + 1} of {SHAPE[2]}")
    page.locator("#scrubber input[type=range]").press("Home")
    assert place(page)[0][2] == AFFINE[2, 3]
    expect(page.locator("#stage .caption")).to_contain_text(f"Axial slice 1 of {SHAPE[2]}")
    profile = page.locator("#overview .profile")
    frame = profile.bounding_box()
    profile.click(position={"x": 4.5 / SHAPE[2] * frame["width"], "y": 10})
    assert place(page)[0][2] == AFFINE[2, 3] + 4 * 3
    expect(page.locator("#stage .caption")).to_contain_text(f"Axial slice 5 of {SHAPE[2]}")
    choose(page, "Slices")
    profile.click(position={"x": 9.5 / SHAPE[2] * frame["width"], "y": 10})
    expect(page.locator("#stage .caption")).to_contain_text(f"Axial slice 10 of {SHAPE[2]}")
    expect(page.locator("#scrubber input[type=range]")).to_have_value("10")
    choose(page, "3 planes")
    expect(page.locator("#volume .place")).to_contain_text(f"S {AFFINE[2, 3] + 9 * 3:.1f}")


def tint(page: Page) -> float:
    """How much more red than blue the volume is."""
    pixels = picture(page)
    return float((pixels[..., 0] - pixels[..., 2]).mean())


def test_the_mask_looks_as_on_slices(page, tmp_path):
    open_volume(page, scan(tmp_path))
    with page.expect_response("**/mask_*"):
        page.locator("#threshold input[type=range]").press("Home")
    page.locator("#opacity input[type=range]").press("End")
    full = tint(page)
    assert full > 20
    page.locator("#opacity input[type=range]").press("Home")
    none = tint(page)
    assert abs(none) < 5
    page.keyboard.press("o")
    assert none < tint(page) < full
    page.locator("#opacity input[type=range]").press("End")
    # Purple is redder than blue, but less so than orange.
    page.locator('#color input[value="#cc79a7"]').check()
    assert none < tint(page) < full / 2
    page.locator('#color input[value="#e69f00"]').check()
    assert tint(page) == pytest.approx(full, abs=3)
    # H is the page's key here too, whatever has the focus.
    page.locator("#volume canvas").focus()
    before = place(page)
    page.keyboard.down("h")
    assert tint(page) == pytest.approx(none, abs=3)
    page.keyboard.up("h")
    assert tint(page) == pytest.approx(full, abs=3)
    assert np.array_equal(place(page)[0], before[0])


def test_a_drag_changes_the_window_and_zero_puts_it_back(page, tmp_path):
    open_volume(page, scan(tmp_path))
    page.locator("#opacity input[type=range]").press("Home")
    before = picture(page).mean()

    def drag(button: str):
        page.mouse.move(*point(page, 0.3, 0.2))
        page.mouse.down(button=button)
        page.mouse.move(*point(page, 0.3, 0.7), steps=3)
        page.mouse.up(button=button)

    where = place(page)[0]
    drag("right")
    assert picture(page).mean() < before - 10
    page.keyboard.press("0")
    assert picture(page).mean() == pytest.approx(before, abs=1)
    page.get_by_role("button", name="Window").click()
    drag("left")
    assert picture(page).mean() < before - 10 and np.array_equal(place(page)[0], where)
    page.locator("#views").get_by_role("button", name="Reset").click()
    assert picture(page).mean() == pytest.approx(before, abs=1)


def test_in_3d_a_drag_and_keys_turn_the_head(page, tmp_path):
    open_volume(page, scan(tmp_path), "3-D")
    expect(page.get_by_role("application", name="The volume in 3-D")).to_be_visible()
    seen = [picture(page)]
    assert seen[0].max() > 50
    page.mouse.move(*point(page, 0.5, 0.5))
    page.mouse.down()
    page.mouse.move(*point(page, 0.6, 0.5), steps=3)
    page.mouse.up()
    seen.append(picture(page))
    page.keyboard.press("ArrowUp")
    seen.append(picture(page))
    page.keyboard.press("+")
    seen.append(picture(page))
    for one, other in pairwise(seen):
        assert np.abs(one - other).mean() > 1


def test_what_is_cleared_is_gone_and_the_view_stays_for_the_next_volume(page, tmp_path):
    open_volume(page, scan(tmp_path))
    page.get_by_role("button", name="Clear").click()
    expect(page.locator("#volume canvas")).to_have_count(0)
    expect(page.locator("#views fieldset")).to_be_hidden()
    expect(page.locator("#stage .invitation")).to_be_visible()
    drop(page, scan(tmp_path, "LPS"))
    expect(page.locator("#volume .place")).to_contain_text(":")
    page.locator("#examples button").nth(1).click()
    expect(page.locator("#layers .fill")).to_be_visible()
    expect(page.locator("#volume canvas")).to_have_count(0)
    # Gone before it was drawn.
    assert not page.locator("#drop-hint").filter(has_text="cannot be shown").count()


def test_files_that_are_gone_are_said_and_slices_are_there(page, tmp_path):
    page.route("**/scan_*", lambda route: route.fulfill(status=403))
    drop(page, scan(tmp_path))
    expect(page.locator("#stage .caption")).to_contain_text("slice")
    choose(page, "3 planes")
    expect(page.locator("#drop-hint")).to_contain_text("The volume is gone from the server; please open it again.")
    expect(page.locator("#anatomy .slice")).to_be_visible()
    expect(page.locator("#views [value=slices]")).to_be_checked()
    page.unroute("**/scan_*")
    choose(page, "3 planes")
    expect(page.locator("#volume .place")).to_contain_text(":")


@pytest.mark.parametrize("width", [390, 768])
def test_it_fits_on_narrow_screens(tab, url, tmp_path, width):
    page = visit(tab, url, width=width)
    open_volume(page, scan(tmp_path))
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    stage, canvas = (page.locator(place).bounding_box() for place in ("#stage", "#volume canvas"))
    assert stage["x"] <= canvas["x"] and canvas["x"] + canvas["width"] <= stage["x"] + stage["width"] <= width
    # The scrubber is there as a whole, and no control for what planes do not show.
    assert page.locator("#scrubber").evaluate("block => getComputedStyle(block).overflow") == "visible"
    expect(page.locator("#style")).to_be_hidden()
    choose(page, "Slices")
    expect(page.locator("#style")).to_be_visible()


# ------------------------------------------------------------------------------------------------------- the brush


@pytest.fixture
def painted(page, network, tmp_path) -> Iterator[tuple[Study, np.ndarray]]:
    """A volume in three planes with a brush of 5 voxels, of the shortest side, over it: what the network says of it."""
    path = scan(tmp_path, "AIL")
    # What lies where stays so, with and without the buttons of the brush.
    page.add_style_tag(content="#stage { --stage-side: 420px !important; }")
    open_volume(page, path)
    page.locator("#tools [data-tool=brush]").click()
    page.locator("#brush-size").fill("5")
    study = segment_files([path], network)
    return study, study.masks(Settings()).copy()


def stroke(page: Page, start: tuple[float, float], end: tuple[float, float]) -> np.ndarray:
    """A stroke with the mouse, of which the server hears; returns the crosshair's place, which stays where it is."""
    before = place(page)[0]
    with page.expect_request("**/queue/join*"):
        page.mouse.move(*point(page, *start))
        page.mouse.down()
        page.mouse.move(*point(page, *end), steps=3)
        page.mouse.up()
    assert np.array_equal(place(page)[0], before)
    return before


def voxel_at(page: Page, study: Study, x: float, y: float) -> tuple[int, ...]:
    """Slice, row and column of what lies at a place of the canvas, by the crosshair, which goes where it is clicked."""
    page.locator("#tools [data-tool=brush]").click()
    page.mouse.click(*point(page, x, y))
    index = np.linalg.inv(study.volume.affine) @ (*place(page)[0], 1)
    page.locator("#tools [data-tool=brush]").click()
    return tuple(np.round(index[:3]).astype(int))


def disc(mask: np.ndarray, volume, middle: tuple[int, ...], fixed: int, size: int, value: bool):
    """A disc in the plane across an axis of [slice, row, column], `size` shortest sides of a voxel wide."""
    sizes = np.linalg.norm(volume.affine[:3, :3], axis=0)
    away = [(np.arange(count) - at) * side for count, at, side in zip(mask.shape, middle, sizes, strict=True)]
    squares = sum(
        np.square(np.reshape(one, np.roll([-1, 1, 1], axis))) for axis, one in enumerate(away) if axis != fixed
    )
    inside = np.broadcast_to(squares <= (size / 2 * sizes.min()) ** 2 + 1e-6, mask.shape).copy()
    inside[
        tuple(slice(None) if axis != fixed else np.arange(mask.shape[axis]) != middle[axis] for axis in range(3))
    ] = False
    mask[inside] = value


def save_whole_mask(page: Page) -> nib.Nifti1Image:
    with page.expect_download() as started:
        page.get_by_role("button", name="Whole mask (NIfTI)").click()
    assert started.value.suggested_filename.endswith("_corrected_mask.nii.gz")
    return nib.Nifti1Image.from_bytes(gzip.decompress(Path(started.value.path()).read_bytes()))


def line(first: tuple[int, ...], last: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """All voxels from one to another, along one axis."""
    way = np.subtract(last, first)
    count = np.abs(way).max()
    assert count == np.abs(way).sum() > 0
    for step in range(count + 1):
        yield tuple(np.add(first, way // count * step))


def test_strokes_in_all_planes_are_the_mask_that_is_measured_and_saved_to_the_voxel(page, painted, tmp_path):
    study, expected = painted
    # Which axis of [slice, row, column] goes towards the patient's right, anterior and superior side.
    axes = np.abs(study.volume.affine[:3, :3]).argmax(axis=1)
    for plane, across in (("coronal", axes[1]), ("sagittal", axes[0]), ("axial", axes[2])):
        x, y = TILES[plane]
        first, last = (voxel_at(page, study, *place) for place in ((x, y), (x + 0.08, y)))
        page.locator("#brush").get_by_role("button", name="Paint").click()
        stroke(page, (x, y), (x + 0.08, y))
        for middle in line(first, last):
            disc(expected, study.volume, middle, across, 5, value=True)
        page.locator("#brush").get_by_role("button", name="Erase").click()
        stroke(page, (x, y), (x, y))
        disc(expected, study.volume, first, across, 5, value=False)
    report = page.locator("#report")
    expect(report).to_contain_text(f"{expected.sum():,} voxels")
    expect(report.get_by_role("heading")).to_contain_text("corrected by hand")
    saved, original = save_whole_mask(page), nib.load(tmp_path / "head-AIL.nii.gz")
    assert saved.shape == original.shape and np.allclose(saved.affine, original.affine)
    whole = nib.Nifti1Image.from_bytes(gzip.decompress(study.volume.to_nifti(expected)))
    assert np.array_equal(np.asarray(saved.dataobj), np.asarray(whole.dataobj))
    # In slices, the brush is over the same mask.
    choose(page, "Slices")
    for index in np.flatnonzero(expected.any(axis=(1, 2)))[:2]:
        page.locator("#scrubber input[type=number]").fill(str(index + 1))
        expect(page.locator("#stage .caption")).to_contain_text(f"slice {index + 1} of")
        expect(page.locator("#stage.painting")).to_be_visible()
        until(lambda index=index: np.array_equal(painted_on(page), expected[index]))
    names = [
        f"head-AIL-slice-{index + 1:03}" for index in np.flatnonzero((expected != study.masks(Settings())).any((1, 2)))
    ]
    with page.expect_download() as started:
        page.locator("#save-pairs").click()
    with zipfile.ZipFile(started.value.path()) as archive:
        assert {Path(name).stem for name in archive.namelist() if "masks" in name} == {*names}
        for name in names:
            mask = np.asarray(Image.open(archive.open(f"masks/{name}.png"))) > 0
            assert np.array_equal(mask, expected[int(name[-3:]) - 1])
        archive.extractall(tmp_path / "corrections")
    assert main(["check", str(tmp_path / "corrections")]) == 0


def painted_on(page: Page) -> np.ndarray:
    """The mask under the brush in slices."""
    return np.array(
        page.locator("#paint canvas").evaluate(
            """canvas => Array.from({length: canvas.height}, (_, row) => [...canvas.getContext('2d')
            .getImageData(0, row, canvas.width, 1).data].filter((_, index) => index % 4 === 3).map(Boolean))"""
        )
    )


def voxels_found(page: Page) -> int:
    (count,) = re.findall(r"([\d,]+) voxels", page.locator("#report").inner_text())
    return int(count.replace(",", ""))


def test_undo_keys_and_the_networks_mask_in_planes(page, painted):
    _, own = painted
    report, undo = page.locator("#report"), page.locator("#undo")
    expect(undo).to_be_disabled()
    counts = [int(own.sum())]
    for x, y in ((0.2, 0.68), (0.22, 0.82)):
        stroke(page, (x, y), (x + 0.05, y))
        until(lambda: voxels_found(page) > counts[-1])
        counts.append(voxels_found(page))
    page.keyboard.press("Control+z")
    expect(report).to_contain_text(f"{counts[1]:,} voxels")
    undo.click()
    expect(report).to_contain_text(f"{counts[0]:,} voxels")
    expect(report).not_to_contain_text("corrected by hand")
    page.keyboard.press("Control+Shift+z")
    # What was corrected stays, whatever mask the network has by another threshold.
    with page.expect_response("**/mask_*"):
        page.locator("#threshold input[type=range]").press("End")
    page.locator("#redo").click()
    expect(page.locator("#save-pairs")).to_be_enabled()
    page.locator("#uncorrect").click()
    expect(report).not_to_contain_text("corrected by hand")
    expect(page.locator("#save-pairs")).to_be_disabled()
    # By keys: at the crosshair, in the plane of the slices.
    page.locator("#brush-size").fill("1")
    page.locator("#volume canvas").focus()
    page.keyboard.down("Space")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    before = voxels_found(page)
    with page.expect_request("**/queue/join*"):
        page.keyboard.up("Space")
    until(lambda: voxels_found(page) == before + 3)
    with page.expect_request("**/queue/join*"):
        page.keyboard.press("e")
    until(lambda: voxels_found(page) == before + 2)
    # There is nothing to paint on in 3-D.
    choose(page, "3-D")
    expect(page.locator("#brush")).to_be_hidden()
    assert page.locator("#volume .ring").is_hidden()


NO_WEBGL2 = """
const {getContext} = HTMLCanvasElement.prototype;
HTMLCanvasElement.prototype.getContext = function(kind, ...rest) {
    return kind === 'webgl2' ? null : getContext.call(this, kind, ...rest);
};
"""


def test_without_webgl2_there_are_slices(browser, url, tmp_path):
    context = browser.new_context()
    context.add_init_script(NO_WEBGL2)
    page = context.new_page()
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(url)
    expect(page.locator("#upload input")).to_have_count(2)
    drop(page, scan(tmp_path))
    expect(page.locator("#stage .caption")).to_contain_text(f"of {SHAPE[2]}")
    page.wait_for_timeout(500)
    expect(page.locator("#views fieldset")).to_be_hidden()
    expect(page.locator("#anatomy .slice img").first).to_be_visible()
    assert not [request for request in requests if "niivue" in request]
    context.close()
