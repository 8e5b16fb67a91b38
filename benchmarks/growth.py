"""How time and memory grow with a data set: python -m benchmarks.growth [--slices 500 1000 2600] [--out FILE.json]

    made-up slices ─ scan ─ findings ─ near-duplicates ─ cache ─ lines of symmetry ─ donors ─ an epoch's samples
    --rows 50000: rows as the scan gives them, without pictures ─ findings ─ near-duplicates, where slices meet

Every number of slices has a process and a folder of its own. Seconds are the processor's, for 1,000 slices: where they
stay the same, the pass is linear. Memory is the most that the process holds on its own during a pass, without what it
maps from files. The slices are small, so that many of them can be made; --side 512 makes them as large as real ones.
"""

import argparse
import csv
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from datasets import Dataset

from modeling_unet import UNetImageProcessor
from train.data.arguments import DataArguments
from train.data.audit import fast_findings, near_duplicates
from train.data.folds import assign_persons
from train.data.raw import encode_png
from train.data.slices import SCAN_FEATURES, AugmentedSlices, find_axes, prepare_slices, scan
from train.data.synthesis import Donors, Synthesizer
from train.files import write_json
from train.fitting.options import parse_fit

from .measuring import describe_machine, memory_mib, print_table


SLICES_OF_A_PERSON = 12
SAMPLES = 300  # of an epoch, and of the lines of symmetry: whatever lies beside a slice, they take the same time
MASK = encode_png(np.eye(32, dtype=bool))
PAUSE_S = 0.02  # between two looks at the memory


