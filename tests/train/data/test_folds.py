import logging
from collections import Counter

import numpy as np
import pytest
from datasets import Dataset
from slices import write_manifest, write_persons

from train.data import folds
from train.data.folds import all_indices, assign_folds, assign_persons, available_folds, read_manifest, split_fold
from train.data.raw import DataError


def scan(count: int = 12, **columns: list[str]) -> Dataset:
    """The columns of a scan that persons and folds follow from."""
    blank = {name: [""] * count for name in ("person_id", "tumor_type", "plane", "split", "volume")}
    stems = [str(number) for number in range(1, count + 1)]
    return Dataset.from_dict({"slice": stems, "mask_sha256": [f"hash{stem}" for stem in stems], **blank, **columns})


@pytest.fixture
def manifest(tmp_path, monkeypatch):
    """A manifest that knows slices 1 to 10 of `scan` by hash, 9 and 10 as examples, and 11, 12 as test slices."""
    rows = []
    for number in range(1, 13):
        split = "test" if number > 10 else "example" if number > 8 else "train"
        row = {"slice": number, "person_id": f"0{number % 5}", "official_fold": number % 3 + 1, "split": split}
        row["patient_id"] = f"{row['person_id']}{'AB'[number % 2]}"
        row["fold"] = number % 5 if split == "train" else ""
        row["mask_sha256"] = "" if split == "test" else f"hash{number}"
        rows.append(row)
    path = write_manifest(tmp_path / "manifest.csv", rows)
    monkeypatch.setattr(folds, "MANIFEST", path)


# The public data set


def test_the_known_data_set_brings_its_persons_and_folds(manifest):
    row = assign_persons(scan())[3]
    assert (row["person_id"], row["tumor_type"], row["plane"], row["split"], row["fold"]) == (
        *("04", "glioma", "axial"),
        *("train", 4),
    )


def test_test_and_example_slices_of_the_known_data_set_are_in_no_fold(manifest):
    training, validation = split_fold(assign_persons(scan()), 0)
    assert {*training["slice"], *validation["slice"]} == {str(number) for number in range(1, 9)}


def test_names_prove_nothing(manifest, caplog):
    assigned = assign_persons(scan(mask_sha256=["another"] * 12))
    assert set(assigned["tumor_type"]) == {"unknown"}
    assert "The persons are not known" in caplog.text


def test_a_changed_mask_in_the_known_data_set_is_named(manifest):
    """Else one edited file would turn the split by person into one by slice, test slices included."""
    hashes = [f"hash{number}" if number != 3 else "edited" for number in range(1, 13)]
    with pytest.raises(DataError, match=r"1 of 12 masks are not the public data set's.*: 3; take them out"):
        assign_persons(scan(mask_sha256=hashes))


def test_a_slice_more_than_the_known_data_set_has_is_named(manifest):
    with pytest.raises(DataError, match=r"1 of 13 masks are not the public data set's.*: 13; take them out"):
        assign_persons(scan(13))


def test_an_unreadable_mask_does_not_hide_the_known_data_set(manifest):
    hashes = [f"hash{number}" if number != 3 else "" for number in range(1, 13)]
    assert assign_persons(scan(mask_sha256=hashes))["person_id"][2] == "03"


def test_the_known_data_set_can_be_dealt_out_anew(manifest):
    assigned = assign_persons(scan(), num_folds=3)
    assert available_folds(assigned) == [0, 1, 2]
    assert [fold for fold, split in zip(assigned["fold"], assigned["split"], strict=True) if split != "train"] == [
        -1
    ] * 4


def test_a_persons_file_does_not_bring_its_test_and_example_slices_into_training(manifest, tmp_path):
    persons = write_persons(tmp_path / "persons.csv", [f"p{number}" for number in range(12)])
    assigned = assign_persons(scan(), persons)
    assert assigned["split"] == ["train"] * 8 + ["example"] * 2 + ["test"] * 2
    assert [fold == -1 for fold in assigned["fold"]] == [False] * 8 + [True] * 4
    assert set(assign_persons(scan(mask_sha256=["another"] * 12), persons)["split"]) == {"train"}


def test_official_folds_part_patient_ids_of_every_slice_that_is_there(manifest, caplog):
    assigned = assign_persons(scan(), official_folds=True)
    assert assigned["fold"] == [number % 3 + 1 for number in range(1, 13)]
    assert assigned["person_id"][:2] == ["01B", "02A"]
    assert "5 persons with several ids are in more than one fold" in caplog.text


