"""`python -m train plan`: a recipe for a data set and a machine, with the reason for every number.

    python -m train plan DATA --out recipe.yaml
    python -m train fit --data_dir DATA --recipe recipe.yaml --fold 0 --output_dir RUN

    slices ─ fingerprint ─→ sizes, tumours, persons ┐
    machine ─→ device, memory, cores ───────────────┴─ decide ─→ image size, batch, epochs ─ a few steps ─→ time, YAML

What is not named stays as in the default recipe. As in nnU-Net (Isensee et al. 2021), the rules are few and fixed: the
same data and machine give the same plan.
"""

import logging
import os
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from torch import nn

from modeling_unet.files import write_atomically

from ..columns import values_of
from ..data.arguments import DataArguments
from ..data.audit import MIN_PERSONS, persons_known
from ..data.cache import describe_seconds
from ..data.folds import KEPT_OUT, NUM_FOLDS
from ..data.slices import load_slices
from ..files import check_writable
from .network import build_model
from .options import RunArguments, read_recipe


logger = logging.getLogger(__name__)

USUAL_SIDE = 256  # px, of the shipped weights
SIDES = (128, 160, 192, 224, 256, 320, 384, 448, 512)  # multiples of 32, as the network halves a slice five times
MIN_TUMOR_PX = 8  # across; the deepest features that see single pixels have a quarter of the resolution
SMALL = 10  # % of the tumours are smaller than the one that has to stay visible
USUAL_BATCH = 16
# What a training of the default network in float32 takes, for each pixel of the slices of a step: 2.7 kB, as measured
# on a CPU with 16 slices of 256 px; half of it in mixed precision. Room is left for what else runs.
BYTES_PER_PIXEL = 3000
SHARE_OF_MEMORY = 0.6
# How many slices a training sees. Sixteen epochs of the public data set are 35,000; with more slices each is seen less
# often, with fewer more often, until they would be learned by heart.
SEEN_SLICES = (35_000, 160_000)
EPOCHS = (4, 60)
USUAL_EPOCHS = 16
VALIDATION = 1.1  # what evaluations after every epoch make of the time
MANY_NEGATIVES = 0.7  # of all slices
UNEVEN_SPACING = 1.5  # the largest by the smallest


@dataclass(frozen=True)
class Fingerprint:
    """What of a data set decides how it is trained on.

    Attributes:
        slices, with_tumor: how many there are, without those that are kept out, and how many of them show a tumour.
        training: how many of them a fold trains on.
        persons: how many, or None if they are not known.
        side: longest side of a slice in px, the median.
        tumor_px: diameter of a disc of the tumour's area in px; the one that `SMALL` % are smaller than, on a slice of
            `side`.
        spacing: the smallest and the largest size of a pixel in mm, or None.
    """

    slices: int
    with_tumor: int
    training: int
    persons: int | None
    side: int
    tumor_px: float
    spacing: tuple[float, float] | None


@dataclass(frozen=True)
class Machine:
    """Where it is trained: name of the device, bytes that are free there, and whether it is a GPU."""

    device: str
    free_bytes: int
    is_gpu: bool


@dataclass(frozen=True)
class Choice:
    """A number of the recipe, and why."""

    name: str
    value: int | float
    reason: str


