"""`python -m train check`, from files to the report."""

import re
import shutil

import cv2
import numpy as np
import pytest
from datasets import Dataset
from PIL import Image
from scans import row
from slices import write_data_set, write_persons

from train.__main__ import main
from train.data.audit import Finding
from train.data.check import (
    check,
    draw_distributions,
    draw_flagged,
    format_markdown,
    format_text,
    summarize,
    write_pictures,
)
from train.data.raw import DataError


@pytest.fixture
def folder(tmp_path):
    return write_data_set(tmp_path / "data", 12)


@pytest.fixture
def persons(tmp_path):
    return write_persons(tmp_path / "persons.csv", [f"p{number // 2}" for number in range(12)])


def pictures_of(figure) -> list[np.ndarray]:
    return [image.get_array() for axes in figure.get_axes() for image in axes.get_images()]


# From end to end


def test_a_faultless_data_set_has_no_errors_and_leaves_no_files(folder, persons, tmp_path, capsys):
    before = set(tmp_path.rglob("*"))
    assert check(folder, persons) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^slices +12$", printed, re.MULTILINE)
    assert re.search(r"^persons +6$", printed, re.MULTILINE)
    assert re.search(r"^sizes +64 × 64$", printed, re.MULTILINE)
    assert re.search(r"^pixels +uint8$", printed, re.MULTILINE)
    assert "ERROR" not in printed
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.slow
def test_what_is_wrong_is_counted_printed_reported_and_drawn(folder, persons, tmp_path, capsys):
    for kind in ("images", "masks"):
        shutil.copy(folder / kind / "1.png", folder / kind / "3.png")
    cv2.imwrite(str(folder / "masks" / "5.png"), np.zeros((64, 64), np.uint8))
    (folder / "images" / "7.png").write_bytes(b"no image")
    out = tmp_path / "out"
    assert check(folder, persons, out=out) == 2
    printed, report = capsys.readouterr().out, (out / "report.md").read_text()
    for text in (printed, report):
        assert "unreadable (1 slice)" in text and "7.png" in text
        assert "one image, several persons (1 pair)" in text
        assert "empty masks (1 slice)" in text
    assert printed.index("ERROR  unreadable") < printed.index("warning  empty masks")
    assert {path.name for path in out.iterdir()} == {"report.md", "distributions.png", "flagged.png"}
    linked = re.findall(r"\]\((.+?)\)", report)
    assert linked == ["distributions.png", "flagged.png"]
    assert all(Image.open(out / name).width > 500 for name in linked)


def test_unknown_persons_are_a_warning(folder, capsys):
    assert check(folder) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^persons +not known$", printed, re.MULTILINE)
    assert "warning  persons not known" in printed and "--persons" in printed


def test_persons_that_cannot_be_assigned_are_an_error_beside_the_others(folder, tmp_path, capsys):
    (folder / "masks" / "5.png").unlink()
    some = write_persons(tmp_path / "persons.csv", ["a", "b"])
    assert check(folder, some, out=tmp_path / "out") == 2
    printed = capsys.readouterr().out
    assert "ERROR  persons\n  persons.csv names no person for 10 of 12 slices: 3, 4" in printed
    assert "ERROR  unpaired (1 slice)" in printed


def test_a_mask_threshold_is_passed_on(folder, persons):
    grey = np.full((64, 64), 20, np.uint8)
    grey[20:40, 20:40] = 230
    cv2.imwrite(str(folder / "masks" / "5.png"), grey)
    assert check(folder, persons) == 1
    assert check(folder, persons, mask_threshold=127) == 0


def test_a_source_that_is_none_is_refused(tmp_path):
    with pytest.raises(DataError, match="nowhere"):
        check(tmp_path / "nowhere")


def test_the_exit_code_tells_of_errors(folder, persons, capsys):
    assert main(["check", str(folder), "--persons", str(persons)]) == 0
    (folder / "masks" / "5.png").unlink()
    assert main(["check", str(folder), "--persons", str(persons)]) == 1


# Text


def test_facts_are_counted():
    rows = [row(number, mask_area=200 * (number + 1)) for number in range(5)]
    rows[0] |= {"dtype": "uint16", "mask_area": 0}
    rows[1] |= {"problem_kind": "unpaired", "height": 0, "width": 0, "dtype": ""}
    rows[2] |= {"height": 200, "split": "test", "fold": -1}
    facts = summarize(Dataset.from_list(rows))
    assert facts == {
        "slices": "5, 1 of them with a fault",
        "persons": "5",
        "tumour types": "glioma (3), meningioma (2)",
        "planes": "axial",
        "sizes": "200 × 100 (3), 200 × 200 (1)",
        "pixels": "uint8 (3), uint16 (1)",
        "masks": "1.5 to 5 % of the slice, median 4 %; 1 empty",
        "split": "train (4), test (1)",
        "slices per fold": "1, 1, 1, 1",
    }


