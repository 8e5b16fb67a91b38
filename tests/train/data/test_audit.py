"""What is found in the scan of a data set, on tables made by hand."""

import logging

import cv2
import numpy as np
import pytest
from datasets import Dataset
from scans import SIDE, row, thumbnail
from slices import draw_slice

from train.data import audit
from train.data.audit import Finding, fast_findings, near_duplicates, persons_known, refuse, slice_findings
from train.data.raw import DataError


def table(*rows: dict, filled_up_to: int = 24) -> Dataset:
    """The rows, and after them as many faultless ones as it takes."""
    return Dataset.from_list([*rows, *(row(number) for number in range(len(rows), filled_up_to))])


def found(*rows: dict, filled_up_to: int = 24) -> dict[str, Finding]:
    findings = fast_findings(table(*rows, filled_up_to=filled_up_to))
    assert len({finding.kind for finding in findings}) == len(findings)
    return {finding.kind: finding for finding in findings}


def test_nothing_is_found_where_nothing_is_wrong():
    assert fast_findings(table()) == near_duplicates(table()) == []


# Single slices


def test_problems_of_the_scan_become_one_error_for_each_kind():
    kinds = {
        0: ("unreadable", "0.png: the file is empty."),
        1: ("not binary", "1.png holds 7."),
        3: ("unreadable", "3.png: …"),
    }
    rows = [row(n, problem_kind=kinds[n][0], problem=kinds[n][1]) if n in kinds else row(n) for n in range(4)]
    assert found(*rows) == {
        "unreadable": Finding("unreadable", "error", ("s0", "s3"), "0.png: the file is empty. The same goes for s3."),
        "not binary": Finding("not binary", "error", ("s1",), "1.png holds 7."),
    }


def test_of_many_names_a_message_gives_five_and_the_finding_all():
    rows = [row(number, problem_kind="unpaired", problem=f"{number}.png has no partner.") for number in range(9)]
    finding = found(*rows, filled_up_to=30)["unpaired"]
    assert finding.message == "0.png has no partner. The same goes for s1, s2, s3, s4, s5 and 3 more."
    assert len(finding.slices) == 9


def test_a_faulty_slice_is_found_once():
    unread = {"image_sha256": "", "mask_sha256": "", "mask_area": 0, "height": 0, "width": 0, "thumbnail": b""}
    rows = [row(number, problem_kind="unreadable", problem="…", **unread) for number in range(2)]
    assert list(found(*rows)) == ["unreadable"]
    assert near_duplicates(table(*rows)) == []


def test_a_data_set_without_a_single_sound_slice_is_still_examined():
    rows = [row(number, problem_kind="unreadable", problem="…", thumbnail=b"") for number in range(3)]
    assert list(found(*rows, filled_up_to=3)) == ["unreadable"]
    assert near_duplicates(table(*rows, filled_up_to=3)) == []


def test_coloured_images_are_an_error_with_their_names():
    finding = found(row(0), row(1, coloured=True), row(2, coloured=True))["coloured images"]
    assert (finding.severity, finding.slices) == ("error", ("s1", "s2"))


def test_labels_that_a_threshold_leaves_out_are_a_warning():
    finding = found(row(0, labels_left_out="1, 2"), row(1), row(2, labels_left_out="all"))["labels left out"]
    assert (finding.severity, finding.slices) == ("warning", ("s0", "s2"))
    assert "s0 (1, 2), s2 (all)" in finding.message


BLANK = {"image_sha256": "blank", "thumbnail": bytes(SIDE * SIDE)}


def test_a_tumour_in_an_image_of_one_value_is_an_error():
    finding = found(row(0, **BLANK))["blank images"]
    assert (finding.severity, finding.slices) == ("error", ("s0",))


def test_images_of_one_value_without_a_tumour_are_no_duplicates():
    rows = [row(number, **BLANK, mask_area=0, mask_sha256="empty") for number in range(3)]
    assert list(found(*rows)) == ["empty masks"]
    assert near_duplicates(table(*rows)) == []


