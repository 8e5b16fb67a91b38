"""Whose slices are whose, and the folds that keep a person on one side.

    scan ─ assign_persons ─→ + person_id, tumor_type, plane, split, fold ─ split_fold ─→ training | validation

A given split is kept: slices marked as `test` or `example` by the source, the `--persons` file or the manifest are used
neither for training nor for validation. If some are marked as `validation`, they are the only fold.

Persons come, in this order, from a file (`--persons`), from the project's manifest if the masks show that this is the
public data set, or from the source itself. Otherwise every slice counts as a person of its own, and a warning says why
scores are then too good.
"""

import csv
import functools
import logging
from collections import Counter, defaultdict
from collections.abc import Container, Iterable
from pathlib import Path

import numpy as np
from datasets import Dataset

from modeling_unet.image_processing_unet import IMAGE_SUFFIXES

from ..columns import values_of
from .raw import SPLITS, DataError, listed
from .sources.pairs import MASK_ENDING, bare_name
from .tables import find_person_column, listed_columns, read_table


logger = logging.getLogger(__name__)

MANIFEST = Path(__file__).with_name("manifest.csv")
NUM_FOLDS = 5
SPLIT_SEED = 0  # of the order in which persons with equal numbers of slices are given to folds
NO_FOLD = -1
UNKNOWN = "unknown"
PERSON_COLUMNS = ("person_id", "tumor_type", "plane", "split", "fold")
KNOWN_SPLITS = ("train", "validation", "test", "example")
KEPT_OUT = ("test", "example")
GIVEN_FOLD = 0  # of the slices that are marked as validation
SUFFIXES = (*IMAGE_SUFFIXES, ".nii", ".nii.gz")  # of files that a persons file may name
NOT_KNOWN = (
    "The persons are not known: the masks are not those of the public data set, and the source does not say which "
    "slices are of the same person. The folds are therefore made of single slices. Slices of one person may be used "
    "for training and validation, so every score will be better than for new persons. Give --persons FILE.csv "
    "(columns slice, person_id) for honest figures."
)


class TooFewPersonsError(DataError):
    """Persons that cannot be divided into the folds."""


def assign_persons(
    scan: Dataset,
    persons: Path | None = None,
    num_folds: int | None = None,
    official_folds: bool = False,
    without_folds: bool = False,
    person_column: str | None = None,
) -> Dataset:
    """The scan with a person, tumour type, plane, split and fold for every slice.

    Args:
        scan: what `data.scan_slices` returns.
        persons: CSV file with a column of slices or volumes, one of persons and, if known, `tumor_type`, `plane` and
            `split`.
        num_folds: divide the persons into this many folds, also those of a given validation split; by default that
            split, the manifest's five folds, or five.
        official_folds: the folds of the public data set's author, numbered 1…5 as there. They separate patient ids, not
            persons. So `person_id` is the patient id here, and every slice has a fold, `test` and `example` included.
        without_folds: only assign the persons, however few they are; `fold` is that of the manifest, or -1.
        person_column: name of the column of persons in that file.

    Returns:
        `split` is one of `KNOWN_SPLITS`; `fold` is the one in which a slice validates, or -1: it trains alone, or is
        kept out.

    Raises:
        TooFewPersonsError: there are fewer than folds.
        DataError: persons are missing, or contradict what is known of the data set; or a split has a name that is not
            known.
    """
    if official_folds and (persons is not None or num_folds is not None):
        raise DataError("--official_folds are those of the public data set; leave --persons and --num_folds out.")
    from_source = False
    if persons is not None:
        rows = _rows_from_file(scan, persons, person_column)
    elif known := _rows_from_manifest(scan):
        rows = _with_official_folds(known) if official_folds else known
    elif official_folds:
        raise DataError("--official_folds are those of the public data set, and these masks are not its masks.")
    else:
        rows, from_source = _rows_from_source(scan), True
    if not official_folds:
        _obey_splits(rows, values_of(scan, "split"))
        _obey_splits(rows, _splits_from_manifest(scan))
        if not without_folds:
            _give_folds(rows, num_folds)
        _say_who_is_kept_out(rows)
        if from_source and not any(values_of(scan, "person_id")):
            logger.warning(NOT_KNOWN)
    for row in rows:
        row.setdefault("fold", NO_FOLD)
    assigned = scan.remove_columns([name for name in PERSON_COLUMNS if name in scan.column_names])
    for name in PERSON_COLUMNS:
        assigned = assigned.add_column(name, [row[name] for row in rows])
    return assigned