def test_official_folds_are_refused_for_other_data(manifest):
    with pytest.raises(DataError, match="not its masks"):
        assign_persons(scan(mask_sha256=["another"] * 12), official_folds=True)
    with pytest.raises(DataError, match="leave --persons and --num_folds out"):
        assign_persons(scan(), num_folds=3, official_folds=True)


def test_the_shipped_manifest_keeps_every_person_on_one_side():
    rows = list(read_manifest().values())
    assert len(rows) == 3064
    sides = {}
    for row in rows:
        sides.setdefault(row["person_id"], set()).add((row["split"], row["fold"]))
    assert all(len(side) == 1 for side in sides.values())
    assert all(row["fold"] == "" for row in rows if row["split"] in ("test", "example"))
    assert len({row["mask_sha256"] for row in rows if row["mask_sha256"]}) == 2663


# A given split


def given(*splits: str) -> Dataset:
    """A slice of another person for each word."""
    return scan(len(splits), split=[*splits], person_id=[f"p{number}" for number in range(len(splits))])


def test_what_the_source_marks_as_test_or_example_is_in_no_fold(caplog):
    with caplog.at_level(logging.INFO):
        assigned = assign_persons(given(*["train"] * 8, "test", "test", "example", ""), num_folds=3)
    assert [fold == -1 for fold in assigned["fold"]] == [False] * 8 + [True] * 3 + [False]
    assert assigned["split"][7:] == ["train", "test", "test", "example", "train"]
    sides = [row for fold in range(3) for row in split_fold(assigned, fold)]
    assert not {"9", "10", "11"} & {name for side in sides for name in side["slice"]}
    assert "9" not in {assigned["slice"][index] for index in all_indices(assigned)}
    assert "Kept out of training and validation: 2 slices marked test, 1 slices marked example." in caplog.text


def test_a_given_validation_split_is_the_fold_that_validates(caplog):
    with caplog.at_level(logging.INFO):
        assigned = assign_persons(given("train", "validation", "train", "test", "validation"))
    assert available_folds(assigned) == [0]
    training, validation = split_fold(assigned, 0)
    assert (training["slice"][:], validation["slice"][:]) == (["1", "3"], ["2", "5"])
    assert [assigned["slice"][index] for index in all_indices(assigned)] == ["1", "2", "3", "5"]
    assert "says itself what validates" in caplog.text
    with pytest.raises(DataError, match="There is no fold 1; this data set has 0"):
        split_fold(assigned, 1)


def test_a_given_validation_split_is_dealt_out_where_that_is_asked_for(caplog):
    with caplog.at_level(logging.INFO):
        assigned = assign_persons(given("train", "validation", "train", "test", "validation"), num_folds=2)
    assert available_folds(assigned) == [0, 1]
    assert [name for name, fold in zip(assigned["slice"], assigned["fold"], strict=True) if fold == -1] == ["4"]
    assert "--num_folds" in caplog.text


def test_a_person_on_both_sides_of_a_given_split_is_refused():
    slices = scan(3, split=["train", "train", "validation"], person_id=["a", "b", "a"])
    with pytest.raises(DataError, match="has 1 persons in both training and validation: a; put each on one side"):
        assign_persons(slices)
    assert available_folds(assign_persons(slices, num_folds=2)) == [0, 1]


def test_a_split_of_another_name_is_refused():
    with pytest.raises(DataError, match=r"has the splits holdout, and .* known are train, validation, test, example"):
        assign_persons(given("train", "holdout"))


def test_the_known_data_set_keeps_what_the_source_marks_too(manifest):
    """Slice 1 trains by the manifest, and its owner has put it aside."""
    assigned = assign_persons(scan(split=["test", *[""] * 11]))
    assert assigned["split"][:2] == ["test", "train"] and assigned["fold"][0] == -1
    assert set(assigned["split"][8:]) == {"example", "test"}


def test_a_persons_file_may_give_the_split(tmp_path):
    lines = [f"{number},p{number},{'Val' if number > 9 else 'test' if number > 8 else ''}" for number in range(1, 13)]
    (tmp_path / "persons.csv").write_text("\n".join(["slice,person_id,split", *lines]))
    assigned = assign_persons(scan(split=["", "test", *[""] * 10]), tmp_path / "persons.csv")
    assert assigned["split"] == ["train", "test", *["train"] * 6, "test", *["validation"] * 3]


