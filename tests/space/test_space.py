"""What the page keeps and reads: sessions, settings, files that visitors send."""

import base64
import csv
import errno
import io
import os
import re
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import numpy as np
import phantoms
import pytest
from gradio.utils import get_upload_folder
from pages import encoded, load, save_model, saved, slice_of, zipped
from PIL import Image

from modeling_unet.overlay import draw_layer
from modeling_unet.pictures import data_uri
from modeling_unet.report import draw_report
from modeling_unet.segmentation import Segmentation
from modeling_unet.volumes import VolumeSegmentation, read_volume
from modeling_unet.volumes.archives import members
from space import downloads, events, reading, views
from space.downloads import Look
from space.events import EMPTY_VIEW, Server
from space.network import Origin
from space.reading import segment_files
from space.requests import BUSY
from space.sessions import DEFAULTS, Session, Sessions
from space.studies import Settings, Slice, Study, extent, in_half_precision
from space.sweeping import own_folder, sweep


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return load(save_model(tmp_path_factory.mktemp("model")))


def study_of(side: int, name: str = "slice") -> Study:
    segmentation = Segmentation(np.zeros((side, side, 3), np.uint8), np.zeros((side, side), np.float32))
    return Study(name, (Slice(name, name, segmentation),), "1 ms on CPU")


# ----------------------------------------------------------------------------------------------------------- sessions


def sessions(max_bytes: int = 10**9, max_seconds: float = 60, max_count: int = 100) -> Sessions:
    return Sessions(max_bytes, max_seconds, max_count)


def shown(kept: Sessions, page: str, study: Study | None = None, moment: int = 1) -> Study:
    """Let a page show a study."""
    study = study or study_of(20)
    kept.take(page, Session.choose, moment)
    return kept.take(page, Session.show, study, kept.get(page).settings, moment).study


def test_a_page_leads_to_its_study_alone():
    kept = sessions()
    one, other = shown(kept, "one"), shown(kept, "other")
    assert [kept.get(page).study for page in ("one", "other", "guessed")] == [one, other, None]
    kept.take("one", Session.clear, 2)
    assert [kept.get(page).study for page in ("one", "other")] == [None, other]


def test_of_two_choices_the_last_is_shown_whichever_is_ready_first():
    first, last = study_of(20), study_of(20)
    begun = Session().choose(1).choose(2)
    settings = begun.settings
    for ready in (
        begun.show(last, settings, 2).show(first, settings, 1),
        begun.show(first, settings, 1).show(last, settings, 2),
        begun.show(last, settings, 2).fail(1),
        # Both begin late, and in the other order.
        Session().choose(2).show(last, settings, 2).choose(1).show(first, settings, 1),
    ):
        assert (ready.study, ready.chosen_at, ready.shown_at) == (last, 2, 2)
    assert begun.show(last, settings, 2).clear(2).study is None
    assert begun.show(last, settings, 2).clear(1).study is last


def test_a_choice_that_fails_takes_nothing_away():
    session = Session().show(study_of(20), DEFAULTS, 1).choose(2)
    failed = session.fail(2)
    assert (failed.study, failed.shown_at) == (session.study, 2)
    assert Session().choose(1).fail(1).is_empty


def test_while_a_choice_is_read_the_study_before_it_stays_and_can_be_changed():
    session = Session().show(study_of(20), DEFAULTS, 1).choose(2)
    turned = session.change(lambda study: study.turned_to(0), 3)
    assert turned.study not in (None, session.study)
    assert turned.show(study := study_of(20), DEFAULTS, 2).study is study


def test_settings_are_the_newest_that_were_asked_for_and_what_is_shown_is_drawn_by_them():
    old, new = Settings(0.4), Settings(0.8)
    session = Session().choose(1).ask(new, 3).ask(old, 2)
    assert session.settings is new
    assert session.show(study_of(20), old, 1).study is None
    assert session.show(study_of(20), new, 1).study


def test_a_change_is_one_of_the_study_it_was_meant_for():
    study = study_of(20)
    session = Session().show(study, DEFAULTS, 2)
    assert session.change(lambda study: study.turned_to(0), 1) is session
    changed = session.change(lambda study: study.turned_to(0), 4)
    assert changed.change(lambda study: pytest.fail("it came too late"), 3) is changed
    assert Session().change(lambda study: pytest.fail("there is nothing to change"), 1).study is None


def test_studies_that_are_too_large_together_make_room_oldest_first():
    kept = sessions(max_bytes=2 * study_of(20).nbytes)
    shown(kept, "first"), shown(kept, "second")
    kept.take("first", Session.change, lambda study: study.turned_to(0), 2)
    shown(kept, "third")
    assert [page for page in ("first", "second", "third") if kept.get(page).study] == ["first", "third"]
    # One that is too large alone is kept, but nothing beside it.
    shown(kept, "large", study_of(200))
    assert [page for page in ("first", "third", "large") if kept.get(page).study] == ["large"]


def test_a_crowd_without_studies_makes_nobody_lose_one():
    kept = sessions(max_count=10)
    study = shown(kept, "patient")
    kept.take("reading", Session.choose, 1)
    for number in range(300):
        kept.take(f"crowd {number}", Session.ask, Settings(0.4), 1)
    assert kept.get("patient").study is study
    assert kept.get("reading").chosen_at == 1
    assert [number for number in range(300) if kept.get(f"crowd {number}").asked_at] == [*range(292, 300)]


def test_a_crowd_with_studies_has_a_limit_as_well():
    kept = sessions(max_count=3)
    for page in "abcde":
        shown(kept, page)
    assert [page for page in "abcde" if kept.get(page).study] == ["c", "d", "e"]


def test_nothing_is_kept_for_long_even_if_nobody_comes():
    kept = sessions(max_seconds=-1)
    shown(kept, "page")
    assert kept.get("page").study is None
    kept = sessions()
    shown(kept, "page")
    kept.max_seconds = -1
    kept.make_room()
    kept.max_seconds = 60
    assert kept.get("page").study is None


def test_steps_of_many_threads_are_taken_one_by_one():
    kept = sessions()
    shown(kept, "page")
    order = []

    def step(session: Session) -> Session:
        order.append("in")
        time.sleep(0.001)
        order.append("out")
        return session

    with ThreadPoolExecutor(8) as pool:
        for _ in range(20):
            pool.submit(kept.take, "page", step)
    assert order == ["in", "out"] * 20