def assign_folds(persons: list[str], tumor_types: list[str] | None = None, num_folds: int = NUM_FOLDS) -> list[int]:
    """A fold for every slice: the same for all slices of a person, and about equally many slices of every tumour type.

    Persons are taken in order of their slice counts, ties in a seeded random order. Each goes to the fold that has the
    fewest slices of the person's tumour type so far; of several such folds, to the smallest.

    Raises:
        TooFewPersonsError: there are fewer persons than folds.
        DataError: there are fewer than two folds.
    """
    if num_folds < 2:
        raise DataError(f"--num_folds is {num_folds}; at least 2 are needed, one to validate and one to train.")
    counts = Counter(persons)
    if len(counts) < num_folds:
        raise TooFewPersonsError(_what_few_persons_allow(num_folds, len(counts)))
    type_of = _most_frequent_type(persons, tumor_types or [UNKNOWN] * len(persons))
    shuffled = np.random.default_rng(SPLIT_SEED).permutation(sorted(counts))
    sizes = [0] * num_folds
    sizes_of_type: dict[str, list[int]] = defaultdict(lambda: [0] * num_folds)
    fold_of = {}
    for person in sorted(shuffled, key=lambda person: -counts[person]):
        of_type = sizes_of_type[type_of[person]]
        fold = min(range(num_folds), key=lambda fold: (of_type[fold], sizes[fold]))
        fold_of[person] = fold
        of_type[fold] += counts[person]
        sizes[fold] += counts[person]
    return [fold_of[person] for person in persons]


def _what_few_persons_allow(num_folds: int, persons: int) -> str:
    """The sentence that refuses folds, and what can be done instead."""
    known = f"{num_folds} folds need at least {num_folds} persons; this data set has {persons}."
    smaller = f"Give --num_folds {persons}, or less, or train" if persons > 1 else "Train"
    return (
        f"{known} {smaller} on all of them by --all_persons true, where nobody validates, and score that on other "
        "persons (python -m train compare)."
    )


def split_fold(slices: Dataset, fold: int) -> tuple[Dataset, Dataset]:
    """(training, validation) slices; see `fold_indices`."""
    training, validation = fold_indices(slices, fold)
    return slices.select(training), slices.select(validation)


def fold_indices(slices: Dataset, fold: int) -> tuple[list[int], list[int]]:
    """Rows of the (training, validation) slices: `fold` validates, the other folds train, the rest does neither.

    Raises:
        DataError: there is no such fold, nothing is left to train on, or a person stands on both sides.
    """
    may_train, available = all_indices(slices), available_folds(slices)
    if fold not in available:
        raise DataError(f"There is no fold {fold}; this data set has {', '.join(map(str, available))}.")
    folds, persons = list(values_of(slices, "fold")), list(values_of(slices, "person_id"))
    training = [index for index in may_train if folds[index] != fold]
    validation = [index for index, other in enumerate(folds) if other == fold]
    if not training:
        raise DataError(f"Fold {fold} is the only one; there is nothing to train on.")
    if shared := {persons[index] for index in training} & {persons[index] for index in validation}:
        raise DataError(f"{len(shared)} persons are on both sides of the split: {listed(sorted(shared))}.")
    return training, validation


def all_indices(slices: Dataset) -> list[int]:
    """Rows of all slices that may train: those of every fold, and those that never validate.

    Raises:
        DataError: there are none.
    """
    columns = zip(values_of(slices, "fold"), values_of(slices, "split"), strict=True)
    found = [index for index, (fold, split) in enumerate(columns) if fold != NO_FOLD or split not in KEPT_OUT]
    if not found:
        raise DataError(f"None of the {len(slices):,} slices may train: all are marked {' or '.join(KEPT_OUT)}.")
    return found


def available_folds(slices: Dataset) -> list[int]:
    return sorted({*values_of(slices, "fold")} - {NO_FOLD})


def read_manifest() -> dict[str, dict]:
    """The manifest of the public data set: slice → its row (see docs/train.md)."""
    return _rows_of(MANIFEST, MANIFEST.stat().st_mtime_ns)


@functools.lru_cache(maxsize=1)
def _rows_of(manifest: Path, changed_ns: int) -> dict[str, dict]:
    """As every data set is compared with it twice, it is read once."""
    with manifest.open(newline="") as file:
        return {row["slice"]: row for row in csv.DictReader(file)}


