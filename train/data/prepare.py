"""`python -m train prepare`: a clean data set with a card, from any source.

    SOURCE ─ load_slices ─→ slices, their persons and folds ─→ OUT/images/1.png    the pixels alone, without loss
                                                               OUT/masks/1.png     1 bit
                                                               OUT/metadata.jsonl  a row per slice
                                                               OUT/README.md       the card, as the Hub shows it

OUT is a source in its turn, for this project and for `load_dataset("imagefolder", data_dir=OUT)`.
"""

import json
import logging
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets import Dataset
from huggingface_hub import DatasetCardData
from tqdm.auto import tqdm

from modeling_unet import read_image

from ..columns import values_of
from .arguments import DataArguments
from .audit import persons_known
from .cache import foretell, samples_of
from .folds import PERSON_COLUMNS, read_manifest
from .raw import DataError, Picture, as_file, encode_png
from .slices import load_slices
from .sources import open_source


logger = logging.getLogger(__name__)

VOLUME_COLUMNS = ("volume", "row_mm", "column_mm")  # of slices that say where they come from
MAX_STEM = 100  # file systems stop at 255 bytes
# File names that `load_dataset` would take for names of splits.
SPLIT_WORD = re.compile(r"(?<![a-z])(train(ing)?|val(id(ation)?)?|dev|test(ing)?|eval(uation)?)(?![a-z])")
# The Hub's steps, by their upper ends.
SIZE_CATEGORIES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M"}

CARD = """---
{front_matter}
---

# {title}

{slices:,} slices of brain MRI, each with a mask of the tumour.

| file | holds |
|---|---|
| `images/*.png` | the slices, at their own size and bit depth |
| `masks/*.png` | tumour or not, in 1 bit, of the same size |
| `metadata.jsonl` | a row per slice: {columns} |

{persons}
`fold` is the fold in which a slice validates, or -1; slices whose `split` is `example` or `test` are kept out of
training.

{tables}

{origin}## Use

```python
from datasets import load_dataset

slices = load_dataset("imagefolder", data_dir="{folder}", split="train")  # columns image, mask, slice, person_id, …
```

```bash
python -m train fit --data_dir {folder}{num_folds} --output_dir RUN --fold 0
```
"""
PERSONS_KNOWN = "All slices of a person (`person_id`) are in one fold: split by person, never by slice."
PERSONS_UNKNOWN = """\
**Whose slices these are is not known** (`person_id` is empty). The folds are by slice, and one person's slices may
stand in several: scores on them are too good for people whom a network has never seen."""
ORIGIN = """## Where the slices come from

{which} from

> Jun Cheng: *brain tumor dataset*. figshare, version 5. <https://doi.org/10.6084/m9.figshare.1512427>

which is shared under [CC BY 4.0](https://creativecommons.org/licenses/by/4.0/): who passes it on names the author and
the licence, and says what was changed. Changed here: images stored as PNG (they came as {suffixes}), masks as PNG of
1 bit; person, plane, split and fold added.

"""


def prepare(source: str | Path, out: str | Path, persons: str | Path | None = None, **reading: Any) -> Path:
    """Write the data set. The folder appears when all of it is there.

    Args:
        source: as `open_source` takes it.
        out: folder to write, which must not exist or be empty.
        persons: CSV file that says whose slices are whose and, if known, `tumor_type` and `plane`.
        reading: other fields of `ReadingArguments`.

    Returns:
        `out`.

    Raises:
        DataError: `out` holds something, slices that `load_slices` refuses, or an image that no PNG can hold.
    """
    out = Path(out).absolute()
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise DataError(f"{out} is there already; name a folder that is new or empty.")
    arguments = DataArguments(str(source), persons=None if persons is None else str(persons), **reading)
    if arguments.sequences:
        raise DataError("--sequences is for check, fit, cv and evaluate: prepare writes pictures of one sequence each.")
    if arguments.classes:
        raise DataError("--classes is for check, fit, cv and evaluate: prepare writes masks of tumour or not.")
    open_source(source, arguments.reading()).verify()
    slices, num_folds = load_slices(arguments), arguments.num_folds
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as temporary:
        folder = Path(temporary, out.name)
        rows = list(_write_pictures(slices, folder))
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        (folder / "metadata.jsonl").write_text("".join(lines), encoding="utf-8")
        (folder / "README.md").write_text(write_card(slices, rows, out.name, num_folds), encoding="utf-8")
        if out.exists():
            out.rmdir()
        folder.rename(out)
    logger.info("%s holds %d slices; README.md is its card.", out, len(rows))
    return out