def test_some_empty_masks_are_a_warning_and_nothing_else_an_error():
    some = found(*(row(number, mask_area=0, mask_sha256="empty") for number in range(3)))
    assert list(some) == ["empty masks"]
    assert some["empty masks"].severity == "warning"
    assert some["empty masks"].message.startswith("3 of 24 masks show no tumour: s0, s1, s2.")
    everywhere = found(*(row(number, mask_area=0, mask_sha256="empty") for number in range(24)))
    assert everywhere["empty masks"].severity == "error"


@pytest.mark.parametrize(
    ("area", "kind"),
    [(9, "tiny masks"), (10, None), (10_000, None), (10_001, "large masks")],
    ids=["9 px", "10 px", "half", "over half"],
)
def test_masks_of_odd_sizes_are_warned_of(area, kind):
    findings = found(row(0, mask_area=area))
    assert list(findings) == ([kind] if kind else [])
    assert all(finding.severity == "warning" and finding.slices == ("s0",) for finding in findings.values())


# Images and masks


def test_one_image_of_several_persons_is_an_error_that_names_them():
    shared = {"image_sha256": "same", "mask_sha256": "same"}
    finding = found(row(0, **shared), row(1), row(2, **shared), row(3, **shared))["one image, several persons"]
    assert (finding.severity, finding.paired) == ("error", True)
    assert finding.slices == ("s0", "s2", "s0", "s3")
    assert "s0 (person p0) / s2 (person p2), s0 (person p0) / s3 (person p3)" in finding.message


def test_one_slice_twice_of_one_person_is_a_warning():
    shared = {"image_sha256": "same", "mask_sha256": "same", "person_id": "p0", "tumor_type": "glioma"}
    findings = found(row(0, **shared), row(1, **shared))
    assert list(findings) == ["repeated slices"]
    assert (findings["repeated slices"].severity, findings["repeated slices"].slices) == ("warning", ("s0", "s1"))


def test_one_image_with_two_masks_is_an_error():
    shared = {"image_sha256": "same", "person_id": "p0", "tumor_type": "glioma"}
    findings = found(row(0, **shared), row(1, **shared), row(2, **shared, mask_sha256="mask 1"))
    assert findings["one image, several masks"].severity == "error"
    assert findings["one image, several masks"].slices == ("s0", "s1")
    assert findings["repeated slices"].slices == ("s1", "s2")


def test_one_mask_of_two_images_is_a_warning():
    findings = found(row(0, mask_sha256="same"), row(1, mask_sha256="same"))
    assert list(findings) == ["repeated masks"]
    assert (findings["repeated masks"].severity, findings["repeated masks"].slices) == ("warning", ("s0", "s1"))


def drawn_rows(count: int = audit.MIN_MASKS_TO_FIT, change=lambda mask: mask, offset: int = 0) -> list[dict]:
    """Bright discs and their masks, which `change` puts elsewhere, or which are those of the slice `offset` later."""
    rng = np.random.default_rng(0)
    pictures = [draw_slice(rng) for _ in range(count)]
    rows = []
    for number, (image, _) in enumerate(pictures):
        mask = np.ascontiguousarray(change(pictures[(number + offset) % count][1]))
        small = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        picture = {"path": "mask.png", "bytes": cv2.imencode(".png", mask)[1].tobytes()}
        rows.append(row(number, mask=picture, thumbnail=small.tobytes()))
    return rows


def test_masks_that_lie_on_their_tumours_are_left_alone():
    assert slice_findings(Dataset.from_list(drawn_rows())) == []


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (np.fliplr, "mirrored left to right"),
        (np.flipud, "mirrored top to bottom"),
        (lambda mask: np.rot90(mask, 2), "turned upside down"),
        # np.rot90 turns to the left, so that the masks need a turn to the right.
        (np.rot90, "turned a quarter to the right"),
        (lambda mask: np.rot90(mask, -1), "turned a quarter to the left"),
        (np.transpose, "transposed"),
        (lambda mask: np.rot90(mask, 2).T, "transposed along the other diagonal"),
    ],
)
def test_masks_that_lie_another_way_are_warned_of(change, what):
    (finding,) = slice_findings(Dataset.from_list(drawn_rows(change=change)))
    assert (finding.kind, finding.severity) == ("misplaced masks", "warning")
    assert f"if the masks were {what}, by" in finding.message