def _rows_from_manifest(scan: Dataset) -> list[dict] | None:
    """Rows of the manifest, or None if this is another data set: no mask is the one that the manifest describes.

    Test slices have no hash there; if other slices match, test slices are recognised by name and kept out.

    Raises:
        DataError: some masks match, and others differ or are not in the manifest.
    """
    manifest = read_manifest()
    stems, hashes = list(values_of(scan, "slice")), list(values_of(scan, "mask_sha256"))
    # The hash is "" for a test slice, and None, which equals nothing, for a slice that the manifest does not have.
    expected = [manifest[stem]["mask_sha256"] if stem in manifest else None for stem in stems]
    if not any(found and found == known for found, known in zip(hashes, expected, strict=True)):
        return None
    strangers = [
        stem
        for stem, found, known in zip(stems, hashes, expected, strict=True)
        if found and known != "" and found != known
    ]
    if strangers:
        raise DataError(
            f"{len(strangers)} of {len(stems)} masks are not the public data set's, whose others are here: "
            f"{listed(strangers)}; take them out, or say with --persons whose slices these are."
        )
    logger.info("The masks match the manifest: %d slices, persons and folds are known.", len(stems))
    # A slice that the scan could not read and the manifest does not have is refused for being unreadable.
    empty = dict.fromkeys(next(iter(manifest.values())), "")
    rows = (manifest.get(stem, empty) for stem in stems)
    return [{**row, "fold": int(row["fold"]) if row["fold"] else NO_FOLD} for row in rows]


def _splits_from_manifest(scan: Dataset) -> list[str]:
    """The manifest's split of slices of the public data set, even if the persons come from elsewhere; "" for others."""
    manifest = read_manifest()
    slices = list(zip(values_of(scan, "slice"), values_of(scan, "mask_sha256"), strict=True))
    if not any(digest and digest == manifest.get(stem, {}).get("mask_sha256") for stem, digest in slices):
        return [""] * len(slices)
    known = (manifest.get(stem, {}) for stem, _ in slices)
    return [
        row.get("split", "") if row.get("mask_sha256") in ("", digest) else ""
        for row, (_, digest) in zip(known, slices, strict=True)
    ]


def _with_official_folds(rows: list[dict]) -> list[dict]:
    families: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        families[row["person_id"]].add(row["official_fold"])
    logger.warning(
        "The official folds separate patient ids, not persons: %d persons with several ids are in more than one fold, "
        "so scores are a little too good. The folds include the slices that this project keeps for examples and tests: "
        "weights trained on them have seen those slices.",
        sum(len(folds) > 1 for folds in families.values()),
    )
    return [{**row, "person_id": row["patient_id"], "fold": int(row["official_fold"] or NO_FOLD)} for row in rows]


def _rows_from_file(scan: Dataset, path: Path, person_column: str | None) -> list[dict]:
    columns, named = read_table(path)
    person = find_person_column(columns, person_column, path.name)
    if person is None:
        raise DataError(
            f"{path.name} has the columns {listed_columns(columns)}; say with --person_column which of them is the "
            "person."
        )
    slices = list(values_of(scan, "slice"))
    texts = [tuple(filter(None, names)) for names in zip(slices, values_of(scan, "volume"), strict=True)]
    owners = _by_key({text for names in texts for text in names})
    column = _slice_column([name for name in columns if name != person], named, owners.keys())
    if column is None:
        raise DataError(
            f"{path.name} has the columns {listed_columns(columns)}, and none of them names slices such as "
            f"{listed(slices[:2])}."
        )
    logger.info("Of %s, the column %s names the slices, and %s the persons.", path.name, column, person)
    written = [row[column] for row in named if row[column]]
    if repeated := [name for name, count in Counter(written).items() if count > 1]:
        raise DataError(f"{path.name} names {len(repeated)} slices more than once: {listed(repeated)}.")
    row_of = {row[column]: row for row in named}
    by_key = _by_key({*written})
    found = [row_of[name] if (name := _match(names, owners, by_key)) else {} for names in texts]
    if unknown := [name for name, row in zip(slices, found, strict=True) if not row.get(person)]:
        raise DataError(f"{path.name} names no person for {len(unknown)} of {len(slices)} slices: {listed(unknown)}.")
    return [_row(row[person], row.get("tumor_type"), row.get("plane"), row.get("split")) for row in found]


def _slice_column(columns: list[str], named: list[dict], known: Container[str]) -> str | None:
    """The column with most names of slices; None if there is none."""
    counts = {
        name: len({row[name] for row in named if any(key in known for key in _keys(row[name]))}) for name in columns
    }
    best = max(counts, key=lambda name: (counts[name], name == "slice"), default=None)
    return best if best and counts[best] else None


def _match(texts: tuple[str, ...], owners: dict[str, set[str]], rows: dict[str, set[str]]) -> str | None:
    """What a row calls a slice, or its volume: its very name, or else something that nothing else is called."""
    for text in texts:
        for key in _keys(text):
            if text in rows.get(key, ()):
                return text
            if len(rows.get(key, ())) == len(owners[key]) == 1:
                return next(iter(rows[key]))
    return None