def test_a_person_on_both_sides_of_what_is_kept_out_is_said(caplog):
    assign_persons(scan(3, split=["train", "train", "test"], person_id=["a", "b", "a"]), num_folds=2)
    assert "1 persons have slices that train or validate and others that are kept out" in caplog.text


def test_where_all_is_kept_out_there_is_nothing_to_train_on():
    assigned = assign_persons(given("test", "example"))
    for choose in (all_indices, lambda slices: split_fold(slices, 0)):
        with pytest.raises(DataError, match="None of the 2 slices may train: all are marked test or example"):
            choose(assigned)


def test_persons_alone_are_assigned_however_few_they_are():
    assert assign_persons(given("train"), without_folds=True)["fold"] == [-1]


# Data of one's own


def test_without_persons_it_says_what_the_split_cannot_promise(caplog):
    with caplog.at_level(logging.WARNING):
        assign_persons(scan())
    assert "The persons are not known" in caplog.text and "--persons" in caplog.text


def test_persons_of_the_source_are_taken(caplog):
    persons = [f"{number % 6:03}" for number in range(12)]
    assigned = assign_persons(scan(person_id=persons, tumor_type=["glioma"] * 12))
    assert assigned["person_id"] == persons and set(assigned["tumor_type"]) == {"glioma"}
    assert not caplog.records


def test_a_source_that_knows_only_some_persons_is_refused():
    with pytest.raises(DataError, match="names no person for 2 of 12 slices: 11, 12"):
        assign_persons(scan(person_id=["a"] * 10 + ["", ""]))


def test_a_persons_file_keeps_ids_as_written_and_persons_together(tmp_path, caplog):
    ids = ["0012", "12", "a", "b", "c", "d"]
    slices = assign_persons(scan(), write_persons(tmp_path / "persons.csv", [*ids, *ids]))
    assert slices["person_id"][:2] == ["0012", "12"]
    assert not caplog.records
    for fold in range(5):
        training, validation = split_fold(slices, fold)
        assert not set(training["person_id"]) & set(validation["person_id"])
        assert len(training) + len(validation) == 12


def test_persons_file_errors_name_column_slices_and_file(tmp_path):
    path = write_persons(tmp_path / "persons.csv", ["a"] * 10)
    with pytest.raises(DataError, match=r"persons\.csv names no person for 2 of 12 slices: 11, 12"):
        assign_persons(scan(), path)
    path.write_bytes(b"PK\x03\x04" + bytes(200))
    with pytest.raises(DataError, match=r"persons\.csv is a spreadsheet, of which a CSV file is needed"):
        assign_persons(scan(), path)
    path.write_text("name,who\n1,a\n")
    with pytest.raises(DataError, match=r"persons\.csv has the columns name, who; say with --person_column which"):
        assign_persons(scan(), path)
    path.write_text("name,person\nx,a\n")
    with pytest.raises(DataError, match=r"columns name, person, and none of them names slices such as 1, 2\."):
        assign_persons(scan(), path)
    path.write_text("name,patient,subject\n1,a,b\n")
    with pytest.raises(DataError, match=r"has patient and subject; say with --person_column which of them"):
        assign_persons(scan(), path)
    with pytest.raises(DataError, match=r"--person_column is who; the columns of persons\.csv are name, patient"):
        assign_persons(scan(), path, person_column="who")
    with pytest.raises(DataError, match=r"nowhere\.csv cannot be read"):
        assign_persons(scan(), tmp_path / "nowhere.csv")


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        ("slice,person_id\n{0},07\n{1},7\n", "utf-8"),
        ("Patient ID;Datei;Größe\n07;{0}.png;3\n7;{1}.png;4\n", "cp1252"),
        ("n\tfile\tsubject\n1\timages/{0}.tif\t07\n2\timages/{1}.tif\t7\n", "utf-16"),
        ("mask|patient_number\n{0}_mask.png|07\n{1}_mask.png|7\n", "utf-8-sig"),
    ],
    ids=["usual", "semicolons", "tabs", "bars"],
)
def test_a_persons_file_may_have_any_columns_separators_and_names_of_files(content, encoding, tmp_path):
    path = tmp_path / "persons.csv"
    path.write_text(content.format("head-a", "head-b"), encoding=encoding)
    assigned = assign_persons(scan(2, slice=["head-a", "head-b"]), path, num_folds=2)
    assert assigned["person_id"][:] == ["07", "7"]


