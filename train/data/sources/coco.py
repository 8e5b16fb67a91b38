"""COCO: pictures, and one JSON file of outlines for all of them.

    DATA/annotations.json | DATA/annotations/instances_train.json, … | DATA/train/_annotations.coco.json, …
    DATA/images/1.png                                                 beside the file, in images/, or in a folder above

Outlines are polygons or run lengths. If there is one category, it is the tumour. Of several, a mask holds the number of
the category, and `--tumor_labels` says which of them are.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..raw import SPLITS, DataError, RawSlice, Reading, Source, encode_png, stamps
from .pairs import listed_splits, picture


PLACES = (".", "images", "..", "../images")  # of pictures, from their file's folder
MAX_LABEL = 65535
KINDS = ("images", "annotations", "categories")


def find(folder: Path, reading: Reading) -> "CocoFiles | None":
    """The files in the folder, in annotations/, and in its other sub-folders."""
    paths = [path for path in sorted((*folder.glob("*.json"), *folder.glob("*/*.json"))) if path.name[0] != "."]
    files = [path for path in paths if _is_coco(path)]
    return CocoFiles(tuple(files), reading.takes_missing_masks, reading.person_column) if files else None


def open_file(path: Path, reading: Reading) -> "CocoFiles":
    """One such file."""
    if not _is_coco(path):
        raise DataError(f"{path.name} is no COCO file: it holds no lists {', '.join(KINDS)}.")
    return CocoFiles((path,), reading.takes_missing_masks, reading.person_column)


@dataclass(frozen=True)
class CocoFiles(Source):
    """COCO files, each with its pictures.

    Attributes:
        paths: of the JSON files.
        takes_missing_masks: whether an image without outlines is one without tumour.
        person_column: the field of an image that says whose it is, by default `person_id`.
    """

    heeds = frozenset({"person_column"})

    paths: tuple[Path, ...]
    takes_missing_masks: bool
    person_column: str | None

    def stamp(self) -> object:
        files = [file for path in self.paths for image in _read(path)["images"] if (file := _file_of(path, image))]
        return stamps([*self.paths, *files])

    def facts(self) -> dict[str, str]:
        contents = [_read(path) for path in self.paths]
        images = [image for content in contents for image in content["images"]]
        splits: Counter[str] = Counter()
        for path, content in zip(self.paths, contents, strict=True):
            splits[_split_of(path)] += len(content["images"])
        categories = {item["id"]: item.get("name", "") for content in contents for item in content["categories"]}
        with_outline = sum(len({outline["image_id"] for outline in content["annotations"]}) for content in contents)
        persons = {str(image[self._person]) for image in images if image.get(self._person) is not None}
        return {
            "layout": f"COCO: {', '.join(f'{path.parent.name}/{path.name}' for path in self.paths)}",
            "images": f"{len(images):,}",
            "masks": f"{with_outline:,}",
            "persons": f"{len(persons):,}" if persons else "not said here",
            "labels": ", ".join(f"{number} {name}" for number, name in categories.items()),
            **({"split": listed_splits(splits)} if any(splits) else {}),
        }

    def parts(self) -> Iterator[RawSlice]:
        for path in self.paths:
            yield from self._slices(path)

    @property
    def _person(self) -> str:
        return self.person_column or "person_id"

    def _slices(self, path: Path) -> Iterator[RawSlice]:
        content = _read(path)
        outlines: dict[Any, list[dict]] = defaultdict(list)
        for outline in content["annotations"]:
            outlines[outline["image_id"]].append(outline)
        is_single = len(content["categories"]) == 1
        split = _split_of(path)
        for image in content["images"]:
            name, file = Path(image["file_name"]).stem, _file_of(path, image)
            known: dict[str, Any] = {"person_id": str(image.get(self._person, "")), "split": split}
            if file is None:
                problem = f"{path.name} names {image['file_name']}, which is not there."
                yield RawSlice(name, None, None, **known, problem_kind="unpaired", problem=problem)
            elif not outlines[image["id"]]:
                problem = "" if self.takes_missing_masks else f"{image['file_name']} has no outline in {path.name}."
                kind = "unpaired" if problem else ""
                yield RawSlice(name, picture(file), None, **known, problem_kind=kind, problem=problem)
            else:
                yield _drawn(name, file, image, outlines[image["id"]], is_single, known)


def _split_of(path: Path) -> str:
    words = (path.parent.name.lower(), *path.stem.lower().replace("_", " ").split())
    return next((SPLITS[word] for word in words if word in SPLITS), "")


def _drawn(name: str, file: Path, image: dict, outlines: list[dict], is_single: bool, known: dict) -> RawSlice:
    try:
        mask = _draw(image, outlines)
    except (KeyError, TypeError, ValueError, OverflowError, cv2.error) as error:
        problem = f"The outlines of {image['file_name']} cannot be drawn: {str(error).rstrip('.')}."
        return RawSlice(name, picture(file), None, **known, problem_kind="unreadable", problem=problem)
    content = encode_png(mask > 0 if is_single else mask)
    return RawSlice(name, picture(file), {"path": f"{name}.png", "bytes": content}, **known)


def _draw(image: dict, outlines: list[dict]) -> np.ndarray:
    """uint16 [H, W]: the number of the category that was drawn last, 0 outside of all."""
    mask = np.zeros((int(image["height"]), int(image["width"])), np.uint16)
    for outline in outlines:
        label, shape = int(outline["category_id"]), outline["segmentation"]
        if not 0 < label <= MAX_LABEL:
            raise ValueError(f"a category has the number {label}; allowed are 1 to {MAX_LABEL}.")
        if isinstance(shape, dict):
            mask[_unpacked(shape, mask.shape)] = label
            continue
        polygons = [np.rint(np.reshape(points, (-1, 2))).astype(np.int32) for points in shape]
        cv2.fillPoly(mask, polygons, (label,))
    return mask


def _unpacked(runs: dict, shape: tuple[int, int]) -> np.ndarray:
    """Run lengths, column by column, outside first: bool [H, W]."""
    counts = runs["counts"]
    counts = _counts_of(counts) if isinstance(counts, str) else counts
    inside = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    if tuple(runs["size"]) != shape or inside.size != shape[0] * shape[1]:
        raise ValueError("the run lengths are of another size than the image.")
    return inside.reshape(shape, order="F")


def _counts_of(text: str) -> list[int]:
    """Packed run lengths: 5 bits a letter, the lowest first; from the fourth on, what differs from two before."""
    counts: list[int] = []
    start = 0
    while start < len(text):
        value, bits, more = 0, 0, True
        while more:
            part = ord(text[start]) - 48
            value |= (part & 0x1F) << bits
            more, bits, start = bool(part & 0x20), bits + 5, start + 1
            if not more and part & 0x10:
                value -= 1 << bits
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
    return counts


def _file_of(path: Path, image: dict) -> Path | None:
    """The picture that a file names, where it lies."""
    places = (path.parent / place / str(image["file_name"]) for place in PLACES)
    return next((place.resolve() for place in places if place.is_file()), None)


def _is_coco(path: Path) -> bool:
    try:
        _read(path)
    except DataError:
        return False
    return True


def _read(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {error}.") from error
    rows: list[Any] = [content.get(kind) for kind in KINDS] if isinstance(content, dict) else [None]
    if not all(isinstance(part, list) and all(isinstance(item, dict) for item in part) for part in rows):
        raise DataError(f"{path} holds no lists {', '.join(KINDS)}.")
    needed = (("id", "file_name"), ("image_id",), ("id",))
    if not all(name in item for part, names in zip(rows, needed, strict=True) for item in part for name in names):
        raise DataError(f"{path} leaves out the id or the file name of an image.")
    return content
