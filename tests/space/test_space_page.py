"""The page in a browser, with a tiny random network behind it."""

import base64
import io
import re
import threading
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import phantoms
import pytest
from gradio_client import Client, handle_file
from pages import BAD_FILES, CountedNetwork, encoded, saved, served, slice_of, zipped
from PIL import Image
from playwright.sync_api import Page, expect
from visits import PATIENCE_MS, asked, choose_example, drop, leave, opened, style_of, visit

import app
from modeling_unet import InvalidImageError, read_mask
from modeling_unet.comparison import compare
from modeling_unet.overlay import DEFAULT_ALPHA, DEFAULT_COLOR
from space import views
from space.studies import Study
from space.views import EXAMPLES, ON_ARRIVAL, describe, draw_slice


BY_HAND = [path.parents[1] / "masks" / path.name for path in EXAMPLES]


@pytest.fixture
def page(page, network) -> Page:
    network.runs.clear()
    return page


def choose_mask(page: Page, path: Path):
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Compare with a mask").click()
    chooser.value.set_files(path)


def measured(page: Page, name: str) -> str:
    cell = page.locator("#report dl > div").filter(has=page.locator("dt", has_text=name)).first
    return cell.locator("dd").inner_text().split("\n")[0]


def download(page: Page, label: str, folder: Path) -> Path:
    with page.expect_download() as started:
        page.get_by_role("button", name=f"Save {label}", exact=True).click()
    path = folder / started.value.suggested_filename
    started.value.save_as(path)
    return path


def wait_for_runs(page: Page, network: CountedNetwork, count: int):
    while len(network.runs) < count:
        page.wait_for_timeout(20)


# ---------------------------------------------------------------------------------------------------------- one slice


def test_the_page_asks_nobody_else(page, url):
    choose_example(page)
    assert asked(page)
    assert [request for request in asked(page) if not request.startswith(url)] == []
    expect(page.locator("#footer")).to_contain_text("Not a medical device")


def test_an_example_shows_its_overlay_its_truth_and_how_they_agree(page, network):
    choose_example(page)
    anatomy, fill = page.locator("#anatomy img").first, page.locator("#layers .fill")
    assert anatomy.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [512, 512]
    assert fill.bounding_box() == pytest.approx(anatomy.bounding_box())
    assert float(style_of(fill, "opacity")) == DEFAULT_ALPHA
    cut = network.segmenter(EXAMPLES[4]).cut(spacing=(0.49, 0.49))
    agreement = compare(cut.mask, read_mask(BY_HAND[4]), cut.spacing)
    assert measured(page, "Area") == f"{cut.area_mm2:,.0f} mm²"
    assert measured(page, "Dice") == f"{agreement.dice:.2f}"
    assert measured(page, "HD95") == f"{agreement.hd95_mm:.1f} mm"
    expect(page.locator("#layers .truth")).to_be_visible()
    expect(page.locator("#report .detail").last).to_have_text(re.compile("and .* smaller ones|Model tiny-unet"))
    expect(page.locator("#report")).to_contain_text("Model tiny-unet, revision v1")
    first = page.locator("#report tbody tr").first.locator("td")
    assert first.nth(1).inner_text() == f"{cut.lesions[0].area_mm2:,.0f}"
    assert first.last.inner_text() == f"{cut.lesions[0].mean_probability:.2f}"


def test_opacity_never_asks_the_server(page):
    choose_example(page)
    fill, slider = page.locator("#layers .fill"), page.locator("#opacity input[type=range]")
    before = len(asked(page))

    slider.scroll_into_view_if_needed()
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


