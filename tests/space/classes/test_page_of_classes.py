"""The page with a model of several classes: their colours, the legend, what is saved; in a browser and without."""

import csv
import io
import zipfile
from pathlib import Path

import gradio as gr
import nibabel as nib
import numpy as np
import phantoms
import pytest
from pages import CountedNetwork, load, saved
from PIL import Image
from playwright.sync_api import expect
from surroundings import ROOT
from tiny import save_nested_model
from visits import drop

from modeling_unet.image_processing_unet import OVERLAPPING, read_labels
from modeling_unet.overlay import CLASS_COLORS, parse_color
from space import downloads, views
from space.downloads import Look
from space.events import Server
from space.network import Origin
from space.reading import segment_files
from space.studies import Settings, Study


NAMES = ["whole", "core", "=rim"]
ORIGIN = Origin("nested")


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> CountedNetwork:
    return load(save_nested_model(tmp_path_factory.mktemp("model"), OVERLAPPING))


@pytest.fixture(scope="module")
def squares(tmp_path_factory) -> Path:
    """A slice with squares in each other, of which the network takes each for another class."""
    image = np.zeros((48, 48), np.uint8)
    image[6:42, 6:42], image[10:30, 10:30], image[16:24, 16:24] = 100, 180, 250
    return saved(tmp_path_factory.mktemp("slices") / "squares.png", image)


@pytest.fixture(scope="module")
def study(network, squares) -> Study:
    return segment_files([squares], network)


@pytest.fixture(scope="module")
def volume(network, tmp_path_factory) -> Study:
    voxels = np.zeros((48, 48, 3), np.int16)
    voxels[6:42, 6:42], voxels[10:30, 10:30], voxels[16:24, 16:24] = 100, 180, 250
    path = tmp_path_factory.mktemp("scans") / "scan.nii.gz"
    path.write_bytes(phantoms.nifti(voxels))
    return segment_files([path], network)


def shown_color(page, x: float, y: float) -> tuple[int, ...]:
    """The colour on the screen at a place of the slice, in shares of its sides."""
    box = page.locator("#anatomy .slice").bounding_box()
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    return picture.getpixel((round(box["x"] + x * box["width"]), round(box["y"] + y * box["height"])))


class TestBrowser:
    def test_each_class_has_its_colour_and_can_be_hidden(self, page, squares):
        drop(page, squares)
        legend = page.locator("#report .legend")
        expect(page.locator("#stage .caption")).to_contain_text("squares")
        assert legend.locator("label").all_inner_texts() == [
            f"{name}\n{area}" for name, area in zip(NAMES, areas_of(page), strict=True)
        ]
        set_opacity(page, 1)
        whole, core, rim = map(parse_color, CLASS_COLORS[:3])
        heart, around = (20 / 48, 20 / 48), (13 / 48, 13 / 48)
        assert (shown_color(page, *heart), shown_color(page, *around)) == (rim, core)
        legend.get_by_text("=rim").click()
        assert (shown_color(page, *heart), shown_color(page, *around)) == (core, core)
        page.keyboard.press("Shift+Tab")  # to the box of the class before
        page.keyboard.press("Space")
        assert shown_color(page, *heart) == whole
        # What is hidden stays hidden when another threshold draws all anew.
        page.locator("#threshold input[type=number]").fill("0.4")
        expect(page.locator('#layers [data-cut^="0.4"]')).to_have_count(1)
        assert [box.is_checked() for box in legend.locator("input").all()] == [True, False, False]
        assert shown_color(page, *heart) == whole
        expect(page.locator("#color")).to_have_count(0)
        with page.expect_download() as download:
            page.locator("#saving .mask").click()
        assert np.array_equal(np.unique(read_labels(download.value.path())), [0, 1, 2, 3])
        with page.expect_download() as download:
            page.locator("#saving .overlay").click()
        assert download.value.suggested_filename == "squares_overlay.png"

    def test_the_brush_says_why_it_is_not_there(self, page):
        expect(page.locator("#tools [data-tool=brush]")).to_be_disabled()
        expect(page.locator("#tools")).to_contain_text("The brush is for models of one class; this one has 3.")
        page.keyboard.press("b")
        expect(page.locator("#paint .slice")).to_be_hidden()


def areas_of(page) -> list[str]:
    return page.locator("#report .legend label span:last-child").all_inner_texts()


def set_opacity(page, value: float):
    page.locator("#opacity input[type=number]").fill(str(value))
    page.wait_for_function(
        "value => getComputedStyle(document.documentElement).getPropertyValue('--tumor-opacity') === value",
        arg=str(value),
    )


