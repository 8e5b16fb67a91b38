"""Do seams or symmetry give a synthesized slice away? python docs/check_synthesis.py DATA HEALTHY

Draws training slices of fold 0 as `fit` does, before augmentation, and asks two judges that do not look at the tumour
whether there is one: how many pixels were changed (the seam), and how symmetric the slice is. Each may pick the best
threshold on half of the slices; balanced accuracy on the other half is 50 % where they know nothing.
"""

import sys
from pathlib import Path

import numpy as np


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from modeling_unet import UNetImageProcessor
from train.data.folds import fold_indices
from train.data.slices import AugmentedSlices, DataArguments, find_axes, load_slices, prepare_slices
from train.data.synthesis import Synthesis, Synthesizer, find_axis, read_canvases


DRAWS = 2000
NOTHING = {f"{kind}_probability": 0.0 for kind in ("canvas", "mirror", "paste", "cover")}


def main(data_dir: str, healthy: str) -> None:
    slices, processor = load_slices(DataArguments(data_dir=data_dir)), UNetImageProcessor()
    training, _ = fold_indices(slices, 0)
    prepared = prepare_slices(slices, processor).select(training)
    persons = slices.select(training)["person_id"]
    plain, axes, canvases = AugmentedSlices(prepared), find_axes(prepared), read_canvases(healthy, processor)[0]

    options = Synthesis(canvases=healthy, **NOTHING | {"canvas_probability": 1.0})
    made = draw(Synthesizer(plain, axes, persons, options, canvases), len(training))
    judge("seam, on healthy volunteers", [distance_to_nearest(image, canvases) for image, _ in made], made)

    for kind in ("mirror", "cover"):
        options = Synthesis(**NOTHING | {f"{kind}_probability": 1.0})
        made = draw(Synthesizer(plain, axes, persons, options), len(training))
        changed = [
            (sample, (sample[0] != plain[index]["pixel_values"]).sum())
            for index, sample in zip(indices(len(training)), made, strict=True)
        ]
        samples, counts = zip(*((sample, count) for sample, count in changed if count), strict=True)
        symmetries = [find_axis(image[0], labels * 0).symmetry for image, labels in samples]
        judge(f"seam, on slices of {kind}", counts, samples)
        judge(f"symmetry, on slices of {kind}", symmetries, samples)


def indices(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(count, size=DRAWS)


def draw(synthesizer: Synthesizer, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    return [synthesizer(int(index), np.random.default_rng(seed)) for seed, index in enumerate(indices(count))]


def distance_to_nearest(image: np.ndarray, canvases: list[np.ndarray]) -> int:
    """Number of pixels in which a slice differs from the canvas that it was drawn on."""
    return min(int((image[0] != canvas).sum()) for canvas in canvases)


def judge(name: str, clues: list[float], samples: list[tuple[np.ndarray, np.ndarray]]) -> None:
    clues, tumor = np.array(clues, float), np.array([(labels == 1).any() for _, labels in samples])
    half = np.arange(len(clues)) % 2 == 0
    candidates = np.quantile(clues[half], np.linspace(0, 1, 41))
    best = max(
        ((sign, threshold) for sign in (1, -1) for threshold in candidates),
        key=lambda rule: balanced_accuracy(rule[0] * clues[half] > rule[0] * rule[1], tumor[half]),
    )
    accuracy = balanced_accuracy(best[0] * clues[~half] > best[0] * best[1], tumor[~half])
    print(f"{name}: {100 * accuracy:.1f} % on {(~half).sum()} slices, {100 * tumor.mean():.0f} % with a tumour")


def balanced_accuracy(said: np.ndarray, true: np.ndarray) -> float:
    return (said[true].mean() + (~said[~true]).mean()) / 2


if __name__ == "__main__":
    main(*sys.argv[1:])