def test_style_colour_truth_and_hiding_never_ask_the_server(page):
    choose_example(page)
    fill, contour = page.locator("#layers .fill"), page.locator("#layers .contour")
    heatmap, truth = page.locator("#anatomy .heatmap"), page.locator("#layers .truth")
    before = len(asked(page))

    page.get_by_label("Yellow").check()
    expect(fill).to_have_css("background-color", "rgb(240, 228, 66)")
    page.get_by_label("Outline", exact=True).check()
    expect(contour).to_be_visible()
    expect(fill).to_be_hidden()
    expect(page.locator("#tools .bar")).to_be_hidden()
    page.get_by_label("Heat map").check()
    expect(heatmap).to_be_visible()
    expect(contour).to_be_hidden()
    expect(page.locator("#tools .bar")).to_be_visible()
    expect(page.locator("#color")).to_be_hidden()
    page.get_by_label("Outline drawn by hand").uncheck()
    expect(truth).to_be_hidden()
    page.get_by_label("Outline drawn by hand").check()

    button = page.get_by_role("button", name="Hold to hide")
    button.hover()
    page.mouse.down()
    expect(heatmap).to_be_hidden()
    expect(truth).to_be_hidden()
    page.mouse.up()
    expect(heatmap).to_be_visible()
    button.focus()
    for key in ("h", "Space"):
        page.keyboard.down(key)
        expect(heatmap).to_be_hidden()
        page.keyboard.up(key)
        expect(heatmap).to_be_visible()

    page.get_by_label("Fill").check()
    expect(page.locator("#color")).to_be_visible()
    page.wait_for_timeout(500)
    assert asked(page)[before:] == []


def test_threshold_and_hiding_pieces_cut_again_without_the_network(page, network):
    choose_example(page)
    report, layer = page.locator("#report"), page.locator("#layers .fill")
    cut = network.segmenter(EXAMPLES[4])
    large = cut.cut(min_area_px=500)
    network.runs.clear()
    before = layer.get_attribute("style")
    page.locator("#min-area input[type=range]").press("End")
    expect(report).to_contain_text(f"{large.lesion_mask.sum():,} px")
    assert layer.get_attribute("style") != before
    slider = page.locator("#threshold input[type=range]")
    slider.press("Home")
    expect(report).to_contain_text(f"{512 * 512:,} px")
    slider.press("End")
    expect(report).to_contain_text("No tumour found")
    assert measured(page, "Area") == "0 mm²"
    assert network.runs == []


def test_a_pixel_size_gives_millimetres_without_the_network(page, network, tmp_path):
    drop(page, saved(tmp_path / "scan.png", slice_of(60, 80)))
    expect(page.locator("#stage .caption")).to_contain_text("scan.png")
    page.locator("#threshold input[type=range]").press("Home")
    page.locator("#spacing input").fill("0.5")
    expect(page.locator("#report")).to_contain_text("1,200 mm²")
    assert measured(page, "Longest diameter") == "50.0 mm"
    expect(page.locator("#report thead")).to_contain_text("mm²")
    assert network.runs == [1]


def test_an_upload_that_browsers_cannot_draw_is_shown(page, network, tmp_path):
    path = saved(tmp_path / "scan.tif", slice_of(60, 40, np.uint16))
    drop(page, path)
    expect(page.locator("#stage .caption")).to_contain_text("scan.tif40 × 60 px")
    anatomy = page.locator("#anatomy img").first
    assert anatomy.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [40, 60]
    assert page.locator("#layers .fill").bounding_box() == pytest.approx(anatomy.bounding_box())
    shown = base64.b64decode(anatomy.get_attribute("src").partition(",")[2])
    np.testing.assert_array_equal(Image.open(io.BytesIO(shown)).convert("RGB"), network.segmenter(path).image)
    expect(page.locator("#layers .truth")).to_have_count(0)


@pytest.mark.parametrize("name", ["text.png", "huge.png"])
def test_a_bad_upload_is_one_sentence_on_the_page(page, tmp_path, name):
    content, reason = BAD_FILES[name]
    (tmp_path / name).write_bytes(content)
    choose_example(page)
    drop(page, tmp_path / name)
    sentence = re.compile(rf"^Error\s*×?\s*{name}: [^\n]*{reason}[^\n]*\.$")
    expect(page.get_by_test_id("toast-body")).to_have_text(sentence, use_inner_text=True)
    assert "Traceback" not in page.content()
    # What was there before stays, and can be saved.
    expect(page.locator("#stage .caption")).to_contain_text(describe(EXAMPLES[4]))
    expect(page.locator("#layers .fill")).to_be_visible()
    expect(page.locator("#examples button").nth(4)).to_have_attribute("aria-pressed", "true")
    assert Image.open(download(page, "Mask", tmp_path)).size == (512, 512)