def test_a_picture_whose_colours_differ_is_warned_of():
    grey, colours = (
        Segmentation(image, np.zeros((20, 20), np.float32))
        for image in (
            np.full((20, 20, 3), 90, np.uint8),
            np.eye(3, dtype=np.uint8)[np.arange(400).reshape(20, 20) % 3] * 255,
        )
    )
    study = study_of(20)
    warned, quiet = (replace(study, slices=(replace(study.shown, segmentation=one),)) for one in (colours, grey))
    assert (len(warned.warnings), quiet.warnings) == (1, ())
    assert "averaged to grey" in views.draw_report(warned, colours, Settings(), Origin("model"))


# ----------------------------------------------------------------------------------------------------------- settings


@pytest.fixture
def speckled() -> Segmentation:
    """A lesion of 100 px, and a surer speck of 4 px."""
    probability = np.zeros((40, 40), np.float32)
    probability[5:15, 5:15] = 0.9
    probability[30:32, 30:32] = 0.99
    return Segmentation(np.zeros((40, 40, 3), np.uint8), probability)


def test_by_default_everything_is_as_in_the_package(speckled):
    cut = Settings().cut(speckled)
    np.testing.assert_array_equal(cut.mask, speckled.mask)
    assert cut.to_dict() == speckled.to_dict()
    assert (cut.area_px, len(cut.lesions)) == (104, 1)


def test_pieces_that_are_hidden_are_in_no_figure_and_no_picture(speckled):
    cut = Settings(min_area_px=5).cut(speckled)
    assert (cut.area_px, len(cut.lesions), int(cut.mask.sum())) == (100, 1, 100)
    assert (cut.overlay()[30:32, 30:32] == 0).all()
    assert cut.highest_probability == speckled.highest_probability == pytest.approx(0.99)
    assert (Settings(min_area_px=3).cut(speckled).area_px, len(Settings(min_area_px=3).cut(speckled).lesions)) == (
        104,
        2,
    )
    assert not Settings(min_area_px=200).cut(speckled).tumor_found


@pytest.mark.parametrize("settings", [Settings(), Settings(min_area_px=5), Settings(min_area_px=200), Settings(0.95)])
def test_extents_are_those_of_the_cuts(speckled, settings):
    cut = settings.cut(speckled)
    assert extent(cut) == (cut.area_px, cut.tumor_found)


def test_the_spacing_of_a_file_counts_before_one_that_is_typed():
    known = Segmentation(np.zeros((20, 20, 3), np.uint8), np.ones((20, 20), np.float32), spacing=(2, 3))
    assert Settings().cut(known).area_mm2 == Settings(spacing=0.5).cut(known).area_mm2 == 2400
    unknown = known.cut(spacing=None)
    assert Settings(spacing=0.5).cut(unknown).area_mm2 == 100
    assert Settings().cut(unknown).area_mm2 is None


@pytest.mark.parametrize("spacing", [1e200, 5e-324, 0.0099, 101, -1, float("nan"), float("inf")])
def test_an_impossible_spacing_is_refused(spacing):
    with pytest.raises(ValueError, match=r"The spacing is .* mm; a pixel may have 0\.01 to 100 mm, or 0"):
        Settings(spacing=spacing)


@pytest.mark.parametrize("name", ["threshold", "min_area_px", "spacing"])
@pytest.mark.parametrize("value", ["1", True, [], {}, 10**400, 2**63, -(2**70)])
def test_what_is_no_number_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"{name} is no number that can be used"):
        Settings(**{name: value})


@pytest.mark.parametrize("area", [1e300, 8192 * 8192 + 1])
def test_a_piece_larger_than_any_slice_is_refused(area):
    with pytest.raises(ValueError, match="min_area_px is over 67,108,864"):
        Settings(min_area_px=area)


@pytest.mark.parametrize("spacing", [0.01, 100])
def test_reports_can_be_drawn_with_every_spacing_that_is_allowed(speckled, spacing):
    cut = Settings(spacing=spacing).cut(speckled)
    assert "inf" not in re.sub(
        "<[^>]*>", "", draw_report(cut, title="s.png", model="m", revision=None).partition("<body>")[2]
    )
    with pytest.raises(ValueError, match=r"from 0\.01 to 100"):
        speckled.cut(spacing=(5e-324, 5e-324))


def test_an_empty_box_counts_as_the_default():
    assert Settings.given(None, None, None) == Settings()
    study = replace(study_of(20), slices=(*study_of(20).slices, *study_of(20).slices))
    assert "Area, px" in views.draw_overview(study, Settings.given(0.5, 0, None))


def test_half_precision_keeps_the_mask_to_the_pixel():
    around = np.nextafter(np.float32(0.5), np.float32([0, 1, 0.5]))
    probability = np.concatenate([around, np.random.default_rng(0).random(400 - 3, np.float32)]).reshape(20, 20)
    half = in_half_precision(probability)
    assert half.nbytes == probability.nbytes / 2
    np.testing.assert_array_equal(half > 0.5, probability > 0.5)
    np.testing.assert_allclose(half, probability, atol=1e-3)
    assert half.max() <= 1


# -------------------------------------------------------------------------------------------------------------- files


def test_what_cannot_be_read_is_listed_and_the_rest_goes_on(network, tmp_path):
    good, bad = saved(tmp_path / "good.png", slice_of(30, 20)), tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    done = []
    study = segment_files([bad, good], network, lambda *progress: done.append(progress))
    assert [part.title for part in study.slices] == ["good.png"]
    assert [refusal.sentence.partition(":")[0] for refusal in study.refused] == ["bad.png"]
    assert done == [(0, 2)]


def test_what_cannot_be_read_keeps_its_place(network, tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "BATCH_SIZE", 3)
    content = encoded(slice_of(20, 20))
    files = {
        "a/0.txt": b"x",
        "a/1.png": content,
        "a/2.png": content,
        "a/3.txt": b"x",
        "a/4.txt": b"x",
        "a/5.png": content,
    }
    (tmp_path / "bad.png").write_bytes(b"no image")
    paths = [tmp_path / "bad.png", zipped(tmp_path / "s.zip", files), saved(tmp_path / "good.png", slice_of(20, 20))]
    study = segment_files(paths, network)
    table = study.table({"area": 1} for _ in study.slices)
    assert [line["slice"] for line in table] == ["bad.png", *files, "good.png"]
    assert ["error" in line for line in table] == [True, True, False, False, True, True, False, False]
    assert all(line["error"].startswith(Path(line["slice"]).name) for line in table if "error" in line)