def write_card(slices: Dataset, rows: list[dict], folder: str, num_folds: int | None = None) -> str:
    """The data card: YAML for the Hub, what the data set holds, where it comes from and how to load it.

    Args:
        slices: as they were loaded.
        rows: of metadata.jsonl.
        folder: its name, for the commands.
        num_folds: if the persons were divided into another number of folds than usual.
    """
    public = _count_public(slices)
    size = next((name for limit, name in SIZE_CATEGORIES.items() if len(rows) < limit), "1M<n<10M")
    front_matter = DatasetCardData(
        # Of slices that are not the public data set's, only their owner can say it.
        license="cc-by-4.0" if public == len(rows) else None,
        task_categories=["image-segmentation"],
        tags=["brain-tumor", "mri", "medical-imaging"],
        size_categories=[size],
    )
    origin = ORIGIN.format(
        which="The slices and masks are" if public == len(rows) else f"{public:,} of the {len(rows):,} masks are",
        suffixes=", ".join(sorted({Path(image["path"]).suffix for image in values_of(slices, "image")})),
    )
    return CARD.format(
        front_matter=front_matter.to_yaml(),
        title="Brain tumor dataset" if public == len(rows) else folder,
        slices=len(rows),
        columns=", ".join(f"`{name}`" for name in rows[0]),
        persons=PERSONS_KNOWN if persons_known(slices) else PERSONS_UNKNOWN,
        tables="\n\n".join(_table(rows, column) for column in ("split", "tumor_type", "plane")),
        origin=origin if public else "",
        folder=folder,
        num_folds="" if num_folds is None else f" --num_folds {num_folds}",
    )


def _write_pictures(slices: Dataset, folder: Path) -> Iterator[dict]:
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    # If persons are not known, `person_id` is the slice's name, and must not be written as if it were a person.
    known = persons_known(slices)
    stems = _file_stems(list(values_of(slices, "slice")))
    sizes = (len(_as_png(row["image"], row["slice"])) + len(row["mask"]["bytes"]) for row in samples_of(slices))
    foretell("Writing", len(stems), "slices", sizes, folder.parents[1])
    with tqdm(zip(stems, slices, strict=True), total=len(stems), desc="Writing slices", unit="slice") as progress:
        for stem, row in progress:
            image, mask = f"images/{stem}.png", f"masks/{stem}.png"
            (folder / image).write_bytes(_as_png(row["image"], row["slice"]))
            (folder / mask).write_bytes(row["mask"]["bytes"])
            details = {name: row[name] for name in ("slice", *PERSON_COLUMNS)}
            details["person_id"] = row["person_id"] if known else ""
            details |= {name: row[name] for name in VOLUME_COLUMNS if row[name]}
            yield {"image_file_name": image, "mask_file_name": mask, **details}


def _file_stems(names: list[str]) -> list[str]:
    """The names as valid file names; 1, 2, … if two of them become equal or look like splits."""
    stems = [re.sub(r"[^\w.-]+", "-", name).lstrip(".")[:MAX_STEM] for name in names]
    # Some file systems do not distinguish a and A.
    equal = len({stem.casefold() for stem in stems}) < len(stems)
    if equal or not all(stems) or any(SPLIT_WORD.search(stem.casefold()) for stem in stems):
        return [str(number) for number in range(1, len(names) + 1)]
    return stems


def _as_png(picture: Picture, name: str) -> bytes:
    # Encoded anew even if it is a PNG, so that nothing else in the file, such as a patient's name, is passed on.
    pixels = read_image(as_file(picture))
    if pixels.ndim == 3 and (pixels == pixels[..., :1]).all():
        pixels = pixels[..., 0]
    try:
        return encode_png(pixels)
    except ValueError as error:
        raise DataError(f"The image of {name} cannot be stored: {error}") from error


def _count_public(slices: Dataset) -> int:
    """How many slices are the public data set's: by their masks or, where the manifest keeps those back, by name."""
    manifest = read_manifest()
    published = {row["mask_sha256"] for row in manifest.values()} - {""}
    proven = sum(digest in published for digest in values_of(slices, "mask_sha256"))
    unproven = sum(name in manifest and not manifest[name]["mask_sha256"] for name in values_of(slices, "slice"))
    return proven and proven + unproven


def _table(rows: list[dict], column: str) -> str:
    lines = [f"| {column} | slices | persons |", "|---|---|---|"]
    for value in sorted({row[column] for row in rows}):
        chosen = [row["person_id"] for row in rows if row[column] == value]
        lines.append(f"| {value} | {len(chosen):,} | {len({*chosen}) if any(chosen) else 'not known'} |")
    return "\n".join(lines)