@pytest.mark.parametrize("spacing", ["0.001", "-1"])
def test_a_pixel_size_that_cannot_be_is_said_once_and_the_slice_stays(page, network, tmp_path, spacing):
    drop(page, saved(tmp_path / "scan.png", slice_of(60, 80)))
    expect(page.locator("#stage .caption")).to_contain_text("scan.png")
    page.locator("#spacing input").fill(spacing)
    toast = page.get_by_test_id("toast-body")
    expect(toast).to_contain_text(f"spacing is {spacing} mm; a pixel may have")
    with page.expect_response("**/queue/join*"):
        page.locator("#examples button").nth(4).click()
    expect(page.locator("#examples button").nth(4)).to_have_attribute("aria-pressed", "false")
    assert toast.inner_text().count("a pixel may have") == 1
    expect(page.locator("#stage .caption")).to_contain_text("scan.png")


def test_of_two_choices_both_are_segmented_and_the_second_is_shown(page, network, tmp_path):
    network.gate.clear()
    drop(page, saved(tmp_path / "a.png", slice_of(40, 30)))
    wait_for_runs(page, network, 1)
    with page.expect_response("**/queue/join*"):
        drop(page, saved(tmp_path / "b.png", slice_of(30, 40)))
    network.gate.set()
    expect(page.locator("#stage .caption")).to_contain_text("b.png")
    expect(page.locator("#examples [aria-pressed=true]")).to_have_count(0)
    page.wait_for_timeout(500)
    assert network.runs == [1, 1]


def test_the_network_runs_once_for_an_example_whoever_comes(page, network, browser, url):
    choose_example(page, 5)
    first, other = list(network.runs), opened(browser, url)
    for index in (5, EXAMPLES.index(ON_ARRIVAL)):
        choose_example(other, index)
    other.close()
    assert network.runs == first


def test_a_choice_overtakes_an_upload_that_takes_long(page, network, tmp_path):
    held = []
    page.route("**/gradio_api/upload*", lambda route: held.append(route))
    page.set_input_files("#upload input[type=file]", saved(tmp_path / "late.png", slice_of(40, 30)))
    while not held:
        page.wait_for_timeout(20)
    choose_example(page, 4)
    with page.expect_request("**/queue/join*"):
        held[0].continue_()
    page.wait_for_timeout(1000)
    expect(page.locator("#stage .caption")).to_contain_text(describe(EXAMPLES[4]))
    expect(page.locator("#examples button").nth(4)).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_test_id("toast-body")).to_have_count(0)


def test_the_page_numbers_what_its_visitor_does(page, tmp_path):
    """By that the server knows what came last, whichever request arrives first."""
    moments = []

    def note(request):
        if "/queue/join" in request.url:
            body = request.post_data_json
            said, data = body.get("event_data") or {}, body["data"]
            # The overview has none: it takes the newest settings.
            moments.extend([said["moment"]] if "moment" in said else [data[0]["moment"]] if data else [])

    page.on("request", note)
    files = {f"{name}.png": encoded(slice_of(40, 30, seed=seed)) for seed, name in enumerate("ab")}
    drop(page, zipped(tmp_path / "slices.zip", files))
    expect(page.locator("#overview h2")).to_contain_text("2 slices")
    page.locator("#overview .gallery button").nth(1).click()
    expect(page.locator("#stage .caption")).to_contain_text("b.png")
    page.locator("#threshold input[type=range]").press("Home")
    expect(page.locator("#report")).to_contain_text("1,200 px")
    choose_mask(page, saved(tmp_path / "truth.png", np.eye(40, 30, dtype=np.uint8) * 255))
    expect(page.locator("#layers .truth")).to_be_visible()
    assert len(moments) >= 4
    assert moments == sorted(set(moments)) and moments[0] > 0


