"""Slices without tumour: how many are taken, and whose."""

import logging
from collections import Counter

import numpy as np
import pytest
from datasets import Dataset
from scans import row

from train.data.slices import take_share


def scan(with_tumor: int, without: list[str], **changes) -> Dataset:
    """Slices with tumour of one person, and slices without of the persons that are listed."""
    rows = [row(number, person_id="p") for number in range(with_tumor)]
    rows += [row(100 + n, person_id=person, mask_area=0, **changes) for n, person in enumerate(without)]
    return Dataset.from_list(rows)


@pytest.mark.parametrize(("share", "taken"), [(0, 0), (0.2, 2), (0.5, 8), (0.9, 40)])
def test_slices_without_tumour_are_taken_up_to_their_share(share, taken):
    slices = take_share(scan(8, ["a"] * 40), share)
    assert Counter(area > 0 for area in slices["mask_area"]) == Counter({True: 8} | ({False: taken} if taken else {}))
    assert slices["slice"] == sorted(slices["slice"], key=lambda name: int(name[1:])), "their order stays"


def test_every_person_gives_as_many_as_the_others():
    slices = take_share(scan(9, ["a"] * 30 + ["b"] * 5 + ["c"] * 30), 0.5)
    counts = Counter(person for person, area in zip(slices["person_id"], slices["mask_area"], strict=True) if not area)
    assert counts == {"a": 3, "b": 3, "c": 3}


def test_the_same_ones_are_taken_whatever_else_there_is():
    few, more = (take_share(scan(8, persons), 0.2)["slice"][8:] for persons in (["a"] * 20, ["a"] * 20 + ["b"]))
    assert few[0] in more or few[1] in more
    assert take_share(scan(8, ["a"] * 20), 0.2)["slice"][8:] == few


def test_without_a_share_all_stay_and_nothing_is_said(caplog):
    whole = scan(3, ["a"] * 5)
    with caplog.at_level(logging.INFO):
        assert take_share(whole, None) is whole and not caplog.records


def test_blank_slices_of_volumes_are_left_out_and_counted(caplog):
    blank = {"volume": "v", "thumbnail": np.zeros((32, 32), np.uint8).tobytes()}
    with caplog.at_level(logging.INFO):
        assert len(take_share(scan(3, ["a"] * 5, **blank), None)) == 3
    assert "3 slices show tumour, 0 of the 0 without are taken; 5 blank ones, beside the head" in caplog.text
    assert len(take_share(scan(3, ["a"] * 5, **blank | {"volume": ""}), None)) == 8


def test_a_slice_with_a_fault_stays_to_be_named():
    assert len(take_share(scan(3, ["a"], problem_kind="unreadable"), 0)) == 4