def write_slices(folder: Path, count: int, side: int) -> Path:
    """A folder with `metadata.csv`: heads of uneven brightness, each with a bright tumour."""
    rng = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    head = np.zeros((side, side), np.float32)
    cv2.ellipse(head, (side // 2, side // 2), (side * 2 // 5, side * 9 // 20), 0, 0, 360, (1.0,), -1)
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image_file_name", "mask_file_name", "person_id"])
        for number in range(count):
            uneven = cv2.resize(rng.uniform(60, 150, (6, 6)).astype(np.float32), (side, side))
            mask = np.zeros((side, side), np.uint8)
            place = rng.integers(side * 3 // 8, side * 5 // 8, size=2).tolist()
            cv2.circle(mask, place, int(rng.integers(side // 12, side // 7)), 255, -1)
            image = np.where(mask > 0, 220, uneven) * head + rng.uniform(0, 8, head.shape)
            name = f"{number:06}.png"
            cv2.imwrite(str(folder / "images" / name), image.astype(np.uint8))
            cv2.imwrite(str(folder / "masks" / name), mask)
            writer.writerow([f"images/{name}", f"masks/{name}", f"p{number // SLICES_OF_A_PERSON}"])
    return folder


def make_rows(count: int) -> Dataset:
    """Rows of a scan, of slices whose thumbnails are uneven in their own ways."""
    rng = np.random.default_rng(0)
    thumbnails = (cv2.resize(rng.uniform(0, 255, (6, 6)).astype(np.float32), (32, 32)) for _ in range(count))
    names = [f"{number:06}" for number in range(count)]
    columns = dict.fromkeys(SCAN_FEATURES, [None] * count) | {
        **dict.fromkeys(("slice", "image_sha256", "mask_sha256", "look"), names),
        **dict.fromkeys(("tumor_type", "plane", "split", "volume", "problem_kind", "problem"), [""] * count),
        **dict.fromkeys(("labels_left_out", "mask_labels"), [""] * count),
        **dict.fromkeys(("height", "width", "mask_area"), [512] * count),
        "mask": [{"path": "1.png", "bytes": MASK}] * count,
        "person_id": [f"p{number // SLICES_OF_A_PERSON}" for number in range(count)],
        "class_bits": [1] * count,
        "coloured": [False] * count,
        "thumbnail": [thumbnail.astype(np.uint8).tobytes() for thumbnail in thumbnails],
    }
    return Dataset.from_dict(columns, features=SCAN_FEATURES)


class Passes:
    """Seconds and MiB of each pass.

    Attributes:
        rows: pass → its figures.
    """

    def __init__(self, count: int):
        self.count = count
        self.rows: dict[str, dict[str, float]] = {}

    @contextmanager
    def measured(self, name: str, of: int | None = None) -> Iterator[None]:
        """A pass over `of` slices, by default over all of them."""
        most, ended = [0.0], threading.Event()

        def look():
            while not ended.wait(PAUSE_S):
                most[0] = max(most[0], memory_mib(os.getpid(), "RssAnon"))

        watch = threading.Thread(target=look)
        start = time.process_time()
        watch.start()
        try:
            yield
        finally:
            ended.set()
            watch.join()
        seconds = time.process_time() - start
        most[0] = max(most[0], memory_mib(os.getpid(), "RssAnon"))
        self.rows[name] = row = {"s / 1,000": round(1000 * seconds / (of or self.count), 2), "MiB": round(most[0])}
        print(f"{self.count:,} slices, {name}: {row}", file=sys.stderr)


def measure_rows(count: int, *_) -> dict[str, dict[str, float]]:
    """Pass → seconds and MiB, of the passes in which slices meet."""
    passes, found = Passes(count), make_rows(count)
    with passes.measured("persons, findings"):
        slices = assign_persons(found)
        fast_findings(slices)
    with passes.measured("near-duplicates"):
        near_duplicates(slices)
    return passes.rows


def measure(count: int, side: int, folder: Path) -> dict[str, dict[str, float]]:
    """Pass → seconds and MiB, of so many slices that are made in a folder."""
    source = write_slices(folder / "slices", count, side)
    options = parse_fit(["--data_dir", str(source), "--fold", "0", "--output_dir", str(folder / "run")])
    processor = UNetImageProcessor(size={"longest_edge": side})
    passes = Passes(count)
    with passes.measured("scan"):
        found = scan(DataArguments(str(source)))
    with passes.measured("persons, findings"):
        slices = assign_persons(found)
        fast_findings(slices)
    with passes.measured("near-duplicates"):
        near_duplicates(slices)
    with passes.measured("cache"):
        prepared = prepare_slices(slices, processor)
    samples = min(SAMPLES, count)
    with passes.measured("lines of symmetry", of=samples):
        axes = find_axes(prepared.select(range(samples)))
    plain, person_id = AugmentedSlices(prepared), np.array(slices["person_id"][:])
    with passes.measured("donors"):
        donors = Donors(plain, person_id)
    synthesizer = Synthesizer(plain, axes, person_id, options.synthesis)
    synthesizer.donors, synthesizer.options = donors, replace(options.synthesis, cover_probability=0.25)
    sampled = AugmentedSlices(prepared, options.augmentation, 0, synthesizer)
    with passes.measured("an epoch's samples", of=samples):
        for index in range(samples):
            sampled[index]
    return passes.rows


def main(arguments: list[str] | None = None) -> dict:
    """Print the tables, and return what `--out` writes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", allow_abbrev=False)
    add = parser.add_argument
    add("--slices", type=int, nargs="*", default=[500, 1000, 2600], help="how many are made, in turn (%(default)s)")
    add("--rows", type=int, nargs="+", default=[], help="how many rows are made besides, without pictures")
    add("--side", type=int, default=64, help="of a slice in px (%(default)s)")
    add("--folder", type=Path, help="on a disk with room for the slices and their cache (that of temporary files)")
    add("--out", type=Path, metavar="FILE.json", help="write the figures")
    options = parser.parse_args(arguments)
    report = {"machine": describe_machine(), "side": options.side}
    for run, count in [*((measure, n) for n in options.slices), *((measure_rows, n) for n in options.rows)]:
        with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
            os.environ["HF_DATASETS_CACHE"] = str(Path(temporary, "cache"))
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                rows = pool.submit(run, count, options.side, Path(temporary)).result()
        kind = f"slices of {options.side} px" if run is measure else "rows"
        report[f"{count} {kind}"] = rows
        print_table(f"{count:,} {kind}", rows)
    if options.out:
        write_json(options.out, report)
    return report


if __name__ == "__main__":
    main()
