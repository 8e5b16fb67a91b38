"""Masks of the brain for slices without volumes: python docs/mask_brains.py VOLUMES MASKS DATA OUT [PICTURES ...]

    VOLUMES, MASKS ─ slices in three planes, lesions of DATA laid in ─→ training of a network for the brain
    DATA, PICTURES ─ that network, cleaned, with the place of the tumour ─→ OUT/NAME.png, for --brain_masks

VOLUMES are T1 volumes (NIfTI), MASKS the brain in them, of equal names, by a tool for brain extraction: deepbet 1.0.2
(Fisch et al. 2024, MIT) in experiment 23. The network starts from the shipped weights; contrast is imitated by bright
lesions and bright pieces of the brain's surface. PICTURES are folders of canvases, or of slices to measure on.
"""

import argparse
import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import nibabel
import numpy as np
import torch
import torch.nn.functional as F


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from modeling_unet import UNetForSemanticSegmentation, read_image, read_mask
from modeling_unet.files import write_atomically
from modeling_unet.image_processing_unet import to_grayscale
from modeling_unet.pictures import encode_png
from train.data.augmentation import Augmentation, standardize
from train.data.raw import image_files
from train.fitting.options import read_recipe


SIDE, MASK_SIDE, BATCH = 160, 256, 16  # px the network sees, px of the masks, slices at once
STEPS_BETWEEN_SLICES = {0: 2, 1: 3, 2: 2}  # of a volume, along each axis
BRIGHT, MIN_HEAD = 0.12, 0.08  # of the brightest; of a slice that is worth training on
MIN_BRAIN, MIN_PIECE = 0.04, 0.15  # of a slice without its tumour; of the largest piece
LESIONS = 300