def plan(arguments: DataArguments, out: Path, steps: int = 3) -> list[Choice]:
    """Look at the data and the machine, write the recipe and print it.

    Args:
        arguments: the data set.
        out: YAML file to write, which must not exist.
        steps: of training, to measure the time; 0 measures none.

    Raises:
        DataError: the data set cannot be trained on.
        ValueError: `out` exists, or `steps` is below 0.
    """
    if out.exists():
        raise ValueError(f"--out {out} is there already; name another file, or delete it.")
    if steps < 0:
        raise ValueError(f"--steps is {steps}; it must be 0 or above.")
    check_writable(out, "--out")
    found, machine = fingerprint(load_slices(arguments, without_folds=True)), look_at_machine()
    choices, remarks = decide(found, machine), advise(found)
    values = {choice.name: choice.value for choice in choices}
    if steps:
        seconds = measure_step(int(values["image_size"]), int(values["per_device_train_batch_size"]), steps)
        remarks.insert(0, describe_time(seconds, found.training, values, machine))
    text = format_recipe(found, machine, choices, remarks)
    write_atomically(out, text.encode())
    print(text)
    words = ["python", "-m", "train", "fit", *arguments.as_options(), "--fold", "0", "--recipe", str(out)]
    logger.info("The recipe is in %s. Next: %s", out, shlex.join([*words, "--output_dir", "RUN"]))
    return choices


def fingerprint(slices: Dataset) -> Fingerprint:
    """Of the slices as `load_slices` returns them."""
    splits = [*values_of(slices, "split")]
    slices = slices.select([index for index, split in enumerate(splits) if split not in KEPT_OUT])
    given = splits.count("train") if "validation" in splits else round(len(slices) * (1 - 1 / NUM_FOLDS))
    names = ("height", "width", "mask_area")
    height, width, area = (np.fromiter(values_of(slices, name), float) for name in names)
    longest = np.maximum(height, width)
    side = int(np.median(longest))
    shown = area > 0
    diameters = np.sqrt(4 / np.pi * area[shown]) / longest[shown] * side
    spacing = [value for name in ("row_mm", "column_mm") for value in values_of(slices, name) if value]
    return Fingerprint(
        slices=len(slices),
        with_tumor=int(shown.sum()),
        training=given,
        persons=len({*values_of(slices, "person_id")}) if persons_known(slices) else None,
        side=side,
        tumor_px=round(float(np.percentile(diameters, SMALL)), 1) if shown.any() else float(side),
        spacing=(min(spacing), max(spacing)) if spacing else None,
    )


def look_at_machine() -> Machine:
    """The device that a training would take, and the memory that is free there now."""
    if torch.cuda.is_available():
        return Machine(torch.cuda.get_device_name(), torch.cuda.mem_get_info()[0], True)
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4 * 10**9
    return Machine(f"CPU, {torch.get_num_threads()} threads", free, False)


# ---------------------------------------------------------------------------------------------------------------- rules


def decide(found: Fingerprint, machine: Machine) -> list[Choice]:
    """The numbers that this data set and this machine need."""
    size = _image_size(found)
    batch, steps = _batch(int(size.value), machine)
    return [size, batch, *([steps] if steps.value > 1 else []), _epochs(found)]


def _image_size(found: Fingerprint) -> Choice:
    """As large as the smaller tumours need, and never larger than the slices are."""
    largest = next((side for side in SIDES if side >= found.side), SIDES[-1])
    wanted = [side for side in SIDES if side <= largest and (side >= USUAL_SIDE or side == largest)]
    size = next((side for side in wanted if found.tumor_px * side / found.side >= MIN_TUMOR_PX), wanted[-1])
    seen = found.tumor_px * size / found.side
    small = f"nine of ten tumours are larger than {found.tumor_px:.0f} px across, which become {seen:.0f} px here"
    if size == largest and found.side <= size:
        why = f"the slices have {found.side} px"
    elif seen < MIN_TUMOR_PX:
        why = f"{small}; more than {size} px would take too long"
    else:
        why = f"{small} ({MIN_TUMOR_PX} are enough)"
    return Choice("image_size", size, f"{why}; a step takes {(size / USUAL_SIDE) ** 2:.2g} times as long as at 256 px")