def _by_key(texts: set[str]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for text in texts:
        for key in _keys(text):
            found[key].add(text)
    return dict(found)


def _keys(text: str) -> list[str]:
    """What something may be called: its name, with or without its folders, a suffix, or the ending of a mask."""
    path = Path(text.replace("\\", "/"))  # as Windows writes folders
    stem = bare_name(path) if path.name.lower().endswith(SUFFIXES) else path.name
    return list(dict.fromkeys((text, (path.parent / stem).as_posix(), path.name, stem, MASK_ENDING.sub("", stem))))


def _rows_from_source(scan: Dataset) -> list[dict]:
    stems, persons = list(values_of(scan, "slice")), list(values_of(scan, "person_id"))
    if not any(persons):
        persons = stems
    unknown = [stem for stem, person in zip(stems, persons, strict=True) if not person]
    if unknown:
        raise DataError(f"The data set names no person for {len(unknown)} of {len(stems)} slices: {listed(unknown)}.")
    columns = zip(persons, values_of(scan, "tumor_type"), values_of(scan, "plane"), strict=True)
    return [_row(*values) for values in columns]


def _row(person: str, tumor_type: str | None, plane: str | None, split: str | None = None) -> dict:
    split = (split or "").strip()
    return {
        "person_id": person,
        "tumor_type": tumor_type or UNKNOWN,
        "plane": plane or UNKNOWN,
        "split": SPLITS.get(split.lower(), split or "train"),
    }


# --------------------------------------------------------------------------------------------------------------- splits


def _obey_splits(rows: list[dict], given: Iterable[str]) -> None:
    """Write the source's splits into rows that have none yet, in place; raises DataError for unknown words."""
    for row, split in zip(rows, given, strict=True):
        if row["split"] == "train" and split not in ("", "train"):
            row |= {"split": split, "fold": NO_FOLD}
    # A slice that the manifest does not have could not be read, and is refused for that.
    unknown = sorted({row["split"] for row in rows} - {*KNOWN_SPLITS, ""})
    if unknown:
        raise DataError(
            f"The data set has the splits {listed(unknown)}, and which of their slices may train is not clear; known "
            f"are {', '.join(KNOWN_SPLITS)}."
        )


def _give_folds(rows: list[dict], num_folds: int | None) -> None:
    """Give every row a fold, in place: the given validation split, or the fold that its person was assigned to."""
    if any(row["split"] == "validation" for row in rows):
        if num_folds is None:
            training, validation = (
                {row["person_id"] for row in rows if row["split"] == split} for split in ("train", "validation")
            )
            if shared := sorted(training & validation):
                raise DataError(
                    f"The given split has {len(shared)} persons in both training and validation: {listed(shared)}; put "
                    "each on one side, or give --num_folds to divide the persons anew."
                )
            logger.info("The data set says itself what validates: that is fold %d, and there is no other.", GIVEN_FOLD)
            for row in rows:
                row["fold"] = GIVEN_FOLD if row["split"] == "validation" else NO_FOLD
            return
        logger.info("With --num_folds, the given validation and training splits are divided into folds together.")
        for row in rows:
            row["split"] = "train" if row["split"] == "validation" else row["split"]
    dealt = [row for row in rows if row["split"] == "train"]
    if not dealt or (num_folds is None and all("fold" in row for row in dealt)):
        return
    folds = assign_folds(
        [row["person_id"] for row in dealt],
        [row["tumor_type"] for row in dealt],
        NUM_FOLDS if num_folds is None else num_folds,
    )
    for row in rows:
        row["fold"] = NO_FOLD
    for row, fold in zip(dealt, folds, strict=True):
        row["fold"] = fold


def _say_who_is_kept_out(rows: list[dict]) -> None:
    counts = Counter(row["split"] for row in rows if row["split"] in KEPT_OUT)
    if not counts:
        return
    shown = ", ".join(f"{count:,} slices marked {split}" for split, count in counts.items())
    logger.info("Kept out of training and validation: %s.", shown)
    persons = [{row["person_id"] for row in rows if (row["split"] in KEPT_OUT) is out} for out in (True, False)]
    if shared := sorted(persons[0] & persons[1]):
        logger.warning(
            "%d persons have slices that train or validate and others that are kept out, which are not new people to "
            "the network then: %s.",
            *(len(shared), listed(shared)),
        )


def _most_frequent_type(persons: list[str], tumor_types: list[str]) -> dict[str, str]:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for person, tumor_type in zip(persons, tumor_types, strict=True):
        counts[person][tumor_type] += 1
    return {person: types.most_common(1)[0][0] for person, types in counts.items()}
