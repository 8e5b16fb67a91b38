"""What is marked in normal volumes, and found of lesions pasted into them: python -m benchmarks.volumes SCAN.nii.gz …

    normal volume ─ paste(lesion) ─→ phantom ─ each plane alone, all planes together ─→ mL, found, Dice in 3-D
    --cost: a head of 256³ voxels ─ all planes ─→ seconds, and the most memory that the process ever held; on two cores
            OMP_NUM_THREADS=2 taskset -c 0,1 python -m benchmarks.volumes SCAN.nii.gz --cost

A pasted lesion is a ball of uneven surface, as bright against its surroundings as the middle half of the enhancing
tumours of the public data set. It says how planes are put together, not how many true tumours are found. Slices that a
lesion does not touch are looked at once.
"""

import argparse
import hashlib
import os
import time
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from transformers.utils import logging

from modeling_unet import TumorSegmenter
from modeling_unet.provenance import SHIPPED_MODEL
from modeling_unet.segmentation import Segmentation
from modeling_unet.volumes import Volume, VolumeSegmentation, read_volume, segment_volume
from modeling_unet.volumes.heads import depths
from modeling_unet.volumes.planes import spacing_of, turned, turned_sizes
from modeling_unet.volumes.segmenting import planes_of
from train.files import write_json

from .measuring import describe_machine, memory_mib, print_table


SLICES, TOGETHER = "slice by slice", "together"
RESAMPLES = 10_000
COST_SIDE = 256
LESION_ML = (1.0, 30.0)
# Times the median of what lies around it: quartiles of meningiomas and of the rims and cores of ring-like gliomas.
SOLID, RIM, CORE = (1.45, 2.0), (1.4, 1.9), (0.6, 0.9)
TISSUE = 70  # percentile of what lies around: more than half of it may be fluid or bone
SMALLEST_RING_ML = 4.0
RIM_MM = (3.0, 6.0)
TEXTURE = 0.1  # deviation of the brightness of a lesion, as a share of what lies around it
# Where a lesion may lie: so many mm inside the outline of the head, its middle deeper, and in the upper part of it.
SKULL_MM, DEPTH_MM, HEIGHT_MM = 9.0, 20.0, 70.0
FACE = 0.35  # of the length of the head
BUMPS, WAVES = 0.1, 12


class Remembering:
    """A segmenter that looks at every picture once."""

    def __init__(self, segmenter: TumorSegmenter):
        self._segmenter = segmenter
        self._known: dict[bytes, Segmentation] = {}

    def batch(self, images: list[np.ndarray], batch_size: int = 8, *, framing: str = "none") -> Iterator[Segmentation]:
        images = [*images]
        keys = [hashlib.sha256(image.tobytes()).digest() for image in images]
        new = {key: image for key, image in zip(keys, images, strict=True) if key not in self._known}
        found = self._segmenter.batch([*new.values()], batch_size, framing=framing)
        self._known.update(zip(new, found, strict=True))
        return (self._known[key] for key in keys)


def paste(volume: Volume, ml: float, rng: np.random.Generator) -> tuple[Volume, np.ndarray]:
    """A volume with one lesion of that size, and where it is, bool [N, H, W]."""
    slices, lesion = volume.slices.copy(), np.zeros(volume.slices.shape, bool)
    image, mask = (turned(voxels, volume.plane, "axial") for voxels in (slices, lesion))
    sizes = np.array(turned_sizes(spacing_of(volume), volume.plane, "axial"))
    depth = depths(image, sizes)
    place = find_place(depth, sizes, rng)
    reach = np.round((15 + 1.5 * (1000 * ml) ** (1 / 3)) / sizes).astype(int)  # far beyond its surface
    start = np.maximum(place - reach, 0)
    near = tuple(slice(first, end) for first, end in zip(start, place + reach + 1, strict=True))
    image, mask, brain = image[near], mask[near], depth[near] > SKULL_MM
    # In mm from its middle, as if it were a ball with dents and bumps.
    away = np.stack(np.indices(image.shape), axis=-1) - (place - start)
    away = ((away * sizes) @ np.linalg.qr(rng.normal(size=(3, 3)))[0]).astype(np.float32)
    distance = np.linalg.norm(away / np.exp(rng.uniform(-0.25, 0.25, 3)), axis=-1)
    direction = away / np.maximum(np.linalg.norm(away, axis=-1, keepdims=True), 1e-3)
    distance /= 1 + BUMPS * waves(direction, 1.5, rng)
    radius = np.partition(distance[brain], count := max(round(1000 * ml / np.prod(sizes)), 1))[count]
    mask[:] = brain & (distance < radius)
    usual = np.percentile(image[brain & (distance > 1.2 * radius) & (distance < 1.2 * radius + 6)], TISSUE)

    def within(limit: float) -> np.ndarray:
        """1 inside, 0 outside, with an edge of a voxel."""
        return np.clip((limit - distance) / sizes.max() + 0.5, 0, 1)

    if ml >= SMALLEST_RING_ML and rng.random() < 0.5:
        core, rim = within(radius - rng.uniform(*RIM_MM)), rng.uniform(*RIM)
        times = rim + core * (rng.uniform(*CORE) - rim)
    else:
        times = rng.uniform(*SOLID)
    brightness = usual * times * (1 + TEXTURE * waves(away, 20.0, rng))
    image += within(radius) * brain * (brightness - image)
    return replace(volume, slices=slices), lesion