def test_masks_of_other_images_are_warned_of():
    (finding,) = slice_findings(Dataset.from_list(drawn_rows(offset=audit.MIN_MASKS_TO_FIT // 2)))
    assert "if the masks were given to other images, by" in finding.message


def test_of_few_masks_it_is_not_said_that_they_are_misplaced():
    assert slice_findings(Dataset.from_list(drawn_rows(audit.MIN_MASKS_TO_FIT - 1, change=np.flipud))) == []


# Persons


def test_ids_that_differ_in_spelling_alone_are_warned_of():
    ids = ["07", "7", "P-3", "p 3", "MR040240", "MR040240B", "1-12", "11-2"]
    finding = found(*(row(number, person_id=person) for number, person in enumerate(ids)))["similar person ids"]
    assert finding.severity == "warning"
    assert "07 / 7, P-3 / p 3." in finding.message


def test_a_person_of_two_tumour_types_is_warned_of():
    finding = found(row(0, person_id="1"), row(1, person_id="1"))["persons of several types"]
    assert finding.severity == "warning" and "1 (glioma / meningioma)" in finding.message


@pytest.mark.parametrize(("persons", "warned"), [(19, True), (20, False)])
def test_few_persons_are_warned_of(persons, warned):
    assert ("few persons" in found(filled_up_to=persons)) == warned


@pytest.mark.parametrize(("slices", "warned"), [(10, False), (11, True)])
def test_a_person_with_over_a_third_of_the_slices_is_warned_of(slices, warned):
    rows = [row(number, person_id="one", tumor_type="glioma") for number in range(slices)]
    findings = found(*rows, filled_up_to=30)
    assert ("dominant person" in findings) == warned
    assert not warned or "11 of 30 slices are of person one" in findings["dominant person"].message


def test_a_tumour_type_of_a_single_person_is_warned_of():
    rows = [row(number, person_id="one", tumor_type="pituitary") for number in range(3)]
    finding = found(*rows, row(3, tumor_type="unknown"))["lone tumour types"]
    assert finding.severity == "warning" and finding.message.endswith(": pituitary.")


def test_where_persons_are_not_known_nothing_is_said_of_them_but_copies_are_found():
    rows = [row(number, person_id=f"s{number}", tumor_type="unknown") for number in range(6)]
    rows[5]["image_sha256"] = rows[0]["image_sha256"]
    rows[5]["mask_sha256"] = rows[0]["mask_sha256"]
    assert not persons_known(table(*rows, filled_up_to=6))
    findings = found(*rows, filled_up_to=6)
    assert list(findings) == ["one image, several persons"]
    assert "s0 / s5." in findings["one image, several persons"].message


def test_what_the_scan_alone_shows_needs_no_persons():
    rows = [row(number, person_id="", tumor_type="", image_sha256="same") for number in range(3)]
    scan = table(*rows, filled_up_to=3).remove_columns(["split", "fold"])
    assert [finding.kind for finding in slice_findings(scan)] == ["one image, several masks"]


# Near-duplicates


def correlated(thumbnail: np.ndarray, correlation: float, seed: int) -> bytes:
    """A thumbnail that correlates so much with another one (up to rounding)."""
    ours = thumbnail - thumbnail.mean()
    noise = np.random.default_rng(seed).normal(size=ours.shape)
    noise -= noise.mean()
    noise -= ours * (noise * ours).sum() / (ours**2).sum()
    noise *= np.linalg.norm(ours) / np.linalg.norm(noise)
    mixed = correlation * ours + np.sqrt(1 - correlation**2) * noise
    return np.rint(255 * (mixed - mixed.min()) / np.ptp(mixed)).astype(np.uint8).tobytes()


def copies(*correlations: float, **changes) -> list[dict]:
    """Slices 0, 2, 4, …, and after each a copy that correlates with it."""
    rows = []
    for number, correlation in enumerate(correlations):
        rows.append(row(2 * number))
        changed = correlated(thumbnail(2 * number), correlation, seed=1000 + number)
        rows.append(row(2 * number + 1, thumbnail=changed, **changes))
    return rows


@pytest.mark.parametrize("chunk", [5, 256])
def test_near_duplicates_come_in_pairs_the_closest_first(monkeypatch, chunk):
    monkeypatch.setattr(audit, "CHUNK", chunk)
    (finding,) = near_duplicates(table(*copies(0.98, 0.96, 0.999)))
    assert (finding.kind, finding.severity, finding.paired) == ("near-duplicates", "warning", True)
    assert finding.slices == ("s4", "s5", "s0", "s1")
    assert "s4 (person p4) / s5 (person p5), s0 (person p0) / s1 (person p1)." in finding.message


@pytest.mark.parametrize("changes", [{"person_id": "p0"}, {"image_sha256": "image 0"}], ids=["person", "image"])
def test_near_duplicates_of_one_person_and_equal_images_are_left_to_others(changes):
    assert near_duplicates(table(*copies(0.999, **changes))) == []


def test_one_pair_among_hundreds_is_found():
    """Slices of a few families, so that everybody has many neighbours."""
    rng = np.random.default_rng(5)
    families = rng.integers(0, 255, (8, SIDE, SIDE))
    rows = [row(number) for number in range(600)]
    for number, made in enumerate(rows):
        noise = rng.normal(0, 60, (SIDE, SIDE))
        made["thumbnail"] = np.clip(families[number % 8] + noise, 0, 255).astype(np.uint8).tobytes()
    original = np.frombuffer(rows[70]["thumbnail"], np.uint8).reshape(SIDE, SIDE)
    rows[530]["thumbnail"] = correlated(original.astype(float), 0.98, seed=9)
    (finding,) = near_duplicates(table(*rows, filled_up_to=0))
    assert finding.slices == ("s70", "s530")


def test_however_many_slices_look_alike_there_are_at_most_as_many_pairs():
    rows = [row(number, thumbnail=correlated(thumbnail(0), 0.999, seed=number)) for number in range(40)]
    (finding,) = near_duplicates(table(*rows))
    pairs = list(zip(finding.slices[::2], finding.slices[1::2], strict=True))
    assert 20 <= len(pairs) <= 40
    assert len({frozenset(pair) for pair in pairs}) == len(pairs)


# Refusal


def test_errors_come_first():
    rows = [row(0, mask_area=0), row(1, problem_kind="unreadable", problem="1.png: …"), row(2, mask_area=1)]
    assert [finding.severity for finding in fast_findings(table(*rows))] == ["error", "warning", "warning"]


def test_warnings_are_logged_and_refuse_nothing(caplog):
    with caplog.at_level(logging.WARNING):
        refuse([Finding("tiny masks", "warning", ("s1",), "Are these slips of the pen?")])
    assert caplog.messages == ["Tiny masks: Are these slips of the pen?"]


def test_errors_are_refused_five_by_name_and_with_the_command_that_tells_more(caplog):
    findings = [Finding(f"kind {number}", "error", (), f"Message {number}.") for number in range(7)]
    with pytest.raises(DataError) as refusal:
        refuse([*findings, Finding("empty masks", "warning", (), "Few.")])
    lines = str(refusal.value).splitlines()
    assert lines[1:-1] == [*(f"- kind {number}: Message {number}." for number in range(5)), "- and 2 more"]
    assert "python -m train check" in lines[-1]
    assert "Few." in caplog.text