def test_large_slices_are_decoded_one_by_one(network, tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "MAX_BATCH_PIXELS", 1000)
    sizes = [(20, 20), (20, 20), (20, 20), (40, 40), (20, 20)]
    paths = [saved(tmp_path / f"{number}.png", slice_of(*size)) for number, size in enumerate(sizes)]
    network.runs.clear()
    done = []
    study = segment_files(paths, network, lambda *progress: done.append(progress))
    assert network.runs == [2, 1, 1, 1]
    assert done == [(0, 5), (2, 5), (3, 5), (4, 5)]
    assert [part.segmentation.mask.shape for part in study.slices] == sizes


def test_a_slice_larger_than_the_page_takes_is_scaled_down(network, tmp_path):
    segmentation, _ = reading.segment_slice(saved(tmp_path / "long.png", slice_of(4097, 32)), network)
    assert segmentation.mask.shape == (2049, 16)
    assert "The picture of 32 × 4097 pixels was scaled down to 16 × 2049, and so is the mask." in segmentation.warnings
    cut = Settings(spacing=0.2).cut(segmentation)
    np.testing.assert_allclose(cut.spacing, (0.4, 0.4), rtol=1e-3)  # of a pixel of the mask


def test_arrays_are_slices_and_four_sequences_are_none(network, tmp_path):
    np.save(tmp_path / "a.npy", slice_of(20, 30) / 255)
    np.save(tmp_path / "four.npy", np.zeros((4, 20, 30), np.float32))
    study = segment_files([tmp_path / "a.npy", tmp_path / "four.npy"], network)
    assert [part.title for part in study.slices] == ["a.npy"]
    ((_, title, sentence),) = study.refused
    assert title == "four.npy" and sentence.startswith("four.npy: four channels of type float32")


def test_pages_of_a_picture_are_slices(network, tmp_path):
    pages = [slice_of(20 + number, 30, seed=number) for number in range(3)]
    first, *others = map(Image.fromarray, pages)
    first.save(tmp_path / "scan.tif", save_all=True, append_images=others)
    study = segment_files([tmp_path / "scan.tif", saved(tmp_path / "one.png", slice_of(20, 20))], network)
    assert [part.title for part in study.slices] == [*(f"scan_page-{page}.tif" for page in (1, 2, 3)), "one.png"]
    assert [part.name for part in study.slices] == [*(f"scan_page-{page}" for page in (1, 2, 3)), "one"]
    for part, page in zip(study.slices, pages, strict=False):
        expected = network.segmenter(page).probability  # in a batch of its own
        np.testing.assert_allclose(part.segmentation.probability, expected, atol=1e-5)
    with pytest.raises(ValueError, match=r"scan\.tif: these are 3 pages; /segment takes one, /segment_batch all\.$"):
        reading.segment_slice(tmp_path / "scan.tif", network)


def test_a_giant_in_an_archive_is_refused_before_it_is_unpacked(network, tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "MAX_FILE_BYTES", 1000)
    with pytest.raises(ValueError, match=r"large\.png: the file takes .* MiB; the page takes up to"):
        segment_files([zipped(tmp_path / "s.zip", {"large.png": encoded(slice_of(50, 50))})], network)


def test_a_picture_is_opened_once(network, tmp_path, monkeypatch):
    """To tell what it is, how large it is, and what it shows."""
    paths = [saved(tmp_path / "a.png", slice_of(30, 20)), saved(tmp_path / "b.png", slice_of(30, 20, np.uint16))]
    opened, open_path = [], Path.open
    monkeypatch.setattr(Path, "open", lambda self, *mode: opened.append(self) or open_path(self, *mode))
    segment_files(paths, network)
    assert opened == paths
    opened.clear()
    reading.segment_slice(paths[0], network)
    assert opened == paths[:1]


def test_pictures_that_take_too_much_together_are_refused_and_the_rest_goes_on(network, tmp_path, monkeypatch):
    content = encoded(slice_of(20, 20))
    monkeypatch.setattr(reading, "MAX_BYTES", 2 * len(content) + 10)
    paths = [zipped(tmp_path / "s.zip", {"1.png": content, "2.png": content, "3.png": content})]
    (tmp_path / "4.png").write_bytes(content)
    study = segment_files([*paths, tmp_path / "4.png"], network)
    # What lies by itself is opened before what lies in archives.
    assert [part.title for part in study.slices] == ["1.png", "4.png"]
    assert [refusal.title for refusal in study.refused] == ["2.png", "3.png"]
    assert all("the pictures take over" in refusal.sentence for refusal in study.refused)


def test_what_all_archives_hold_together_is_limited(network, tmp_path, monkeypatch):
    content = encoded(slice_of(20, 20))
    monkeypatch.setattr(reading, "MAX_ARCHIVE_BYTES", 2 * len(content))
    paths = [zipped(tmp_path / f"{number}.zip", {"1.png": content}) for number in range(3)]
    assert len(segment_files(paths[:2], network).slices) == 2
    with pytest.raises(ValueError, match=r"^2\.zip: its files take .* MiB unpacked; at most 0 MiB are accepted\.$"):
        segment_files(paths, network)