def test_facts_of_a_scan_without_persons():
    scan = Dataset.from_list([row(0, person_id="", tumor_type="", plane="")]).remove_columns(["split", "fold"])
    facts = summarize(scan)
    assert facts["persons"] == "not known" and facts["tumour types"] == facts["planes"] == "unknown"
    assert "split" not in facts


def test_where_nothing_is_found_the_report_says_so():
    for text in (format_text({"slices": "1"}, []), format_markdown("data", {"slices": "1"}, [])):
        assert "Nothing was found" in text


def test_the_report_names_every_slice_where_the_message_does_not():
    names = tuple(f"s{number}" for number in range(8))
    few = Finding("tiny masks", "warning", names[:5], "Few.")
    many = Finding("empty masks", "warning", names, "Many.")
    pairs = Finding("near-duplicates", "warning", names * 2, "Pairs.", paired=True)
    assert "<details>" not in format_markdown("data", {}, [few])
    assert "s0, s1, s2, s3, s4, s5, s6, s7" in format_markdown("data", {}, [many])
    report = format_markdown("data", {}, [pairs])
    assert "near-duplicates (8 pairs)" in report and "s0 / s1, s2 / s3" in report


# Pictures


def test_distributions_count_every_sound_slice_once():
    rows = [row(number, person_id=f"p{number // 3}", tumor_type="glioma", mask_area=number) for number in range(12)]
    rows[0]["problem_kind"] = "unreadable"
    figure = draw_distributions(Dataset.from_list(rows))
    persons, areas, sizes, planes = figure.get_axes()
    heights = [sum(bar.get_height() for bar in axes.patches) for axes in (persons, areas)]
    assert heights == [4, 11]
    assert [sum(bar.get_width() for bar in axes.patches) for axes in (sizes, planes)] == [11, 11]


@pytest.mark.parametrize(
    "changes",
    [{"mask_area": 0}, {"person_id": "s0"}, {"tumor_type": "", "plane": "", "person_id": ""}],
    ids=["empty mask", "no persons", "scan alone"],
)
def test_distributions_are_drawn_of_little(changes):
    assert draw_distributions(Dataset.from_list([row(0, **changes)])) is not None


def test_without_a_sound_slice_there_is_no_distribution():
    assert draw_distributions(Dataset.from_list([row(0, problem_kind="unpaired")])) is None


@pytest.fixture
def drawn(folder):
    """A table of four slices with pictures; the mask of s2 does not fit, that of s3 is missing."""
    rows = []
    for number in range(4):
        picture, mask = ({"path": str(folder / kind / f"{number + 1}.png")} for kind in ("images", "masks"))
        rows.append(row(number, image=picture | {"bytes": None}, mask=mask | {"bytes": None}))
    rows[2] |= {"problem_kind": "size mismatch"}
    rows[3] |= {"mask": None, "problem_kind": "unpaired"}
    return Dataset.from_list(rows)


def test_flagged_slices_show_the_outline_of_their_mask_if_it_fits(drawn):
    pictures = pictures_of(draw_flagged(drawn, [Finding("…", "error", ("s0", "s2", "s3"), "…")]))
    assert {picture.shape for picture in pictures} == {(256, 256, 3)}
    coloured = [(picture.max(axis=2) > picture.min(axis=2)).any() for picture in pictures]
    assert coloured == [True, False, False]


def test_of_one_finding_eight_slices_are_drawn(drawn):
    figure = draw_flagged(drawn, [Finding("near-duplicates", "warning", ("s0", "s1") * 6, "…", paired=True)])
    assert len(pictures_of(figure)) == 8
    assert figure.subfigs[0].get_suptitle() == "warning: near-duplicates (6 pairs)"


def test_findings_share_a_line_as_long_as_they_fit(drawn):
    findings = [Finding(f"kind {n}", "error", ("s0", "s1", "s2"), "…") for n in range(3)]
    figure = draw_flagged(drawn, findings)
    titles = [subfigure.get_suptitle().strip() for subfigure in figure.subfigs]
    assert [title[:13] for title in titles] == ["error: kind 0", "", "error: kind 1", "", "error: kind 2", "", "", ""]


@pytest.mark.slow
def test_an_older_sheet_of_flagged_slices_does_not_survive(drawn, tmp_path):
    (tmp_path / "flagged.png").write_bytes(b"of an earlier check")
    assert write_pictures(drawn, [], tmp_path) == ["distributions.png"]
    assert not (tmp_path / "flagged.png").exists()


def test_nothing_is_drawn_where_no_image_can_be_read(drawn):
    missing = {"path": "nowhere/1.png", "bytes": None}
    unread = Dataset.from_list([row(0, image=missing, problem_kind="unreadable")])
    assert draw_flagged(unread, [Finding("unreadable", "error", ("s0",), "…")]) is None
    assert draw_flagged(drawn, [Finding("few persons", "warning", (), "…")]) is None