class TestPieces:
    def test_layers_of_all_classes_share_one_opacity(self, study):
        layers = views.draw_layers(study.shown.cut(Settings()), None)
        assert layers.count('class="tumor fill classes"') == layers.count('class="tumor contour classes"') == 1
        for number, color in enumerate(CLASS_COLORS[:3], start=1):
            assert layers.count(f'<i data-class="{number}" style="background: {color}; ') == 2
        assert f'data-classes="{" ".join(CLASS_COLORS[:3])}"' in layers

    def test_the_legend_says_what_is_not_found(self, study):
        settings = Settings(threshold=0.995)
        cut = study.shown.cut(settings)
        report = views.draw_report(study, cut, settings, ORIGIN)
        found = [bool(one.lesions) for one in cut.classes]
        assert not all(found) and any(found)
        assert report.count("<span>not found") == found.count(False)

    def test_hidden_pieces_are_hidden_in_every_class(self, study):
        cut = study.shown.cut(Settings(min_area_px=48 * 48))
        assert not any(one.mask.any() for one in cut.classes) and not cut.labels.any()

    def test_a_mask_drawn_by_hand_is_compared_with_all_of_them(self, study):
        compared = study.with_truth(study.shown.cut(Settings()).mask)
        report = views.draw_report(compared, compared.shown.cut(Settings()), Settings(), ORIGIN)
        assert "<dd>1.00<small>IoU 1.00 · all classes as one" in report

    def test_a_correction_by_hand_is_refused(self, network):
        with pytest.raises(gr.Error, match="corrections by hand are for models of one class; this one has 3"):
            Server(network).correct(0.5, 0, 0, None, None)


class TestSaving:
    def test_the_mask_is_a_picture_of_labels(self, study):
        path = Path(downloads.save_mask(study, Settings(), Look(), ORIGIN))
        assert path.name == "squares_labels.png"
        assert np.array_equal(read_labels(path), study.shown.segmentation.labels)
        with Image.open(path) as picture:
            assert {color for _, color in picture.convert("RGB").getcolors()} == {
                *map(parse_color, ("#000000", *CLASS_COLORS[:3]))
            }

    def test_the_archive_has_every_class(self, study):
        files = zipfile.ZipFile(io.BytesIO(downloads.pack(study, Settings(), Look())))
        masks = [f"squares_mask_{number}.png" for number in (1, 2, 3)]
        assert {*files.namelist()} == {
            *("squares_mask.png", "squares_overlay.png", "squares_labels.png", "summary.csv", *masks)
        }
        (row,) = csv.DictReader(io.StringIO(files.read("summary.csv").decode()))
        for name, one in zip(("whole", "core", "'=rim"), study.shown.segmentation.classes, strict=True):
            assert row[f"{name}_area_px"] == str(one.area_px)

    def test_the_report_has_the_classes(self, study):
        page = Path(downloads.save_report(study, Settings(), Look(), ORIGIN)).read_text()
        assert all(f"{name} " in page for name in NAMES) and "Area of each class" in page

    def test_another_colour_is_refused_in_one_sentence(self, study):
        with pytest.raises(ValueError, match="have colours of their own"):
            downloads.save_overlay(study, Settings(), Look(color="#d55e00"), ORIGIN)


class TestVolume:
    def test_the_legend_is_in_ml(self, volume):
        report = views.draw_report(volume, volume.shown.cut(Settings()), Settings(), ORIGIN)
        counts = volume.class_voxels(Settings())
        assert list(counts) == NAMES and all(counts.values())
        assert report.count(" mL · ") == 3
        described = volume.description(Settings())
        assert [(one["name"], one["voxels"]) for one in described["classes"]] == list(counts.items())

    def test_its_mask_is_a_file_of_labels(self, volume):
        path = Path(downloads.save_everything(volume, Settings(), Look(), ORIGIN))
        labels = nib.load(path).get_fdata()
        assert path.name == "scan_labels.nii.gz" and {*np.unique(labels)} == {0, 1, 2, 3}
        assert labels.shape == (48, 48, 3)

    def test_the_viewer_gets_a_bit_for_each(self, volume):
        (path,) = downloads.write_viewed(volume, Settings(), with_scan=False)
        assert {*np.unique(nib.load(path).get_fdata())} == {0, 1, 3, 7}

    def test_what_is_kept_is_counted(self, volume):
        kept = sum(part.segmentation.class_probabilities.nbytes for part in volume.slices)
        assert volume.nbytes > kept > 0


def test_the_stylesheet_can_hide_as_many_classes_as_have_colours():
    css = (ROOT / "space" / "page.css").read_text(encoding="utf-8")
    assert all(
        f'#stage[data-without~="{number}"] [data-class="{number}"]' in css for number in range(1, len(CLASS_COLORS) + 1)
    )