@pytest.mark.parametrize("name", ["empty.png", "empty.zip"])
def test_an_empty_file_is_said_to_be_empty(network, tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(ValueError, match=rf"^{name}: the file is empty \(0 bytes\)\.$"):
        segment_files([tmp_path / name], network)


def test_an_archive_that_is_given_many_times_is_opened_once(network, tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(reading, "members", lambda path, **limits: opened.append(path) or members(path, **limits))
    path = zipped(tmp_path / "s.zip", {"1.png": encoded(slice_of(20, 20))})
    assert len(segment_files([path] * 400, network).slices) == 400
    assert opened == [path]


def test_archives_are_counted_before_they_are_opened(network, tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "members", lambda path, **limits: pytest.fail("it was opened"))
    paths = [zipped(tmp_path / f"{number}.zip", {"1.png": b""}) for number in range(17)]
    with pytest.raises(ValueError, match="These are 17 archives; the page takes up to 16 at a time"):
        segment_files(paths, network)
    with pytest.raises(ValueError, match="These are 4,001 files; the page takes up to 4,000 at a time"):
        segment_files(paths[:1] * 4001, network)


def test_what_takes_too_long_to_read_is_refused_and_the_rest_goes_on(network, tmp_path, monkeypatch):
    clock = iter(range(10_000))
    monkeypatch.setattr(reading.time, "thread_time", lambda: 3 * next(clock))
    paths = [saved(tmp_path / f"{number}.png", slice_of(20, 20)) for number in range(2)]
    study = segment_files(paths, network)
    assert ([part.title for part in study.slices], [refusal.title for refusal in study.refused]) == (
        ["0.png"],
        ["1.png"],
    )
    assert study.refused[0].sentence.startswith("These files take too long to read")
    with pytest.raises(ValueError, match=r"take too long to read: the page spends up to 8 s of its processor"):
        segment_files(paths * 2, network)


@pytest.mark.parametrize("name", ["broken.nii", "broken.NII.gz", "broken.dcm"])
def test_a_broken_scan_is_no_broken_image(network, tmp_path, name):
    (tmp_path / name).write_bytes(b"neither this nor that")
    with pytest.raises(ValueError, match=f"{name}: the file is no scan that can be read"):
        segment_files([tmp_path / name], network)


def test_equal_names_do_not_overwrite_each_other(network, tmp_path):
    content = encoded(slice_of(20, 20))
    names = ["1.png", "1.jpg", "1-2.png", "A/1.png", "a/1.bmp"]
    study = segment_files([zipped(tmp_path / "s.zip", dict.fromkeys(names, content))], network)
    assert [part.name for part in study.slices] == ["1", "1-2", "1-2-2", "A/1", "a/1-2"]


@pytest.mark.parametrize(
    ("limit", "value", "message"),
    [("MAX_FILES", 1, "up to 1 at a time"), ("MAX_PIXELS", 500, "800 pixels together; .* up to 500")],
)
def test_what_visitors_can_cost_is_known_before_anything_is_decoded(
    network, tmp_path, monkeypatch, limit, value, message
):
    monkeypatch.setattr(reading, limit, value)
    monkeypatch.setattr(reading, "read_picture", lambda *arguments: pytest.fail("it was decoded"))
    paths = [saved(tmp_path / f"{name}.png", slice_of(20, 20)) for name in "ab"]
    with pytest.raises(ValueError, match=message):
        segment_files(paths, network)


def test_a_grey_slice_is_kept_once_and_not_three_times(network, tmp_path):
    grey, colored = (
        saved(tmp_path / "g.png", slice_of(20, 30)),
        np.stack([slice_of(20, 30, seed=n) for n in range(3)], -1),
    )
    study = segment_files([grey, saved(tmp_path / "c.png", colored)], network)
    strides = [part.segmentation.image.strides[2] for part in study.slices]
    assert strides == [0, 1]
    np.testing.assert_array_equal(study.slices[0].segmentation.image, network.segmenter(grey).image)


def test_a_dicom_series_is_a_volume_without_names(network, tmp_path):
    names = [f"kowalska_{number}" for number in range(3)]
    for number, name in enumerate(names, 1):
        (tmp_path / name).write_bytes(phantoms.dicom(phantoms.noise(32, 24, seed=number), number))
    study = segment_files([tmp_path / name for name in names], network)
    assert len(study.slices) == 3 and study.volume.plane == "axial"
    assert "kowalska" not in f"{study.name} {[part.name for part in study.slices]} {study.warnings}".lower()
    masks = np.stack([part.segmentation.mask for part in study.slices])
    assert study.volume.to_nifti(masks)


@pytest.mark.parametrize(
    ("areas", "index"), [([0, 7, 9, 9, 0], 2), ([0, 0, 0, 0, 0], 2), ([0, 0, 0, 0, 3], 4), ([0], 0)]
)
def test_a_volume_opens_where_most_is_found_or_in_its_middle(areas, index):
    assert reading.first_shown(areas) == index


# ------------------------------------------------------------------------------------------------------- files to save


@pytest.mark.parametrize("letter", ["n", "ę", "\N{BRAIN}"])
def test_long_names_can_be_saved(network, tmp_path, letter):
    names = [f"{letter * 245}{number}.png" for number in range(2)]
    content = encoded(slice_of(20, 20))
    study = segment_files([zipped(tmp_path / "s.zip", dict.fromkeys(names, content))], network)
    for save in downloads.SAVERS.values():
        assert Path(save(study, Settings(), Look(), Origin("m"))).stat().st_size
    with zipfile.ZipFile(io.BytesIO(downloads.pack(study, Settings(), Look()))) as archive:
        assert len(set(archive.namelist())) == 5
        assert max(len(name.encode()) for name in archive.namelist()) < 255
        archive.extractall(tmp_path / "unpacked")


def test_the_table_says_how_far_slices_are_to_be_believed(network, tmp_path):
    coloured = np.stack([slice_of(20, 30, seed=n) for n in range(3)], -1)
    paths = [saved(tmp_path / "grey.png", slice_of(20, 30)), saved(tmp_path / "coloured.png", coloured)]
    study = segment_files(paths, network)
    study = replace(
        study,
        slices=tuple(
            replace(part, segmentation=replace(part.segmentation, familiarity=familiarity))
            for part, familiarity in zip(study.slices, (0.5, 0.001), strict=True)
        ),
    )
    with zipfile.ZipFile(io.BytesIO(downloads.pack(study, Settings(), Look()))) as archive:
        rows = list(csv.DictReader(io.StringIO(archive.read("summary.csv").decode())))
    assert [row["familiarity"] for row in rows] == ["0.5", "0.001"]
    assert [row["warnings"] for row in rows] == ["", " ".join(study.slices[1].segmentation.warnings)]
    assert "do not rely on what is marked" in rows[1]["warnings"]


def test_names_in_the_table_are_no_formulas(network, tmp_path):
    content = encoded(slice_of(20, 20))
    names = ["=1+2.png", "+1.png", "-1.png", "@sum.png", "1.png"]
    study = segment_files([zipped(tmp_path / "s.zip", {**dict.fromkeys(names, content), "=bad.png": b"x"})], network)
    with zipfile.ZipFile(io.BytesIO(downloads.pack(study, Settings(), Look()))) as archive:
        rows = list(csv.DictReader(io.StringIO(archive.read("summary.csv").decode())))
    assert [row["slice"] for row in rows] == ["'=1+2.png", "'+1.png", "'-1.png", "'@sum.png", "1.png", "'=bad.png"]
    assert rows[-1]["error"].startswith("'=bad.png: ")


def test_old_files_go_with_their_folders(tmp_path):
    new = tmp_path / "mixed" / "new.png"
    old = [tmp_path / name for name in ("lonely/old.png", "mixed/old.png", "tmp1234")]
    for path in (new, *old):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"1")
    (tmp_path / "fresh").mkdir()
    for path in (*old, tmp_path / "lonely"):
        os.utime(path, (time.time() - 100,) * 2)
    sweep(tmp_path, 60)
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "fresh", new.parent, new]