def test_a_persons_file_may_name_volumes(tmp_path):
    path = tmp_path / "persons.csv"
    path.write_text("scan,person\nv1.nii.gz,a\nv2.nii.gz,b\n")
    names = {"slice": [f"v{n}-axial-00{k}" for n in (1, 2) for k in (1, 2)], "volume": ["v1", "v1", "v2", "v2"]}
    assert assign_persons(scan(4, **names), path, num_folds=2)["person_id"][:] == ["a", "a", "b", "b"]


def test_a_name_in_two_folders_is_nobodys_unless_the_folder_is_written(tmp_path):
    path = tmp_path / "persons.csv"
    names = {"slice": ["a/1", "b/1", "b/2"]}
    path.write_text("slice,person_id\na/1,x\nb/1,y\n2,z\n")
    assert assign_persons(scan(3, **names), path, num_folds=2)["person_id"][:] == ["x", "y", "z"]
    path.write_text("slice,person_id\na\\1.png,x\nb\\1.png,y\nb\\2.png,z\n")
    assert assign_persons(scan(3, **names), path, num_folds=2)["person_id"][:] == ["x", "y", "z"]
    path.write_text("slice,person_id\n1,x\n2,z\n")
    with pytest.raises(DataError, match="names no person for 2 of 3 slices: a/1, b/1"):
        assign_persons(scan(3, **names), path, num_folds=2)


def test_the_column_of_persons_can_be_named(tmp_path):
    path = tmp_path / "persons.csv"
    path.write_text("slice,person_id,family\n1,a,f\n2,b,g\n")
    assert assign_persons(scan(2), path, num_folds=2, person_column="family")["person_id"][:] == ["f", "g"]


# Folds


def test_folds_are_balanced_deterministic_and_grouped():
    persons = [f"p{number}" for number in range(40) for _ in range(number % 7 + 1)]
    dealt = assign_folds(persons)
    assert dealt == assign_folds(persons)
    assert all(len({fold for other, fold in zip(persons, dealt, strict=True) if other == p}) == 1 for p in set(persons))
    sizes = np.bincount(dealt)
    assert len(sizes) == 5 and sizes.max() - sizes.min() <= 2


def test_folds_do_not_depend_on_the_order_of_the_slices():
    persons = [f"p{number}" for number in range(20) for _ in range(number % 4 + 1)]
    fold_of = dict(zip(persons, assign_folds(persons), strict=True))
    assert dict(zip(persons[::-1], assign_folds(persons[::-1]), strict=True)) == fold_of


def test_folds_have_about_equally_many_slices_of_every_tumor_type():
    persons = [f"p{number}" for number in range(60) for _ in range(number % 5 + 1)]
    types = [("rare" if int(person[1:]) % 6 == 0 else "common") for person in persons]
    dealt = assign_folds(persons, types, num_folds=4)
    for tumor_type in ("rare", "common"):
        counts = Counter(fold for fold, other in zip(dealt, types, strict=True) if other == tumor_type)
        assert len(counts) == 4 and max(counts.values()) - min(counts.values()) <= 3


def test_folds_need_enough_persons():
    with pytest.raises(DataError, match=r"need at least 5 persons; this data set has 2\. Give --num_folds 2, or"):
        assign_folds(["a", "b", "a"])
    with pytest.raises(DataError, match=r"this data set has 1\. Train on all of them by --all_persons true, where nob"):
        assign_folds(["a", "a"])
    with pytest.raises(DataError, match="--num_folds is 1; at least 2"):
        assign_folds(["a", "b"], num_folds=1)


def test_an_unknown_fold_is_refused():
    with pytest.raises(DataError, match="There is no fold 7; this data set has 0, 1, 2, 3, 4"):
        split_fold(assign_persons(scan()), 7)


def test_a_person_on_both_sides_stops_the_split():
    slices = Dataset.from_dict({"person_id": ["a", "a"], "split": ["train", "train"], "fold": [0, 1]})
    with pytest.raises(DataError, match="1 persons are on both sides of the split: a"):
        split_fold(slices, 0)
