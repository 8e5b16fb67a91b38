"""Masks corrected by hand, as the server knows them: measured, named and saved for what they are."""

import io
import zipfile
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
from pages import load, save_model, saved, slice_of
from PIL import Image

from modeling_unet import read_mask
from space import downloads
from space.downloads import SAVERS, TABLE_COLUMNS, Look, pack
from space.events import Server
from space.network import Origin
from space.reading import segment_files
from space.requests import all_painted, painted
from space.sessions import Session
from space.studies import CORRECTED, Settings, Study
from space.views import draw_report


PAGE = SimpleNamespace(session_hash="page")
ORIGIN = Origin("tiny-unet", "v1")
RUNS = [61, 5, 40 * 30 - 66]
UNDONE = [{"index": 0, "runs": None}]


def by_hand() -> np.ndarray:
    """What `RUNS` says of a slice of 40 × 30."""
    mask = np.zeros((40, 30), bool)
    mask[2, 1:6] = True
    return mask


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return load(save_model(tmp_path_factory.mktemp("model")))


@pytest.fixture
def study(network, tmp_path) -> Study:
    return segment_files([saved(tmp_path / f"{name}.png", slice_of(40, 30, seed=ord(name))) for name in "ab"], network)


@pytest.fixture
def server(network, study) -> Server:
    server = Server(network)
    server.sessions.take("page", Session.choose, 1)
    server.sessions.take("page", Session.show, study, Settings(), 1)
    return server


def correct(server: Server, moment: int, **said) -> Study | None:
    server.correct(0.5, 0, 0, gr.EventData(None, {"moment": moment, **said}), PAGE)
    return server.sessions.get("page").study


def test_runs_are_a_mask():
    np.testing.assert_array_equal(painted(RUNS, 40, 30), by_hand())
    assert painted([0, 6], 2, 3).all() and not painted([6], 2, 3).any()
    assert painted(None, 2, 3) is None


@pytest.mark.parametrize("runs", [[], [5], [7], [-1, 7], [3, 2.0, 1], [True, 5], ["6"], "6", {}, [2**70], [6, 2**64]])
def test_runs_that_are_no_mask_of_the_slice_are_refused(runs):
    with pytest.raises(ValueError, match="does not fit the slice"):
        painted(runs, 2, 3)


def test_several_slices_are_painted_on_at_once_and_each_keeps_what_came_later(study):
    masks = all_painted([{"index": 1, "runs": RUNS}, *UNDONE], [(40, 30)] * 2)
    np.testing.assert_array_equal(masks[1], by_hand())
    later = study.corrected({0: by_hand()}, 5).corrected(masks, 4)
    np.testing.assert_array_equal([part.cut(Settings()).mask for part in later.slices], [by_hand(), by_hand()])


@pytest.mark.parametrize(
    "slices", [None, "all", {}, [3], [{}], [{"index": 2, "runs": RUNS}], [{"index": 0.0}], [{"index": -1}]]
)
def test_slices_that_are_not_there_are_refused(slices):
    with pytest.raises(ValueError, match=r"There are 2 to choose from|another type or value"):
        all_painted(slices, [(40, 30)] * 2)


def test_what_is_painted_is_measured_and_said(server, study):
    view = server.correct(0.5, 0, 0.5, gr.EventData(None, at(2, study)), PAGE)
    assert "data-corrected" in view.layers
    assert "5 px" in view.report and CORRECTED.replace("'", "&#x27;") in view.report
    assert "corrected by hand</h2>" in view.report and "found" not in view.report.partition("</h2>")[0]
    changed = server.sessions.get("page").study
    np.testing.assert_array_equal(changed.shown.cut(Settings(0.95)).mask, by_hand())  # no threshold changes it
    overview = server.survey(PAGE)
    assert overview.count("corrected by hand") == 3  # on the picture, twice, and in the table


def at(moment: int, study: Study) -> dict:
    return {"moment": moment, "study": study.token, "slices": [{"index": 0, "runs": RUNS}]}


def test_without_a_mask_the_network_counts_again(server, study):
    correct(server, **at(2, study))
    changed = correct(server, 3, study=study.token, slices=UNDONE)
    np.testing.assert_array_equal(changed.shown.cut(Settings()).mask, study.shown.segmentation.mask)
    assert CORRECTED not in changed.warnings


def test_a_stroke_that_arrives_late_or_is_of_another_study_changes_nothing(server, study):
    changed = correct(server, **at(5, study))
    assert correct(server, 4, study=study.token, slices=UNDONE) is changed
    assert correct(server, 6, study="another", slices=UNDONE) is changed
    # Whatever else the page has done meanwhile, the stroke counts.
    server.sessions.take("page", Session.change, lambda study: study.turned_to(1), 9)
    assert not correct(server, 7, study=study.token, slices=UNDONE).slices[0].is_corrected


def test_a_correction_takes_memory_that_is_counted(study):
    assert study.corrected({0: by_hand()}, 1).nbytes == study.nbytes + by_hand().nbytes


def test_saved_files_say_whose_mask_they_hold(study):
    own, changed = study.shown.segmentation.mask, study.corrected({0: by_hand()}, 1)
    saved_files = {kind: Path(save(changed, Settings(), Look(), ORIGIN)) for kind, save in SAVERS.items()}
    assert {kind: path.name for kind, path in saved_files.items()} == {
        "Overlay": "a_corrected_overlay.png",
        "Mask": "a_corrected_mask.png",
        "Probability": "a_probability.png",
        "Report": "a_corrected_report.html",
        "Network's mask": "a_mask.png",
    }
    np.testing.assert_array_equal(read_mask(saved_files["Mask"]), by_hand())
    np.testing.assert_array_equal(read_mask(saved_files["Network's mask"]), own)
    assert "corrected by hand" in saved_files["Report"].read_text(encoding="utf-8")
    assert Path(downloads.save_mask(study, Settings(), Look(), ORIGIN)).name == "a_mask.png"


def test_the_archive_holds_both_masks_and_the_table_says_which_counts(study):
    changed = study.corrected({0: by_hand()}, 1)
    with zipfile.ZipFile(io.BytesIO(pack(changed, Settings(), Look()))) as archive:
        assert {name for name in archive.namelist() if "mask" in name} == {
            "a_corrected_mask.png",
            "a_mask.png",
            "b_mask.png",
        }
        mask = np.asarray(Image.open(archive.open("a_corrected_mask.png")))
        rows = [line.split(",") for line in archive.read("summary.csv").decode().splitlines()]
    np.testing.assert_array_equal(mask > 0, by_hand())
    column = TABLE_COLUMNS.index("corrected_by_hand")
    assert [row[column] for row in rows[1:]] == ["True", "False"]
    # What was measured before the correction is measured anew.
    assert changed.summaries(Settings())[0]["area_px"] == by_hand().sum()


def test_an_unknown_kind_of_picture_is_not_doubted_any_more_where_a_hand_has_spoken(study):
    changed = study.corrected({0: np.zeros((40, 30), bool)}, 1)
    report = draw_report(changed, changed.shown.cut(Settings()), Settings(), ORIGIN)
    assert "No tumour, corrected by hand" in report