def _batch(size: int, machine: Machine) -> tuple[Choice, Choice]:
    """Slices in a step, and over how many steps they are summed up where not all of them fit."""
    needed = BYTES_PER_PIXEL * size**2 / (2 if machine.is_gpu else 1)
    fitting = int(SHARE_OF_MEMORY * machine.free_bytes / needed)
    batch = USUAL_BATCH
    while batch > 1 and batch > fitting:
        batch //= 2
    free = f"{machine.free_bytes / 1e9:.1f} GB are free, and {batch} slices take about {batch * needed / 1e9:.1g} GB"
    reason = free if batch == USUAL_BATCH else f"{free}; {USUAL_BATCH} would not fit"
    summed = f"so that a step still sees {USUAL_BATCH} slices"
    return (
        Choice("per_device_train_batch_size", batch, reason),
        Choice("gradient_accumulation_steps", USUAL_BATCH // batch, summed),
    )


def _epochs(found: Fingerprint) -> Choice:
    seen = float(np.clip(USUAL_EPOCHS * found.slices, *SEEN_SLICES))
    epochs = int(np.clip(round(seen / found.slices), *EPOCHS))
    why = f"{found.slices:,} slices are seen {epochs * found.slices:,} times in all"
    if epochs == EPOCHS[1]:
        why += "; more often, and so few would be learned by heart"
    return Choice("num_train_epochs", epochs, why)


def advise(found: Fingerprint) -> list[str]:
    """What a recipe cannot say, as sentences."""
    remarks = []
    if found.persons is None:
        remarks.append("Whose slices these are is not known: give --persons, or every score will be too good.")
    elif found.persons < MIN_PERSONS:
        remarks.append(
            f"{found.persons} persons are few: start from trained weights, as --init_from weights/brain-tumor-unet, "
            "and see whether compare finds them better."
        )
    if found.with_tumor < (1 - MANY_NEGATIVES) * found.slices:
        remarks.append(
            f"{found.slices - found.with_tumor:,} of {found.slices:,} slices are without tumour: --negative_share 0.5 "
            "takes fewer of them, evenly over persons."
        )
    if found.spacing and found.spacing[1] > UNEVEN_SPACING * found.spacing[0]:
        remarks.append(
            "Pixels measure {:.2g} to {:.2g} mm, which the network does not see; slices are scaled at random ".format(
                *found.spacing
            )
            + "in training (scale), by more than that only if the recipe says so."
        )
    return remarks


# ----------------------------------------------------------------------------------------------------------------- time


def measure_step(size: int, batch: int, steps: int) -> float:
    """Seconds of a training step of the default network on made-up slices, the first one left out."""
    model, _ = build_model(RunArguments(all_persons=True, image_size=size))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    nn.Module.to(model, device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    slices = torch.rand(batch, 1, size, size, device=device)
    labels = (slices[:, 0] > 0.9).long()
    seconds = []
    for _ in range(steps + 1):
        start = time.perf_counter()
        model(slices, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds[1:]))


def describe_time(seconds: float, training: int, values: dict[str, int | float], machine: Machine) -> str:
    """How long a training on so many slices takes, in a sentence."""
    steps = values["num_train_epochs"] * np.ceil(training / values["per_device_train_batch_size"])
    whole = describe_seconds(VALIDATION * steps * seconds)
    return f"A fold takes about {whole} on this machine ({machine.device}): {steps:,.0f} steps of {seconds:.2g} s."


def format_recipe(found: Fingerprint, machine: Machine, choices: Sequence[Choice], remarks: Sequence[str]) -> str:
    """The YAML file: what was found, the choices with their reasons, then what else there is to know."""
    persons = "persons not known" if found.persons is None else f"{found.persons:,} persons"
    usual = read_recipe("default")
    lines = [
        f"# Planned for {found.slices:,} slices of {found.side} px of {persons}, {found.with_tumor:,} with tumour,",
        f"# on {machine.device}. What is not named is as in the default recipe.",
    ]
    lines += [f"# {remark}" for remark in remarks]
    for choice in choices:
        same = " (as usual)" if usual.get(choice.name) == choice.value else ""
        lines += ["", f"# {choice.reason[:1].upper()}{choice.reason[1:]}{same}.", f"{choice.name}: {choice.value}"]
    return "\n".join(lines) + "\n"
