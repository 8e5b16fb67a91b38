"""Slices and masks from disk → a `datasets.Dataset`, with the persons they belong to and the folds that part them.

Expected layout, as on Kaggle (`nikhilroxtomar/brain-tumor-segmentation`); stems pair up:

    DIR/images/1.png    grey slice, any size          DIR/masks/1.png    0/1, 0/255 or 1-bit, same size

`load_slices` finds the pairs and says whose they are; `split_fold` parts them; `prepare_slices` runs the image
processor once over all of them into a memory-mapped Arrow file; `AugmentedSlices` is what the Trainer iterates over.
"""

import csv
import hashlib
import inspect
import logging
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from datasets import Array2D, Array3D, Dataset, Features
from torch.utils.data import Dataset as TorchDataset
from tqdm.auto import tqdm

from modeling_unet import UNetImageProcessor, read_image, read_mask
from modeling_unet.image_processing_unet import IMAGE_SUFFIXES

from .augmentation import Augmentation


logger = logging.getLogger(__name__)

MANIFEST = Path(__file__).with_name("manifest.csv")
NUM_FOLDS = 5
SPLIT_SEED = 0  # of the random split alone; the manifest's folds are fixed


class DataError(ValueError):
    """A data set that cannot be trained on; the message names the files and says what is expected."""


# -------------------------------------------------------------------------------------------------------------- loading


def load_slices(data_dir: str | Path, persons: str | Path | None = None) -> Dataset:
    """Pairs of images and masks, and the person, tumour type, split and fold of each.

    Persons come from `persons` (a CSV file with the columns `slice`, `person_id` and, if known, `tumor_type`); without
    it from the project's manifest, if the masks' hashes show that this is the data set it describes. Otherwise every
    slice is treated as a person of its own, and a warning says what such a split cannot promise.

    Args:
        data_dir: folder with `images/` and `masks/`.
        persons: CSV file, see above.

    Returns:
        One row per slice, in natural order of the stems: `slice`, `image` and `mask` (paths), `person_id`,
        `tumor_type`, `split` (`train`, `example` or `test`) and `fold` (0…4, or -1 where there is none).

    Raises:
        DataError, InvalidImageError: what is missing, duplicated or unreadable, by name.
    """
    pairs = _pair_files(Path(data_dir))
    # As a context, the bar is closed, and its line ended, before an error is printed.
    with tqdm(pairs, desc="Checking slices", unit="slice") as progress:
        hashes = [_checked_mask_hash(image, mask) for _, image, mask in progress]
    stems = [stem for stem, _, _ in pairs]
    if persons is not None:
        rows = _rows_from_persons(stems, Path(persons))
    else:
        rows = _rows_from_manifest(stems, hashes) or _rows_without_persons(stems)
    for row, (stem, image, mask), mask_hash in zip(rows, pairs, hashes, strict=True):
        row.update(slice=stem, image=str(image), mask=str(mask), mask_sha256=mask_hash)
    return Dataset.from_list(rows)


def mask_hash(mask: np.ndarray) -> str:
    """First 16 hex digits of the SHA-256 over a mask's size and bits; the same for every file format that holds it."""
    height, width = mask.shape
    return hashlib.sha256(f"{height}x{width}:".encode() + np.packbits(mask).tobytes()).hexdigest()[:16]


def _pair_files(data_dir: Path) -> list[tuple[str, Path, Path]]:
    files = {name: _files_by_stem(data_dir / name) for name in ("images", "masks")}
    for kind, other in (("images", "masks"), ("masks", "images")):
        unpaired = sorted(files[kind].keys() - files[other].keys(), key=_natural_order)
        if unpaired:
            raise DataError(
                f"{len(unpaired)} of {len(files[kind])} files in {data_dir / kind} have no partner of the same stem in "
                f"{data_dir / other}: {_shown([files[kind][stem].name for stem in unpaired])}."
            )
    stems = sorted(files["images"], key=_natural_order)
    return [(stem, files["images"][stem], files["masks"][stem]) for stem in stems]