@pytest.mark.parametrize("ends", ["shown", "refused"])
def test_a_choice_that_is_ready_after_a_later_one_changes_nothing(page, network, monkeypatch, tmp_path, ends):
    started, late = threading.Event(), threading.Event()

    def slow(study: Study, run: str) -> str:
        if study.shown.title == "late.png":
            started.set()
            assert late.wait(PATIENCE_MS / 1000)
            if ends == "refused":
                raise InvalidImageError("late.png cannot be shown.")
        return draw_slice(study, run)

    monkeypatch.setattr(views, "draw_slice", slow)
    drop(page, saved(tmp_path / "late.png", slice_of(40, 30)))
    assert started.wait(PATIENCE_MS / 1000)
    choose_example(page, 4)
    late.set()
    page.wait_for_timeout(1000)
    expect(page.locator("#stage .caption")).to_contain_text(describe(EXAMPLES[4]))
    expect(page.get_by_test_id("toast-body")).to_have_count(0)
    assert Image.open(download(page, "Mask", tmp_path)).size == (512, 512)


def test_a_choice_after_one_that_fails_is_not_lost(page, network, tmp_path):
    (tmp_path / "text.png").write_bytes(BAD_FILES["text.png"][0])
    network.gate.clear()
    drop(page, saved(tmp_path / "a.png", slice_of(40, 30)))
    wait_for_runs(page, network, 1)
    drop(page, tmp_path / "text.png")
    # Before the click, which closes it.
    expect(page.get_by_test_id("toast-body")).to_contain_text("text.png")
    page.locator("#examples button").nth(4).click()
    network.gate.set()
    expect(page.locator("#stage .caption")).to_contain_text(describe(EXAMPLES[4]))
    expect(page.locator("#layers .fill")).to_be_visible()


def test_a_mask_drawn_by_hand_is_compared(page, network, tmp_path):
    path = saved(tmp_path / "scan.png", slice_of(60, 44))
    cut = network.segmenter(path)
    truth = np.zeros((60, 44), bool)
    truth[10:40, 10:30] = True
    drop(page, path)
    expect(page.locator("#stage .caption")).to_contain_text("scan.png")
    choose_mask(page, saved(tmp_path / "wrong.png", truth[:30]))
    expect(page.get_by_test_id("toast-body")).to_contain_text("wrong.png: the mask has 44 × 30 pixels")
    choose_mask(page, saved(tmp_path / "truth.png", truth))
    expect(page.locator("#layers .truth")).to_be_visible()
    agreement = compare(cut.mask, truth)
    assert measured(page, "Dice") == f"{agreement.dice:.2f}"
    expect(page.locator("#report dl")).to_contain_text(f"IoU {agreement.iou:.2f}")
    assert measured(page, "HD95") == f"{agreement.hd95_px:.1f} px"
    assert network.runs == [1]


def test_saved_files_have_the_slices_own_pixels(page, network, url, tmp_path):
    path = saved(tmp_path / "scan.png", slice_of(60, 44))
    drop(page, path)
    expect(page.locator("#stage .caption")).to_contain_text("scan.png")
    page.get_by_label("Outline", exact=True).check()
    expected = network.segmenter(path)

    mask = download(page, "Mask", tmp_path)
    client = Client(url, verbose=False, download_files=tmp_path / "downloads")
    *_, answered = client.predict(handle_file(path), api_name="/segment")
    np.testing.assert_array_equal(Image.open(mask), Image.open(answered))
    np.testing.assert_array_equal(read_mask(mask), expected.mask)
    assert mask.name == "scan_mask.png"

    overlay = np.asarray(Image.open(download(page, "Overlay", tmp_path)).convert("RGB"))
    np.testing.assert_array_equal(overlay, expected.overlay(DEFAULT_COLOR, DEFAULT_ALPHA, "contour"))
    probability = np.asarray(Image.open(download(page, "Probability", tmp_path)))
    np.testing.assert_allclose(probability / 65535, network.segmenter(path).probability, atol=1e-5)
    report = download(page, "Report", tmp_path).read_text(encoding="utf-8")
    assert "scan.png" in report and "Not a medical device" in report and "tiny-unet" in report
    assert "http:" not in report and "<script" not in report