@pytest.fixture
def strangers(tmp_path) -> Path:
    """A folder of somebody else, with an old file of theirs."""
    path = tmp_path / "home" / "thesis.txt"
    path.parent.mkdir(mode=0o700)
    path.write_bytes(b"1")
    os.utime(path, (time.time() - 10_000,) * 2)
    return path.parent


def test_the_sweep_follows_no_links(tmp_path, strangers):
    folder = tmp_path / "ours"
    folder.mkdir(mode=0o700)
    (folder / "folder").symlink_to(strangers)
    (folder / "file").symlink_to(strangers / "thesis.txt")
    sweep(folder, -1)
    assert not folder.exists()
    folder.symlink_to(strangers)
    sweep(folder, -1)
    assert (strangers / "thesis.txt").is_file()


@pytest.mark.parametrize("kind", ["link", "open to all", "in a folder where all may rename"])
def test_files_of_visitors_are_not_kept_where_others_can_put_something_else(tmp_path, strangers, monkeypatch, kind):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    folder = tmp_path / "gradio" / "brain-tumor-unet"
    folder.parent.mkdir()
    if kind == "link":
        folder.symlink_to(strangers)
    else:
        folder.mkdir(mode=0o700)
        (folder if kind == "open to all" else folder.parent).chmod(0o777)
    with pytest.raises(PermissionError, match=r"name a folder of your own in the variable GRADIO_TEMP_DIR"):
        own_folder().__enter__()
    sweep(folder, -1)
    assert (strangers / "thesis.txt").is_file()
    assert folder.exists()


def test_files_of_somebody_else_are_not_swept(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"1")
    monkeypatch.setattr("os.getuid", lambda: tmp_path.stat().st_uid + 1)
    sweep(tmp_path, -1)
    assert (tmp_path / "file").is_file()


def test_where_files_take_too_much_together_the_oldest_go_first(tmp_path):
    paths = [tmp_path / "folder" / name for name in "abcd"]
    paths[0].parent.mkdir()
    for age, path in enumerate(reversed(paths)):
        path.write_bytes(bytes(100))
        os.utime(path, (time.time() - 10 * age,) * 2)
    sweep(tmp_path, 1000, max_bytes=250)
    assert [path.exists() for path in paths] == [False, False, True, True]
    sweep(tmp_path, 1000, max_bytes=250)
    assert [path.exists() for path in paths] == [False, False, True, True]


def test_a_file_that_vanishes_meanwhile_does_not_end_the_sweep(tmp_path, monkeypatch):
    paths = [tmp_path / name for name in ("first", "last")]
    for path in paths:
        path.write_bytes(b"1")
    unlink = Path.unlink

    def somebody_was_faster(path: Path):
        for _ in range(2):
            unlink(path)

    monkeypatch.setattr(Path, "unlink", somebody_was_faster)
    (tmp_path / "listed").symlink_to("gone")  # as if it vanished before its age is asked for
    sweep(tmp_path, -1)
    assert not any(path.exists() for path in paths)


# ------------------------------------------------------------------------------------------------------------ the page


PAGE = SimpleNamespace(session_hash="page")


def at(moment: int, shown: str = "") -> dict:
    """What a page says with a request."""
    return {"moment": moment, "shown": shown}


def event(moment: int = 1, **said) -> gr.EventData:
    return gr.EventData(None, {"moment": moment, **said})


@pytest.fixture
def server(network) -> Server:
    """With a page that shows a study since moment 1."""
    server = Server(network)
    shown(server.sessions, "page")
    return server


def shown_by(server: Server) -> Study | None:
    return server.sessions.get("page").study