def _files_by_stem(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise DataError(
            f"{folder} is not there; the data folder needs images/ and masks/ with files of the same stems."
        )
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise DataError(f"{folder} holds no images; accepted are {', '.join(IMAGE_SUFFIXES)}.")
    duplicated = [stem for stem, count in Counter(path.stem for path in paths).items() if count > 1]
    if duplicated:
        names = [path.name for path in paths if path.stem in duplicated]
        raise DataError(f"{folder} holds several files of one stem: {_shown(names)}; keep one of each.")
    return {path.stem: path for path in paths}


def _natural_order(stem: str) -> tuple:
    return (0, int(stem), stem) if stem.isdecimal() else (1, 0, stem)


def _shown(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _checked_mask_hash(image: Path, mask: Path) -> str:
    bits = read_mask(mask)
    height, width = read_image(image).shape[:2]
    if (height, width) != bits.shape:
        raise DataError(
            f"The mask {mask.name} has {bits.shape[1]} × {bits.shape[0]} pixels and its image {image.name} "
            f"{width} × {height}; they must be of one size."
        )
    return mask_hash(bits)


# -------------------------------------------------------------------------------------------------------------- persons


def read_manifest() -> dict[str, dict]:
    """The manifest of the public data set: slice → its row (see README, "The data set")."""
    with MANIFEST.open(newline="") as file:
        return {row["slice"]: row for row in csv.DictReader(file)}


def _rows_from_manifest(stems: list[str], hashes: list[str]) -> list[dict] | None:
    """Rows of the manifest, or None if this is another data set: no mask has the hash that the manifest gives it.

    The test slices have no hash there; once others prove the data set, their names suffice to keep them out.

    Raises:
        DataError: some masks match, and others differ or are not in the manifest.
    """
    manifest = read_manifest()
    # "" is a test slice's; None, which nothing equals, that of a slice the manifest does not have.
    expected = [manifest[stem]["mask_sha256"] if stem in manifest else None for stem in stems]
    if not any(found == known for found, known in zip(hashes, expected, strict=True)):
        return None
    strangers = [
        stem for stem, found, known in zip(stems, hashes, expected, strict=True) if known != "" and found != known
    ]
    if strangers:
        raise DataError(
            f"{len(strangers)} of {len(stems)} masks are not the public data set's, whose others are here: "
            f"{_shown(strangers)}; take them out, or say with --persons whose slices these are."
        )
    logger.info("The masks match the manifest: %d slices, persons and folds are known.", len(stems))
    rows = (manifest[stem] for stem in stems)
    return [
        {
            "person_id": row["person_id"],
            "tumor_type": row["tumor_type"],
            "split": row["split"],
            "fold": int(row["fold"]) if row["fold"] else -1,
        }
        for row in rows
    ]


def _rows_from_persons(stems: list[str], path: Path) -> list[dict]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = {"slice", "person_id"} - set(reader.fieldnames or ())
            if missing:
                raise DataError(
                    f"{path.name} has no column {' and '.join(sorted(missing))}; it needs slice and person_id."
                )
            by_slice = {row["slice"]: row for row in reader}
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as a CSV file: {error}.") from error
    unknown = [stem for stem in stems if not (by_slice.get(stem) or {}).get("person_id")]
    if unknown:
        raise DataError(f"{path.name} names no person for {len(unknown)} slices: {_shown(unknown)}.")
    persons = [by_slice[stem]["person_id"] for stem in stems]
    folds = assign_folds(persons)
    return [
        {
            "person_id": person,
            "tumor_type": by_slice[stem].get("tumor_type") or "unknown",
            "split": "train",
            "fold": fold,
        }
        for stem, person, fold in zip(stems, persons, folds, strict=True)
    ]


def _rows_without_persons(stems: list[str]) -> list[dict]:
    logger.warning(
        "WHO IS WHO IS NOT KNOWN: these masks are not the public data set's, and no --persons file was given. The "
        "split is by slice, so slices of one person may stand on both sides, and every score will be too good for "
        "people whom the network has never seen. Give --persons FILE.csv (columns slice, person_id) for honest figures."
    )
    return [
        {"person_id": stem, "tumor_type": "unknown", "split": "train", "fold": fold}
        for stem, fold in zip(stems, assign_folds(stems), strict=True)
    ]


def assign_folds(persons: list[str], num_folds: int = NUM_FOLDS) -> list[int]:
    """A fold for every slice, the same one for all slices of a person; folds get about equally many slices.

    Persons in order of their slice counts, ties in a seeded random order, each into the fold that is smallest so far.
    """
    counts = Counter(persons)
    if len(counts) < num_folds:
        raise DataError(f"{num_folds} folds need at least {num_folds} persons; this data set has {len(counts)}.")
    shuffled = np.random.default_rng(SPLIT_SEED).permutation(sorted(counts))
    sizes = [0] * num_folds
    fold_of = {}
    for person in sorted(shuffled, key=lambda person: -counts[person]):
        fold_of[person] = int(np.argmin(sizes))
        sizes[fold_of[person]] += counts[person]
    return [fold_of[person] for person in persons]


def split_fold(slices: Dataset, fold: int) -> tuple[Dataset, Dataset]:
    """(training, validation) slices: `fold` validates, the other folds train; `example` and `test` rows do neither."""
    available = sorted(set(slices["fold"]) - {-1})
    if fold not in available:
        raise DataError(f"There is no fold {fold}; this data set has {', '.join(map(str, available))}.")
    folds = slices["fold"]
    training = slices.select([index for index, other in enumerate(folds) if other not in (-1, fold)])
    validation = slices.select([index for index, other in enumerate(folds) if other == fold])
    shared = set(training["person_id"]) & set(validation["person_id"])
    if shared:
        raise DataError(f"{len(shared)} persons stand on both sides of the split: {_shown(sorted(shared))}.")
    return training, validation


# ----------------------------------------------------------------------------------------------- what the Trainer reads


def prepare_slices(slices: Dataset, processor: UNetImageProcessor) -> Dataset:
    """Run the processor over all slices, once: a memory-mapped Arrow file in the `datasets` cache.

    Returns:
        `pixel_values` float32 [1, S, S] and `labels` uint8 [S, S] (0, 1, 255 = padding), as NumPy arrays. The cache is
        keyed by the files' paths, sizes and times and by the processor's settings and code.
    """
    side = processor.size["longest_edge"]
    features = Features({"pixel_values": Array3D((1, side, side), "float32"), "labels": Array2D((side, side), "uint8")})
    files = [(row["image"], row["mask"]) for row in slices.select_columns(["image", "mask"])]
    stamps = [[(Path(path).stat().st_size, Path(path).stat().st_mtime_ns) for path in pair] for pair in files]
    code = Path(inspect.getfile(UNetImageProcessor)).read_bytes()
    gen_kwargs = {"files": files, "settings": processor.to_dict(), "cache_key": (stamps, code)}
    prepared = Dataset.from_generator(_prepared_slices, features=features, gen_kwargs=gen_kwargs)
    return prepared.with_format("numpy")


def _prepared_slices(files: list, settings: dict, cache_key: tuple):
    processor = UNetImageProcessor.from_dict(settings)
    for image, mask in files:
        batch = processor(image, segmentation_maps=mask, return_tensors="np")
        yield {"pixel_values": batch["pixel_values"][0], "labels": batch["labels"][0].astype(np.uint8)}


class AugmentedSlices(TorchDataset):
    """Prepared slices, augmented anew in every epoch.

    The random numbers of a sample follow from (seed, epoch, index) alone: they differ between epochs and samples, and
    are the same whatever the number of workers, and after a resume.
    """

    def __init__(self, prepared: Dataset, augmentation: Augmentation | None = None, seed: int = 0):
        self.prepared = prepared
        self.augmentation = augmentation
        self.seed = seed
        # In shared memory, so that workers which outlive an epoch learn of the next one.
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int):
        self.epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.prepared)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        sample = self.prepared[int(index)]
        # The NumPy format of `datasets` widens small integers.
        pixel_values, labels = sample["pixel_values"], sample["labels"].astype(np.uint8)
        if self.augmentation is not None:
            rng = np.random.default_rng((self.seed, self.epoch.item(), int(index)))
            pixel_values, labels = self.augmentation(pixel_values, labels, rng)
        return {"pixel_values": pixel_values, "labels": labels}