# ------------------------------------------------------------------------------------------- many slices, volumes


def test_many_slices_have_a_gallery_a_table_and_an_archive(page, network, tmp_path):
    files = {f"{name}.png": encoded(slice_of(40, 30, seed=seed)) for seed, name in enumerate("abc")}
    drop(page, zipped(tmp_path / "slices.zip", {**files, "notes.txt": b"no slice"}))
    overview = page.locator("#overview")
    expect(overview.locator("h2")).to_contain_text("3 slices")
    expect(overview.locator("h2")).to_contain_text("1 could not be read")
    expect(overview.locator(".warnings")).to_contain_text("notes.txt: the file is not an image")
    assert network.runs == [3]
    overview.locator(".gallery button").nth(2).click()
    expect(page.locator("#stage .caption")).to_contain_text("c.png")
    rows = overview.locator("tbody tr")
    expect(rows).to_have_count(3)
    rows.nth(1).get_by_role("button").click()
    expect(page.locator("#stage .caption")).to_contain_text("b.png")
    page.locator("#threshold input[type=range]").press("Home")
    expect(rows.nth(0)).to_contain_text("1,200")
    page.locator("#spacing input").fill("0.5")
    expect(overview.locator("thead")).to_contain_text("Area, mm²")
    page.locator("#spacing input").fill("")
    expect(overview.locator("thead")).to_contain_text("Area, px")
    expect(page.get_by_test_id("toast-body")).to_have_count(0)
    assert network.runs == [3]
    assert download(page, "All results (ZIP)", tmp_path).name == "slices_results.zip"


def test_another_stack_of_a_volume_is_chosen(page, tmp_path):
    archive = tmp_path / "study.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for series, count in ((1, 3), (2, 4)):
            for number in range(1, count + 1):
                pixels = phantoms.noise(32, 24, seed=number)
                tags = {"SeriesInstanceUID": f"1.2.{series}", "SliceThickness": 6 - series}
                file.writestr(f"{series}/{number}", phantoms.dicom(pixels, number, **tags))
    drop(page, archive)
    stacks = page.get_by_label("Stack of slices in these files")
    expect(stacks.locator("option")).to_have_count(2)
    shown = stacks.input_value()
    expect(page.locator("#stage .caption")).to_contain_text(f"of {3 if shown.startswith('1') else 4}")
    stacks.select_option(index=1 if shown.startswith("1") else 0)
    expect(page.locator("#stage .caption")).to_contain_text(f"of {4 if shown.startswith('1') else 3}")
    choose_example(page)
    expect(stacks).to_have_count(0)


def test_a_volume_is_scrubbed_measured_and_saved(page, network, tmp_path):
    voxels = np.random.default_rng(0).integers(0, 255, (32, 24, 5), dtype=np.int16)
    nib.save(nib.Nifti1Image(voxels, np.diag([-0.5, 0.5, 4, 1])), tmp_path / "head.nii.gz")
    drop(page, tmp_path / "head.nii.gz")
    expect(page.locator("#overview .profile rect")).to_have_count(5)
    expect(page.locator("#report .warnings")).to_contain_text("NIfTI")
    spacing = page.locator("#spacing")
    expect(spacing).to_contain_text("Pixel size: 0.5 × 0.5 mm (file)")
    expect(spacing.locator("input")).to_be_disabled()
    runs = list(network.runs)
    scrubber = page.locator("#scrubber input[type=range]")
    scrubber.press("Home")
    expect(page.locator("#stage .caption")).to_contain_text("Axial slice 1 of 5")
    scrubber.press("ArrowRight")
    expect(page.locator("#stage .caption")).to_contain_text("Axial slice 2 of 5")
    page.locator("#threshold input[type=range]").press("Home")
    expect(page.locator("#report")).to_contain_text(f"{voxels.size:,} voxels")
    assert measured(page, "Volume") == f"{voxels.size * 0.001:.1f} mL"
    assert network.runs == runs
    saved_mask = nib.load(download(page, "Whole mask (NIfTI)", tmp_path / "out"))
    assert np.asarray(saved_mask.dataobj).all()
    assert saved_mask.shape == voxels.shape
    # Others put the single slice back.
    choose_example(page)
    expect(scrubber).to_be_hidden()
    expect(page.get_by_role("button", name="Whole mask")).to_be_hidden()
    expect(spacing).to_contain_text("Pixel size: 0.49 × 0.49 mm (data set)")
    drop(page, saved(tmp_path / "scan.png", slice_of(60, 40)))
    expect(spacing).to_contain_text("0: unknown")
    expect(spacing.locator("input")).to_be_enabled()