def prepared(image: np.ndarray) -> np.ndarray:
    """Grey values [H, W] → float32 [SIDE, SIDE], standardised."""
    small = cv2.resize(image.astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return np.clip(standardize(small, float(small.min())), -5, 5)


def shrunk(mask: np.ndarray, side: int = SIDE) -> np.ndarray:
    return cv2.resize(mask.astype(np.uint8), (side, side), interpolation=cv2.INTER_NEAREST)


def slices_of_volumes(volumes: Path, masks: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Slices in a square frame and the brain in them: float32 and uint8 [SIDE, SIDE]."""
    for path in sorted(volumes.glob("*.nii*")):
        head, brain = (nibabel.as_closest_canonical(nibabel.load(folder / path.name)) for folder in (volumes, masks))
        voxels, inside = head.get_fdata(dtype=np.float32), brain.get_fdata() > 0
        voxels = np.clip(voxels / np.percentile(voxels, 99.7), 0, 1)
        for axis, step in STEPS_BETWEEN_SLICES.items():
            for number in range(0, voxels.shape[axis], step):
                image, mask = (np.take(part, number, axis).T[::-1, ::-1] for part in (voxels, inside))
                if (image > BRIGHT).mean() >= MIN_HEAD:
                    free = max(image.shape) - np.array(image.shape)
                    frame = [(space // 2, space - space // 2) for space in free]
                    yield prepared(np.pad(image, frame)), shrunk(np.pad(mask, frame))


def lesions_of(data: Path, rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
    masks = image_files(data / "masks")
    chosen = (masks[index] for index in rng.permutation(len(masks))[:LESIONS])
    images = {path.stem: path for path in image_files(data / "images")}
    return [(prepared(to_grayscale(read_image(images[path.stem]))), shrunk(read_mask(path))) for path in chosen]


def with_contrast(
    image: np.ndarray, brain: np.ndarray, lesions: list[tuple[np.ndarray, np.ndarray]], rng: np.random.Generator
) -> np.ndarray:
    """Lesions laid into the brain, and its surface lit up here and there."""
    for _ in range(rng.integers(0, 3)):
        lesion, region = lesions[rng.integers(len(lesions))]
        places = np.argwhere(brain)
        if len(places) and region.any():
            down, right = places[rng.integers(len(places))] - np.argwhere(region).mean(0)
            matrix = np.array([[1, 0, right], [0, 1, down]], np.float32)
            there = cv2.warpAffine(region, matrix, (SIDE, SIDE), flags=cv2.INTER_NEAREST) * brain
            alpha = cv2.GaussianBlur(there.astype(np.float32), (0, 0), 1)
            tissue = cv2.warpAffine(lesion, matrix, (SIDE, SIDE)) * rng.uniform(0.7, 1.3) + rng.uniform(-0.2, 0.2)
            image = image * (1 - alpha) + tissue * alpha
    if rng.random() < 0.5:
        around = np.ones((3, 3), np.uint8)
        surface = cv2.dilate(brain, around) - cv2.erode(brain, around)
        here_and_there = cv2.GaussianBlur(rng.standard_normal((SIDE, SIDE)).astype(np.float32), (0, 0), 6) > 0
        image = image + rng.uniform(0, 2) * cv2.GaussianBlur((surface * here_and_there).astype(np.float32), (0, 0), 0.7)
    return image.astype(np.float32)


def surplus(model: UNetForSemanticSegmentation, pixel_values: torch.Tensor, side: int) -> torch.Tensor:
    """Logits of "brain": [N, side, side]."""
    logits = model(pixel_values.to(memory_format=torch.channels_last)).logits
    return F.interpolate(logits[:, 1:] - logits[:, :1], (side, side), mode="bilinear")[:, 0]


def train(slices: list[tuple[np.ndarray, np.ndarray]], lesions: list, steps: int, rng: np.random.Generator):
    """The shipped network, taught to find the brain."""
    model = UNetForSemanticSegmentation.from_pretrained("weights/brain-tumor-unet")
    model.config.presence_logit = None
    with torch.no_grad():
        model.head.weight.mul_(0.1)
        model.head.bias.zero_()
    recipe = read_recipe("default")
    named = {option.name: recipe[option.name] for option in dataclasses.fields(Augmentation)}
    named |= {"scanner_probability": 0.8, "bend": 0.7, "bias": 0.5, "scale": [0.75, 1.3]}
    augmentation = Augmentation(**named | {"view_probability": 0.2, "view_scale": [0.8, 1.6]})
    optimizer = torch.optim.AdamW(model.parameters(), lr=8e-4, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 8e-4, total_steps=steps, pct_start=0.1)
    model.train()
    for step in range(steps):
        drawn = [slices[index] for index in rng.integers(0, len(slices), BATCH)]
        changed = (augmentation(with_contrast(*pair, lesions, rng)[None], pair[1], rng) for pair in drawn)
        images, brains = (torch.from_numpy(np.stack(part)) for part in zip(*changed, strict=True))
        truth, logits = brains.float(), surplus(model, images, SIDE)
        share = torch.sigmoid(logits)
        dice = (2 * (share * truth).sum((1, 2)) + 50) / ((share + truth).sum((1, 2)) + 50)
        loss = F.binary_cross_entropy_with_logits(logits, truth) + 1 - dice.mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 20 == 19:
            print(f"step {step + 1} of {steps}: loss {loss.item():.3f}", flush=True)
    return model.eval()


def cleaned(brain: np.ndarray, tumor: np.ndarray) -> np.ndarray:
    """Large pieces without holes, with the tumour; nothing at all where little more than the tumour would be left."""
    disks = {size: cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)) for size in (3, 5, 9)}
    count, pieces, stats, _ = cv2.connectedComponentsWithStats(cv2.morphologyEx(brain, cv2.MORPH_OPEN, disks[3]))
    areas = stats[1:, cv2.CC_STAT_AREA]
    if count == 1:
        return np.zeros_like(brain)
    whole = np.isin(pieces, 1 + np.flatnonzero(areas >= MIN_PIECE * areas.max())).astype(np.uint8)
    whole |= cv2.dilate(tumor, disks[5])
    whole = cv2.morphologyEx(np.pad(whole, 8), cv2.MORPH_CLOSE, disks[9])[8:-8, 8:-8]
    outlines, _ = cv2.findContours(whole, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(whole, outlines, -1, 1, cv2.FILLED)
    rest = whole & (1 - cv2.dilate(tumor, disks[9]))
    return whole if rest.mean() >= MIN_BRAIN and rest.sum() >= whole.sum() / 2 else np.zeros_like(whole)


@torch.inference_mode()
def mask(model: UNetForSemanticSegmentation, path: Path, tumor: np.ndarray) -> np.ndarray:
    """The brain in a picture, seen as it is and mirrored: uint8 [MASK_SIDE, MASK_SIDE]."""
    pixel_values = torch.from_numpy(prepared(to_grayscale(read_image(path))))[None, None]
    logits = surplus(model, pixel_values, MASK_SIDE) + surplus(model, pixel_values.flip(-1), MASK_SIDE).flip(-1)
    return cleaned((logits[0] > 0).numpy().astype(np.uint8), tumor)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("volumes", "masks", "data", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("pictures", type=Path, nargs="*")
    parser.add_argument("--steps", type=int, default=350)
    parser.add_argument("--stripped", type=Path, help="folder for the pictures, black outside the brain")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    slices = list(slices_of_volumes(options.volumes, options.masks))
    model = train(slices, lesions_of(options.data, rng), options.steps, rng)
    tumors = {path.stem: path for path in image_files(options.data / "masks")}
    given = [(path, read_mask(tumors[path.stem])) for path in image_files(options.data / "images")]
    given += [(path, np.zeros((1, 1), bool)) for folder in options.pictures for path in image_files(folder)]
    for path, tumor in given:
        brain = mask(model, path, shrunk(tumor, MASK_SIDE))
        write_atomically(options.out / f"{path.stem}.png", encode_png(brain.astype(bool)))
        if options.stripped:
            image = to_grayscale(read_image(path))
            whole = cv2.resize(brain, image.shape[::-1], interpolation=cv2.INTER_LINEAR)
            write_atomically(options.stripped / f"{path.stem}.png", encode_png(image * whole))


if __name__ == "__main__":
    main()