def waves(points: np.ndarray, length: float, rng: np.random.Generator) -> np.ndarray:
    """A smooth random function of points [..., 3], of mean 0 and deviation 1, that changes over about `length`."""
    total = sum(
        np.sin(points @ (rng.normal(size=3).astype(np.float32) * 2 * np.pi / length) + rng.uniform(0, 2 * np.pi))
        for _ in range(WAVES)
    )
    return np.asarray(total) * (2 / WAVES) ** 0.5


def find_place(depth: np.ndarray, sizes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Where the middle of a lesion may lie: (slice, row, column) of axial slices, somewhere in the brain."""
    top = np.flatnonzero((depth > DEPTH_MM).any(axis=(1, 2)))[-1]
    allowed = depth > DEPTH_MM
    allowed[: max(top - round(HEIGHT_MM / sizes[0]), 0)] = False
    rows = np.flatnonzero((depth > 0).any(axis=(0, 2)))
    # In front of the lower half of the brain lie eyes and nose.
    allowed[: top - round(HEIGHT_MM / 2 / sizes[0]), : rows[0] + round(FACE * np.ptp(rows))] = False
    places = np.argwhere(allowed)
    return places[rng.integers(len(places))]


def dice(mask: np.ndarray, truth: np.ndarray) -> float:
    return float(2 * (mask & truth).sum() / max(mask.sum() + truth.sum(), 1))


def look(volume: Volume, segmenter: Remembering) -> dict[str, VolumeSegmentation]:
    """By each plane alone, and by all together."""
    ways = {plane: (plane,) for plane in planes_of(volume)} | {TOGETHER: None}
    return {name: segment_volume(volume, segmenter, planes=planes) for name, planes in ways.items()}


def slice_by_slice(volume: Volume, segmenter: Remembering) -> float:
    """mL marked when every slice is segmented by itself, as it is."""
    found = segmenter.batch([*volume.slices], framing="none")
    return volume.volume_ml(np.stack([segmentation.mask for segmentation in found])) or 0.0


def measure(paths: list[Path], segmenter: TumorSegmenter, lesions: int, seed: int) -> tuple[dict, list[dict]]:
    """Of every volume the mL that are marked while it is normal; and of every lesion the Dice, by each way."""
    normal, phantoms = {}, []
    for path in paths:
        remembering, volume = Remembering(segmenter), read_volume(path)
        normal[path.name] = {SLICES: slice_by_slice(volume, remembering)}
        normal[path.name] |= {way: found.volume_ml for way, found in look(volume, remembering).items()}
        rng = np.random.default_rng([seed, zlib.crc32(path.name.split(".")[0].encode())])
        for number in range(lesions):
            ml = LESION_ML[0] * (LESION_ML[1] / LESION_ML[0]) ** ((number + rng.random()) / lesions)
            phantom, truth = paste(volume, ml, rng)
            ways = look(phantom, remembering)
            phantoms.append({"volume": path.name, "ml": ml, "found": is_found(ways[TOGETHER], truth)})
            phantoms[-1] |= {way: dice(found.mask, truth) for way, found in ways.items()}
    return normal, phantoms


def is_found(segmentation: VolumeSegmentation, truth: np.ndarray) -> bool:
    """Whether a lesion covers a tenth of the true one."""
    return bool((segmentation.mask & truth).sum() >= 0.1 * truth.sum())


def summarize(normal: dict, phantoms: list[dict]) -> dict[str, dict]:
    """Way → figures, with the difference to the way that is best alone, paired by lesion, and its interval."""
    ways = [*next(iter(normal.values()))]
    scores = (
        {way: np.array([phantom[way] for phantom in phantoms]) for way in ways if way != SLICES} if phantoms else {}
    )
    best = max((way for way in scores if way != TOGETHER), key=lambda way: scores[way].mean(), default=None)
    rows = {}
    for way in ways:
        marked = [volume[way] for volume in normal.values()]
        rows[way] = {"normal, median mL": round(float(np.median(marked)), 2), "largest mL": round(max(marked), 2)}
        if way in scores:
            rows[way]["Dice"] = round(float(scores[way].mean()), 3)
    if best:
        rows[TOGETHER]["found"] = f"{np.mean([phantom['found'] for phantom in phantoms]):.1%}"
        apart = scores[TOGETHER] - scores[best]
        drawn = np.random.default_rng(0).choice(apart, (RESAMPLES, len(apart))).mean(axis=1)
        low, high = np.percentile(drawn, (2.5, 97.5))
        rows[TOGETHER]["better than the best alone by"] = f"{apart.mean():.3f} ({low:.3f} to {high:.3f})"
    return rows


def cost(segmenter: TumorSegmenter, path: Path) -> dict:
    """Seconds and memory of a volume that is enlarged to `COST_SIDE` voxels a side."""
    volume = read_volume(path)
    zoom = [COST_SIDE / length for length in volume.slices.shape]
    places = [
        np.minimum((np.arange(COST_SIDE) / factor).astype(int), length - 1)
        for factor, length in zip(zoom, volume.slices.shape, strict=True)
    ]
    sizes = np.divide(spacing_of(volume), zoom)
    large = replace(
        volume,
        slices=np.ascontiguousarray(volume.slices[np.ix_(*places)]),
        slice_spacing=float(sizes[0]),
        spacing=(float(sizes[1]), float(sizes[2])),
        voxel_ml=float(np.prod(sizes) / 1000),
    )
    before, start = memory_mib(os.getpid()), time.perf_counter()
    processor = time.process_time()
    found = segment_volume(
        large, segmenter, report=lambda done, total: print(f"\r{done} of {total}", end="", flush=True)
    )
    lesions = len(found.lesions)
    return {
        "voxels": large.slices.size,
        "lesions": lesions,
        "seconds": round(time.perf_counter() - start, 1),
        "processor seconds": round(time.process_time() - processor, 1),
        "MiB before": round(before),
        "MiB at most": round(memory_mib(os.getpid(), "VmHWM")),
    }


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.volumes", allow_abbrev=False)
    add = parser.add_argument
    add("volumes", type=Path, nargs="+", metavar="SCAN", help="normal T1-weighted volumes; any file that can be read")
    add("--lesions", type=int, default=8, help="how many are pasted into each volume, one at a time (%(default)s)")
    add("--seed", type=int, default=0, help="of the lesions (%(default)s)")
    add("--model", type=Path, default=SHIPPED_MODEL, help="model folder (the shipped one)")
    add("--cost", action="store_true", help="measure time and memory alone, on the first volume enlarged to 256³")
    add("--out", type=Path, metavar="FILE.json", help="write all figures")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> dict:
    """Print the tables, and return what `--out` writes."""
    options = parse(arguments)
    logging.disable_progress_bar()
    segmenter = TumorSegmenter.from_pretrained(options.model, device="cpu")
    if options.cost:
        result = {"machine": describe_machine(), "cost": cost(segmenter, options.volumes[0])}
        print_table("One volume, all planes", {"cost": result["cost"]})
    else:
        normal, phantoms = measure(options.volumes, segmenter, options.lesions, options.seed)
        result = {"summary": summarize(normal, phantoms), "normal": normal, "phantoms": phantoms}
        print_table(f"{len(normal)} normal volumes, {len(phantoms)} lesions", result["summary"])
        rows = {
            f"{row['volume']} {row['ml']:.1f} mL": {
                k: v if isinstance(v, bool) else round(v, 3) for k, v in row.items() if k not in ("volume", "ml")
            }
            for row in phantoms
        }
        if rows:
            print_table("Dice of every lesion", rows)
    if options.out:
        write_json(options.out, result)
    return result


if __name__ == "__main__":
    main()