def test_errors_stay_until_they_are_closed(network):
    with pytest.raises(gr.Error, match="There is no slice on the page") as error:
        Server(network).saver("Mask")(at(1), 0.5, 0, 0, "fill", "#e69f00", 0.5, PAGE)
    assert error.value.duration is None
    with pytest.raises(gr.Error, match="no file was given") as error:
        Server(network).segment(None)
    assert error.value.duration is None


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOSPC])
def test_who_comes_when_nothing_is_left_is_told_that_the_server_is_busy(network, tmp_path, monkeypatch, number):
    Path(get_upload_folder()).mkdir(exist_ok=True, parents=True)
    path = zipped(Path(get_upload_folder()) / "s.zip", {"1.png": encoded(slice_of(20, 20))})

    def none_left(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("modeling_unet.volumes.archives.ZipFile", none_left)
    if number == errno.ENOSPC:
        monkeypatch.undo()
        monkeypatch.setattr(downloads, "write", none_left)
    with pytest.raises(gr.Error, match=BUSY) as error:
        Server(network).segment_batch([{"path": str(path)}])
    assert not error.value.print_exception


@pytest.mark.parametrize("index", [99, -1, 2**70, "0", True, None, [0]])
def test_only_what_there_is_can_be_chosen(server, index):
    with pytest.raises(gr.Error, match="There are 1 to choose from"):
        server.pick(0.5, 0, 0, event(2, index=index), PAGE)
    with pytest.raises(gr.Error, match="There are 9 to choose from"):
        server.show_example(0.5, 0, 0, event(3, index=index), PAGE)


def two_stacks() -> list[dict]:
    """Files that were sent: three slices with contrast, four without."""
    folder = Path(get_upload_folder()) / "two-stacks"
    folder.mkdir(exist_ok=True, parents=True)
    files = []
    for series, (count, name) in enumerate(((3, "T1 +C"), (4, "T1 without contrast")), start=1):
        for number in range(1, count + 1):
            tags = {"SeriesInstanceUID": f"1.2.{series}", "SeriesDescription": name, "ContrastBolusAgent": None}
            path = folder / f"{series}-{number}"
            path.write_bytes(phantoms.dicom(phantoms.noise(32, 24, seed=number), number, **tags))
            files.append({"path": str(path)})
    return files


def test_another_stack_of_a_volume_is_chosen_by_name(network):
    server = Server(network)
    view = server.show_files(0.5, 0, 0, event(1, files=two_stacks()), PAGE)
    first = "1: T1-weighted with contrast, axial, 3 slices 6.0 mm apart"
    second = "2: T1-weighted without contrast, axial, 4 slices 6.0 mm apart"
    assert f"<option selected>{first}</option><option>{second}</option>" in view.stacks
    view = server.show_stack(0.5, 0, 0, event(2, index=1), PAGE)
    assert f"<option>{first}</option><option selected>{second}</option>" in view.stacks
    assert len(shown_by(server).slices) == 4 and shown_by(server).volume.stack == 2
    with pytest.raises(gr.Error, match="There are 2 to choose from"):
        server.show_stack(0.5, 0, 0, event(3, index=2), PAGE)


def test_a_stack_whose_files_are_gone_says_so(network):
    server = Server(network)
    files = two_stacks()
    server.show_files(0.5, 0, 0, event(1, files=files), PAGE)
    for file in files:
        Path(file["path"]).unlink()
    with pytest.raises(gr.Error, match="The files of the volume are gone from the server; please send them again"):
        server.show_stack(0.5, 0, 0, event(2, index=1), PAGE)


def test_there_is_no_stack_to_choose_without_a_volume(server):
    with pytest.raises(gr.Error, match="There are 0 to choose from"):
        server.show_stack(0.5, 0, 0, event(2, index=0), PAGE)


def test_a_picture_sent_with_a_volume_is_said(network, tmp_path):
    picture = saved(tmp_path / "a.png", slice_of(20, 30))
    (tmp_path / "1.dcm").write_bytes(phantoms.dicom(phantoms.noise(32, 24)))
    study = segment_files([picture, tmp_path / "1.dcm"], network)
    assert any("1 picture that came with the scan was left out" in sentence for sentence in study.warnings)


@pytest.mark.parametrize("moment", [None, "1", 1.5, True, [1], {}])
def test_moments_are_counted(server, moment):
    """Nobody has to ask through the page, which counts them."""
    study, index = shown_by(server), {"index": 0}
    for data in ({"moment": moment, **index}, index, moment):
        for listener in (server.pick, server.show_example, server.show_files, server.show_stack):
            with pytest.raises(gr.Error, match="A parameter of this request is missing, or has another type"):
                listener(0.5, 0, 0, gr.EventData(None, data), PAGE)
    with pytest.raises(gr.Error, match="A parameter of this request is missing, or has another type"):
        server.compare(at(moment), 0.5, 0, 0, None, PAGE)
    assert shown_by(server) is study


@pytest.mark.parametrize("files", [None, True, {}, [], [None], ["a.png"], [{"path": None}], [{"path": "a" * 5000}]])
def test_only_files_can_be_shown(network, files):
    with pytest.raises(gr.Error, match=r"no file was given|the file was not uploaded") as error:
        Server(network).show_files(0.5, 0, 0, event(files=files), PAGE)
    assert len(error.value.message) < 200


def mask_file() -> dict:
    folder = Path(get_upload_folder())
    folder.mkdir(exist_ok=True, parents=True)
    return {"path": str(saved(folder / "mask.png", np.eye(20, dtype=np.uint8) * 255))}


@pytest.mark.parametrize(
    ("listener", "slow"),
    [
        ("measure", "draw_report"),
        ("survey", "draw_overview"),
        ("turn", "draw_report"),
        ("compare", "draw_report"),
        ("compare", "read_mask"),
    ],
)
@pytest.mark.parametrize("newer", [study_of(20), None])
def test_an_answer_that_is_ready_after_its_study_is_replaced_changes_nothing(
    server, monkeypatch, listener, slow, newer
):
    module = events if slow == "read_mask" else views
    take_long = getattr(module, slow)

    def overtaken(*arguments):
        shown(server.sessions, "page", newer, 3) if newer else server.sessions.take("page", Session.clear, 3)
        return take_long(*arguments)

    monkeypatch.setattr(module, slow, overtaken)
    arguments = {"measure": (), "turn": (1,), "compare": (mask_file(),)}
    if listener == "survey":
        answer = server.survey(PAGE)
    else:
        answer = getattr(server, listener)(at(2), 0.5, 0, 0, *arguments[listener], PAGE)
    # Where nothing is left to change, all of it leaves the page.
    assert answer == (EMPTY_VIEW if slow == "read_mask" and not newer else gr.skip())
    assert shown_by(server) is newer


def test_who_turns_to_another_slice_keeps_the_overview_but_not_the_outline_of_the_last_one(server, monkeypatch):
    shown(server.sessions, "page", replace(study_of(20), slices=study_of(20).slices * 2))
    draw_report, draw_overview = views.draw_report, views.draw_overview

    def meanwhile(draw, moment):
        def overtaken(*arguments):
            server.sessions.take("page", Session.change, lambda study: study.turned_to(1), moment)
            return draw(*arguments)

        return overtaken

    monkeypatch.setattr(views, "draw_report", meanwhile(draw_report, 3))
    monkeypatch.setattr(views, "draw_overview", meanwhile(draw_overview, 4))
    assert server.measure(at(2), 0.5, 0, 0, PAGE) == gr.skip()
    assert "2 slices" in server.survey(PAGE)


def test_a_mask_is_compared_with_the_slice_that_it_was_chosen_for(server, monkeypatch):
    shown(server.sessions, "page", replace(study_of(20), slices=study_of(20).slices * 2))
    assert server.turn(at(3), 0.5, 0, 0, 2, PAGE) != gr.skip()
    assert server.compare(at(2), 0.5, 0, 0, mask_file(), PAGE) == gr.skip()
    assert [part.truth for part in shown_by(server).slices] == [None, None]
    assert server.compare(at(4), 0.5, 0, 0, mask_file(), PAGE) != gr.skip()
    assert [part.truth is None for part in shown_by(server).slices] == [True, False]


def test_what_is_drawn_last_is_drawn_by_the_newest_settings(server, monkeypatch):
    draw_report, answers = views.draw_report, []

    def meanwhile(*arguments):
        monkeypatch.setattr(views, "draw_report", draw_report)
        answers.append(server.measure(at(3), 0.8, 0, 2, PAGE))
        return draw_report(*arguments)

    monkeypatch.setattr(views, "draw_report", meanwhile)
    turned = server.turn(at(2), 0.5, 0, 0, 1, PAGE)
    assert turned.report == answers[0].report == server.measure(at(3), 0.8, 0, 2, PAGE).report
    assert turned.report != server.measure(at(4), 0.5, 0, 0, PAGE).report


def test_older_settings_that_arrive_later_change_nothing(server):
    newest = server.measure(at(3), 0.8, 0, 2, PAGE)
    assert server.turn(at(2), 0.5, 0, 0, 1, PAGE).report == newest.report
    assert server.measure(at(2), 0.5, 0, 0, PAGE).report == newest.report


def test_settings_that_change_while_a_choice_is_read_hold_for_it(server, monkeypatch):
    segment_files = events.segment_files

    def meanwhile(*arguments):
        server.measure(at(3), 0.8, 0, 2, PAGE)
        return segment_files(*arguments)

    monkeypatch.setattr(events, "segment_files", meanwhile)
    report = server.show_example(0.5, 0, 0, event(2, index=0), PAGE).report
    assert report == server.measure(at(3), 0.8, 0, 2, PAGE).report != server.measure(at(4), 0.5, 0, 0, PAGE).report


def test_settings_that_change_while_a_choice_is_drawn_hold_for_it(server, monkeypatch):
    draw_overview = views.draw_overview

    def meanwhile(*arguments):
        monkeypatch.setattr(views, "draw_overview", draw_overview)
        server.measure(at(3), 0.8, 0, 2, PAGE)
        return draw_overview(*arguments)

    monkeypatch.setattr(views, "draw_overview", meanwhile)
    report = server.show_example(0.5, 0, 0, event(2, index=0), PAGE).report
    assert report == server.measure(at(3), 0.8, 0, 2, PAGE).report != server.measure(at(4), 0.5, 0, 0, PAGE).report


def test_a_choice_that_is_overtaken_on_its_way_is_not_read(server, network):
    network.runs.clear()
    assert server.show_example(0.5, 0, 0, event(3, index=0), PAGE) != gr.skip()
    assert server.show_example(0.5, 0, 0, event(2, index=1), PAGE) == gr.skip()
    assert shown_by(server).shown.title == views.describe(views.EXAMPLES[0])
    assert network.runs == [1]


@pytest.mark.parametrize("error", [ValueError("no slice"), RuntimeError("no network")])
def test_a_choice_that_fails_after_a_later_one_takes_nothing_away(server, monkeypatch, capfd, error):
    segment_files = events.segment_files

    def fails(*_):
        monkeypatch.setattr(events, "segment_files", segment_files)
        server.show_example(0.5, 0, 0, event(3, index=0), PAGE)
        raise error

    monkeypatch.setattr(events, "segment_files", fails)
    assert server.show_example(0.5, 0, 0, event(2, index=1), PAGE) == gr.skip()
    assert shown_by(server).shown.title == views.describe(views.EXAMPLES[0])
    # What is no fault of the visitor is to be known.
    assert ("no network" in capfd.readouterr().err) == isinstance(error, RuntimeError)


@pytest.mark.parametrize("spacing", [0.001, -1])
def test_a_choice_by_settings_that_cannot_be_changes_nothing(server, spacing):
    study = shown_by(server)
    with pytest.raises(gr.Error, match=f"The spacing is {spacing} mm; a pixel may have"):
        server.show_example(0.5, 0, spacing, event(2, index=0), PAGE)
    assert shown_by(server) is study


def test_when_a_study_is_gone_all_of_it_leaves_the_page(network):
    server = Server(network)
    assert server.turn(at(1), 0.5, 0, 0, 1, PAGE) == server.measure(at(1), 0.5, 0, 0, PAGE) == EMPTY_VIEW
    assert server.survey(PAGE) == ""
    assert EMPTY_VIEW.anatomy == views.EMPTY_STAGE
    assert EMPTY_VIEW.scrubber["visible"] is EMPTY_VIEW.everything["visible"] is False


def whole_study(folder: Path, familiarity: float | None = None) -> Study:
    """Five axial slices of 0.5 × 0.5 × 4 mm, with a tumour of 3 × 10 × 12 voxels and a speck."""
    (folder / "head.nii.gz").write_bytes(phantoms.nifti(phantoms.noise(32, 24, 5), np.diag([0.5, 0.5, 4, 1])))
    volume = read_volume(folder / "head.nii.gz")
    probability = np.zeros(volume.slices.shape, np.float16)
    probability[1:4, 5:15, 6:18] = 0.75
    probability[0, 1, 1] = 0.875
    parts = [Segmentation(np.zeros((*part.shape, 3), np.uint8), part, spacing=(0.5, 0.5)) for part in probability]
    slices = tuple(Slice(f"slice {number}", f"slice-{number}", part) for number, part in enumerate(parts))
    whole = VolumeSegmentation(volume, probability, ("sagittal", "coronal", "axial"), familiarity)
    return Study("head", slices, "1 ms on CPU", index=2, whole=whole)


def test_lesions_of_a_volume_are_listed_and_lead_to_their_slices(tmp_path):
    study = whole_study(tmp_path)
    overview = views.draw_overview(study, Settings())
    assert 'aria-label="Tumour from slice 2 to 4 of 5; most in slice 2: 0.12 mL."' in overview
    (row,) = re.findall(r"<tbody>(.*)</tbody>", overview)
    # The centre is at slice 2, row 9.5 of rows from anterior, column 11.5 of columns from the right.
    centre_mm = study.whole.volume.affine @ (2, 9.5, 11.5, 1)
    assert re.findall(r"<td>([^<]*)</td>", row) == [
        "0.36",
        f"{np.linalg.norm((12, 5, 6)):.1f}",
        f"R {centre_mm[0]:.0f} A {centre_mm[1]:.0f} S {centre_mm[2]:.0f}",
        "0.75",
    ]
    # Otherwise nobody would know what the line without bars is.
    assert views.draw_overview(study, Settings(threshold=0.9)).endswith("<h2>No lesion found in the volume</h2>")
    assert '<button type="button" data-index="2" data-row="10" data-column="12">1, slice 3</button>' in row
    report = views.draw_report(study, Settings().cut(study.shown.segmentation), Settings(), Origin("m"))
    assert "Tumour found" in report
    for figure in ("0.4 mL", "361 voxels", "longest 14.3 mm", "sagittal, coronal and axial"):
        assert figure in report
    assert study.description(Settings())["volume_ml"] == pytest.approx(0.361)
    # A threshold that nothing passes, and pieces that are hidden.
    assert study.description(Settings(threshold=0.8))["lesions"] == []
    assert study.description(Settings(min_area_px=500))["voxels"] == 0


def test_the_report_of_a_slice_says_how_much_the_whole_volume_has(tmp_path):
    path = downloads.save_report(whole_study(tmp_path), Settings(), Look(), Origin("m"))
    text = " ".join(re.sub(r"<[^>]*>", " ", Path(path).read_text(encoding="utf-8")).split())
    assert "The whole volume · Volume: 0.4 mL (361 voxels) · Lesions: 1 (longest 14.3 mm)" in text
    assert "· Slices with tumour: 3 (of 5) · Slices looked at: sagittal, coronal and axial" in text
    assert "Tumour from slice 2 to 4 of 5; most in slice 2: 0.12 mL. This is slice 3." in text


@pytest.mark.parametrize(("familiarity", "known"), [(0.5, True), (0.0, False)])
def test_a_volume_that_the_network_does_not_know_is_said_once(tmp_path, familiarity, known):
    study = whole_study(tmp_path, familiarity)
    report = views.draw_report(study, Settings().cut(study.shown.segmentation), Settings(), Origin("m"))
    assert ("The network does not know such volumes" in report) != known
    assert report.count("unlike the T1-weighted slices") == (not known)


def test_a_heat_map_is_sent_in_a_few_bytes_and_to_the_pixel():
    probability = np.random.default_rng(0).random((64, 80)).astype(np.float32)
    own = draw_layer(probability > 0.5, style="heatmap", probability=probability)
    sent = views._heatmap(probability)
    with Image.open(io.BytesIO(base64.b64decode(sent.partition(",")[2]))) as picture:
        np.testing.assert_array_equal(np.asarray(picture.convert("RGBA")), own)
    assert len(sent) < len(data_uri(own)) / 2


def test_an_example_is_there_again_whatever_the_server_has_forgotten(network):
    """A page that shows one has perhaps never asked for it, or long ago."""
    network.runs.clear()
    server = Server(network)
    arrived, name = server.arrival(), views.ON_ARRIVAL.stem
    assert network.runs == [1]
    assert (
        f'data-shown="{name}"' in arrived.anatomy
        and arrived.report == server.measure(at(1, name), 0.5, 0, 0, PAGE).report
    )
    assert Path(
        server.saver("Mask")(at(2, name), 0.5, 0, 0, "fill", "#e69f00", 0.5, SimpleNamespace(session_hash="new"))
    )
    assert network.runs == [1]
    assert server.measure(at(1, views.EXAMPLES[1].stem), 0.5, 0, 0, SimpleNamespace(session_hash="other")).report


@pytest.mark.parametrize(("run", "sentence"), [("", events.FORGOTTEN), ("before", events.RESTARTED)])
def test_what_the_server_has_forgotten_is_said_and_stays_on_the_page(server, run, sentence):
    shown = run or server.run
    server.sessions.take("page", Session.clear, 2)
    for ask in (
        lambda: server.measure(at(3, shown), 0.5, 0, 0, PAGE),
        lambda: server.turn(at(3, shown), 0.5, 0, 0, 1, PAGE),
        lambda: server.pick(0.5, 0, 0, event(3, shown=shown, index=0), PAGE),
        lambda: server.compare(at(3, shown), 0.5, 0, 0, mask_file(), PAGE),
        lambda: server.saver("Mask")(at(3, shown), 0.5, 0, 0, "fill", "#e69f00", 0.5, PAGE),
    ):
        with pytest.raises(gr.Error, match=re.escape(sentence)):
            ask()
    # What is chosen then is shown.
    assert server.show_example(0.5, 0, 0, event(4, shown=shown, index=1), PAGE).anatomy


def test_a_cleared_page_is_empty_and_forgotten(server):
    assert server.clear(event(2), PAGE) == EMPTY_VIEW
    assert shown_by(server) is None


def test_a_volume_is_kept_in_half_of_the_memory_and_measured_without_its_lesions(network, tmp_path, monkeypatch):
    (tmp_path / "head.nii.gz").write_bytes(phantoms.nifti(phantoms.noise(32, 24, 5)))
    study = segment_files([tmp_path / "head.nii.gz"], network)
    assert {part.segmentation.probability.dtype for part in study.slices} == {np.dtype(np.float16)}
    areas = [cut.area_px for cut in study.cuts(Settings())]
    monkeypatch.setattr(
        "modeling_unet.segmentation.find_lesions", lambda *arguments: pytest.fail("lesions were measured")
    )
    assert [area for area, _ in study.extents(Settings())] == areas
    assert views.draw_overview(study, Settings()).count("<rect") == 5
    assert downloads.save_everything(study, Settings(), Look(), Origin("m")).endswith("head_mask.nii.gz")
    monkeypatch.undo()
    report = Path(downloads.save_report(study.turned_to(2), Settings(), Look(), Origin("m"))).read_text(
        encoding="utf-8"
    )
    assert "<title>head, slice 3 of 5" in report
    assert "0.5 × 0.5 mm (file)" in views.spacing_label(study)
    # Axial slices lie with the patient's right on the left; of a picture nobody knows.
    assert re.search(r"<b>R</b>\s*<b>L</b>", views.draw_slice(study, "run"))
    assert "<b>" not in views.draw_slice(study_of(20), "run")

    def with_spacing(spacing: tuple[float, float] | None) -> Study:
        return replace(
            study_of(20), slices=(replace(study.shown, segmentation=study.shown.segmentation.cut(spacing=spacing)),)
        )

    # Width × height, where the package has (row, column).
    assert "3 × 2 mm" in views.spacing_label(with_spacing((2, 3)))
    assert views.spacing_label(None) == views.spacing_label(with_spacing(None)) == views.SPACING_LABEL