# ------------------------------------------------------------------------------------------------- all kinds of people


def test_visitors_do_not_see_each_other(page, browser, url, tmp_path):
    drop(page, saved(tmp_path / "scan.png", slice_of(60, 80)))
    expect(page.locator("#stage .caption")).to_contain_text("scan.png")
    other = opened(browser, url)
    try:
        other.locator("#threshold input[type=range]").press("Home")
        expect(other.locator("#report")).to_contain_text(f"{512 * 512:,} px")
        expect(other.locator("#stage .caption")).to_contain_text(describe(ON_ARRIVAL))
        expect(page.locator("#report")).not_to_contain_text(f"{512 * 512:,} px")
        assert Image.open(download(page, "Mask", tmp_path)).size == (80, 60)
    finally:
        other.close()


def test_every_control_has_a_name(page):
    choose_example(page)
    for role in ("button", "slider", "spinbutton", "checkbox", "radio"):
        for control in page.get_by_role(role).all():
            assert control.evaluate(
                "e => (e.getAttribute('aria-label') || e.getAttribute('title') || e.innerText"
                " || [...(e.labels || [])].map(label => label.innerText).join(' ')).trim()"
            ), control.evaluate("e => e.outerHTML")
    assert all(image.get_attribute("alt") is not None for image in page.locator("img").all())


def test_dark_mode_is_dark(tab, url):
    page = visit(tab, url, color_scheme="dark")
    choose_example(page)
    for place in ("body", "#report", "#controls", "#upload label"):
        background = re.findall(r"\d+", style_of(page.locator(place).first, "backgroundColor"))
        text = re.findall(r"\d+", style_of(page.locator(place).first, "color"))
        assert max(map(int, background[:3])) < 80, place
        assert min(map(int, text[:3])) > 120, place


def test_a_phone_needs_no_horizontal_scrolling(tab, url, tmp_path):
    page = visit(tab, url, width=390)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    choose_example(page)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.locator("#layers .fill").bounding_box()["width"] > 300
    expect(page.locator("#truth")).to_be_visible()
    files = {f"a_long_name_of_a_slice_{number}.png": encoded(slice_of(30, 30, seed=number)) for number in range(9)}
    drop(page, zipped(tmp_path / "slices.zip", files))
    expect(page.locator("#overview h2")).to_contain_text("9 slices")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    expect(page.locator("#truth")).to_be_hidden()  # no outline was drawn by hand here
    verdict = page.locator("#report .verdict")
    verdict.evaluate("element => { element.textContent = 'many words '.repeat(20); }")
    assert verdict.evaluate("element => getComputedStyle(element, '::before').width") == "10px"  # no ellipse


def test_who_finds_the_queue_full_is_told_to_come_back(tab, network):
    crowded = app.build_app(network)
    crowded.queue(max_size=0)
    with served(crowded) as url:
        page = visit(tab, url)
        page.locator("#examples button").first.click()
        expect(page.get_by_test_id("toast-body")).to_contain_text("currently busy. Please try again")
        leave(page)
