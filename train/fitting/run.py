"""`python -m train fit`: from a data set to a model folder, by the Hugging Face `Trainer`.

    python -m train fit --data_dir DATA --output_dir RUN --fold 0 --recipe default
    torchrun --nproc_per_node 4 -m train fit --data_dir DATA --output_dir RUN --fold 0

The folder RUN then holds the averaged weights of the last epoch, those of the best one (`best/`), checkpoints to resume
from, the record of the run (`training.json`), its curves and a sheet of predictions.
"""

import hashlib
import json
import logging
import platform
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from datasets import Dataset, concatenate_datasets
from torch import nn
from transformers import (
    IntervalStrategy,
    TrainingArguments,
)

from modeling_unet import TumorSegmenter, UNetConfig, UNetImageProcessor
from modeling_unet.provenance import weights_hash

from ..data.augmentation import Augmentation
from ..data.cache import Held
from ..data.folds import all_indices, fold_indices
from ..data.masks import read_bits, to_labels, to_planes
from ..data.raw import as_file
from ..data.slices import AugmentedSlices, content_hash, find_axes, load_slices, prepare_slices
from ..data.synthesis import Synthesis, Synthesizer, read_brains, read_canvases
from ..files import check_writable, read_json, write_json
from ..record import (
    BASE_WEIGHTS,
    BRAINS,
    CALIBRATION,
    CANVASES,
    CLASSES,
    LOOKS,
    RECORD_FILE,
    TEACHERS,
    is_seen_in_training,
    read_record,
    seen_slices,
)
from .calibrated import calibrated_folders, calibration_of, hand_on, read_calibration, take_over
from .checkpoints import find_newest_intact
from .curves import Prediction, pick_examples, write_curves, write_predictions
from .earlier.rehearsal import load_known
from .earlier.teachers import Teachers, describe
from .memory import keep_freed_memory
from .network import DEFAULT_ARCHITECTURE, build_model
from .options import (
    ALSO_SHARE,
    DEFAULT_RECIPE,
    IN_A_RECIPE,
    TRACKERS,
    FitArguments,
    FitOptions,
    RunArguments,
    read_recipe,
)
from .precision import keep_depthwise_in_float32
from .trainer import BEST_FOLDER, WATCHED, SegmentationTrainer


logger = logging.getLogger(__name__)

MASK_DIGITS = 8  # hexadecimal; with 2,000 slices trained on, one new slice in two million matches by chance
ADDED = (CANVASES, BRAINS)  # pictures beside the slices
# Facts that identify a run: a checkpoint is resumed only if all of them are equal.
STARTED = (
    *("fold", "num_folds", "official_folds", "training_persons", "training_slices", "training_slices_sha256"),
    *(*ADDED, BASE_WEIGHTS, CLASSES, TEACHERS),
)
ADDED_LATER = (LOOKS, BASE_WEIGHTS)
FIXED_OPTIONS = {field.name for group in (RunArguments, Synthesis, Augmentation) for field in fields(group)}
FIXED_OPTIONS |= {"ema_decay", "ema_warm_up", "freeze_encoder", "seed"}
FIXED_OPTIONS &= IN_A_RECIPE


def fit(options: FitOptions) -> dict:
    """Train on all folds but one, going on from what is found in `output_dir`, and save the averaged weights there.

    Returns:
        The record of the run that is written to `training.json`. The Dice in it is taken at the network's resolution,
        to watch the training; figures to report come from `python -m train evaluate`.

    Raises:
        DataError: the data set cannot be trained on.
        ValueError: options that are wrong or exclude each other, or `output_dir` holds another run.
        OSError: a checkpoint could not be written, or what to start from could not be read.
        MemoryError: the batch does not fit.
    """
    output_dir, commit = Path(options.trainer.output_dir), _commit()
    check_writable(output_dir / RECORD_FILE, "--output_dir")
    options.trainer.push_to_hub = False  # the Trainer's own upload is in many commits, and takes the checkpoints along
    calibrated, classes = options.run.calibration, options.data.tumor_classes()
    _refuse_for_classes(options)
    _adapt_to_channels(options)
    calibration = read_calibration(calibrated) if calibrated else None
    transformers.set_seed(options.trainer.seed)
    model, processor = build_model(options.run, classes, options.data.sequences or ())
    if calibration:
        calibration.check_fits(model.config.class_names, output_dir)
    teachers = None
    if options.run.teachers and options.run.teacher_share:
        teachers = Teachers(options.run.teachers, model, processor, options.run.teacher_share)
    with options.trainer.main_process_first(desc="reading the slices"):
        sides = _read_sides(options, processor)
    training, validation = sides.training, sides.validation
    canvases, brains, added = _added_pictures(options.synthesis, training["slice"][:], processor)
    started = _started(options, model.config, training)
    _warn_of_other_weights(options.run, started)
    started.update(added)
    if calibrated and calibration:
        started[CALIBRATION] = calibration.to_record()
        for folder in calibrated_folders(calibrated):
            _warn_of_another_recipe(folder, started)
    kept = None
    if options.run.keep_calibration and options.run.init_from:
        kept = calibration_of(options.run.init_from, model.config.class_names)
    if kept:
        started[CALIBRATION] = kept.to_record()
    if options.run.all_persons:
        options.trainer.eval_strategy = IntervalStrategy.NO
    else:
        _refuse_teachers_of(validation, options.run)
        if options.run.init_from:
            is_seen_in_training(options.run.init_from, validation)
    if record := _finished_before(output_dir, started):
        logger.info("%s holds this very run, finished: nothing is left to do.", output_dir)
        return record
    if options.trainer.use_cpu:
        keep_freed_memory()
        if options.trainer.bf16:
            keep_depthwise_in_float32(model)
    as_labels: Callable[[np.ndarray], np.ndarray] | None = None
    if classes:
        as_labels = partial(to_planes, count=len(classes.names)) if model.config.classes_overlap else to_labels
    taking = {"always": sides.always, "drawn": sides.drawn, "as_labels": as_labels}
    trainer = SegmentationTrainer(
        model=nn.SyncBatchNorm.convert_sync_batchnorm(model) if options.trainer.sync_batch_norm else model,
        args=options.trainer,
        train_dataset=_training_slices(options, sides.to_train, training["person_id"][:], canvases, brains, taking),
        eval_dataset=AugmentedSlices(sides.to_validate, as_labels=as_labels) if len(validation) else None,
        processing_class=processor,
        teachers=teachers,
    )
    with options.trainer.main_process_first(local=False, desc="looking for checkpoints"):
        checkpoint = _find_checkpoint(output_dir, started)
        if checkpoint is None and trainer.is_world_process_zero():
            shutil.rmtree(output_dir / BEST_FOLDER, ignore_errors=True)  # of another run
            write_json(output_dir / RECORD_FILE, started)
    with _memory_advice(options.trainer, processor), _tracker_named():
        trainer.train(resume_from_checkpoint=checkpoint)
        if len(validation) and not trainer.validation_dice:
            trainer.evaluate()
        if len(validation):
            _say_how_it_ended(trainer, validation["mask_area"][:])
    trainer.save_average(output_dir)
    record = {**started, "commit": commit, **_finished(trainer)}
    if trainer.is_world_process_zero():
        if calibrated:
            take_over(calibrated, output_dir)
        for folder in (output_dir, output_dir / BEST_FOLDER):
            if folder.is_dir():
                if kept and options.run.init_from:
                    hand_on(kept, options.run.init_from, folder)
                write_json(folder / RECORD_FILE, record)
        write_curves(trainer.state.log_history, output_dir)
        if len(validation):
            _write_sheet(trainer, validation, output_dir / "predictions.png")
        logger.info("The trained model is in %s; %s", output_dir, next_step(options, sides.tested))
    return record


class Sides(NamedTuple):
    """The slices of a run, and the same ones prepared for the network.

    An epoch takes the first `always` ones of the training, and draws `drawn` of the others, which were known before.
    `tested` says whether some slices are marked to test with.
    """

    training: Dataset
    validation: Dataset
    to_train: Dataset
    to_validate: Dataset
    always: int
    drawn: int
    tested: bool


def _read_sides(options: FitOptions, processor: UNetImageProcessor) -> Sides:
    classes, fold, num_proc = options.data.tumor_classes(), options.run.fold, options.data.dataset_num_proc
    slices = load_slices(options.data, without_folds=fold is None)
    rows = (all_indices(slices), []) if fold is None else fold_indices(slices, fold)
    # Slices of all folds, so that the folds share one cache.
    prepared = prepare_slices(slices, processor, len(classes.names) if classes else 1, num_proc)
    (training, validation), (to_train, to_validate) = (
        tuple(part.select(side) for side in rows) for part in (slices, prepared)
    )
    logger.info(
        "Training on %d slices of %d persons, validating on %d of %d.",
        *(len(training), len(set(training["person_id"][:]))),
        *(len(validation), len(set(validation["person_id"][:]))),
    )
    always, drawn = len(training), 0
    if options.run.also_data_dir and options.run.init_from:
        everything, again = load_known(options.run.also_data_dir, options.run.init_from, training, validation)
        share = options.run.also_share or ALSO_SHARE
        drawn = max(round(always * share / (1 - share)), 1)
        logger.info("To every epoch come %d slices of the %d that were trained on before.", drawn, len(again))
        also = prepare_slices(everything, processor, num_proc=num_proc)
        training = concatenate_datasets([training, everything.select(again)])
        to_train = concatenate_datasets([to_train, also.select(again)])
    return Sides(training, validation, to_train, to_validate, always, drawn, "test" in slices["split"][:])


def _added_pictures(
    options: Synthesis, slices: Sequence[str], processor: UNetImageProcessor
) -> tuple[list[np.ndarray], list[np.ndarray], dict[str, str]]:
    """The canvases, the masks of the brain of all slices and canvases, and the hashes of both for the record."""
    canvases: dict[str, np.ndarray] = {}
    brains: list[np.ndarray] = []
    hashes: dict[str, str] = {}
    if options.canvases:
        canvases, hashes[CANVASES] = read_canvases(options.canvases, processor)
    if options.brain_masks:
        side = processor.size["longest_edge"]
        brains, hashes[BRAINS] = read_brains(
            options.brain_masks, [*slices, *(Path(name).stem for name in canvases)], side
        )
    return list(canvases.values()), brains, hashes


def _refuse_for_classes(options: FitOptions) -> None:
    """Raise a ValueError for options that are for one class alone, where --classes names several."""
    if options.data.classes and options.synthesis.dark_probability:
        raise ValueError(
            f"--dark_probability is {options.synthesis.dark_probability:g}; with --classes it must be 0, because what "
            "it draws is of no class."
        )
    for name in ("teachers", "also_data_dir"):
        if options.data.classes and getattr(options.run, name):
            raise ValueError(f"--{name} is for models of one class; leave it out with --classes.")


def _adapt_to_channels(options: FitOptions) -> None:
    """Leave out what changes slices of one channel alone; a ValueError for options that ask for it by name."""
    if not options.data.sequences:
        return
    for group, names in (
        (options.synthesis, ("canvases", "brain_masks")),
        (options.run, ("teachers", "also_data_dir")),
    ):
        for name in names:
            if getattr(group, name):
                raise ValueError(f"--{name} is for models of one channel; leave it out with --sequences.")
    for option in fields(options.synthesis):
        if option.name.endswith("_probability"):
            setattr(options.synthesis, option.name, 0.0)
    logger.info("With --sequences, tumours are neither removed, copied nor pasted: that is for slices of one channel.")


def _training_slices(
    options: FitOptions,
    prepared: Dataset,
    person_id: Sequence[str],
    canvases: Sequence[np.ndarray],
    brains: Sequence[np.ndarray],
    taking: dict[str, Any],
) -> AugmentedSlices:
    slices = Held(prepared) if options.run.keep_in_memory else prepared
    if not options.run.augment:
        return AugmentedSlices(slices, seed=options.trainer.seed, **taking)
    if options.data.sequences:
        return AugmentedSlices(slices, options.augmentation, options.trainer.seed, **taking)
    plain = AugmentedSlices(slices)
    axes = find_axes(prepared, options.data.dataset_num_proc) if options.synthesis.mirror_probability else []
    synthesizer = Synthesizer(plain, axes, person_id, options.synthesis, canvases, brains)
    return AugmentedSlices(slices, options.augmentation, options.trainer.seed, synthesizer, **taking)


@contextmanager
def _memory_advice(arguments: TrainingArguments, processor: UNetImageProcessor) -> Iterator[None]:
    """Turn the machine's "out of memory" into what to try."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        batch, steps = arguments.per_device_train_batch_size, arguments.gradient_accumulation_steps
        raise MemoryError(
            f"out of memory at {batch} slices of {processor.size['longest_edge']} pixels per device; try "
            f"--per_device_train_batch_size {max(batch // 2, 1)} --gradient_accumulation_steps {2 * steps} (the same "
            "batch in smaller portions), --gradient_checkpointing true, or a smaller --image_size."
        ) from error


@contextmanager
def _tracker_named() -> Iterator[None]:
    """Turn what a tracker raises, such as for a server that does not answer, into a sentence."""
    try:
        yield
    except Exception as error:
        package = type(error).__module__.partition(".")[0]
        if package not in TRACKERS:
            raise
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise ValueError(f"--report_to {package} failed: {reason}.") from error


def _started(options: FitOptions, config: UNetConfig, training: Dataset) -> dict:
    """What is known of a run before its first step; with the recipe, what it takes to repeat it."""
    masks = zip(training["mask_sha256"][:], training["mask_area"][:], strict=True)
    trained_on = {digest[:MASK_DIGITS] for digest, area in masks if area}
    base = read_record(options.run.init_from) if options.run.init_from else {}
    parents = [*([base] if options.run.init_from else []), *map(read_record, options.run.teachers or ())]
    known = all("trained_on" in parent for parent in parents)
    looks = {*filter(None, training["look"][:])}
    for parent in parents:
        trained_on.update(parent.get("trained_on", "").split())
        looks.update(parent.get(LOOKS, "").split())
    base = {name: value for name, value in base.items() if name not in ("validation", "trained_on", LOOKS)}
    started: dict[str, Any] = {
        "fold": options.run.fold,
        "num_folds": options.data.num_folds,
        "official_folds": options.data.official_folds,
        "training_persons": len(set(training["person_id"][:])),
        "training_slices": len(training),
        "training_slices_sha256": content_hash(training),
        "encoder_initialization": config.encoder_initialization,
        "recipe": _recipe(options),
        "started_from": base,
    }
    if classes := options.data.tumor_classes():
        started[CLASSES] = classes.words
    if options.run.init_from:
        started[BASE_WEIGHTS] = weights_hash(options.run.init_from)
    if options.run.teachers:
        started[TEACHERS] = describe(options.run.teachers)
    if known:
        # For `evaluate`, which checks whether slices were trained on: the first digits of the hashes of masks with a
        # tumour, and the looks of those slices.
        started["trained_on"] = " ".join(sorted(trained_on))
        started[LOOKS] = " ".join(sorted(looks))
    return started


def _refuse_teachers_of(validation: Dataset, run: RunArguments) -> None:
    """Raise an error if a teacher was trained on who validates: it would pass on what it knows of them."""
    for teacher in run.teachers or ():
        if any(seen_slices(teacher, validation) or ()):
            raise ValueError(
                f"--teachers {teacher} was trained on persons of fold {run.fold}; take teachers that left this fold "
                "out, or --all_persons true, where nobody validates."
            )


def _recipe(options: FitOptions) -> dict:
    """The options that the default recipe names, and those that are not plain defaults: `--recipe training.json`."""
    plain, named = FitArguments(output_dir="anywhere"), read_recipe(DEFAULT_RECIPE).keys()
    values = {
        **asdict(options.run),
        **asdict(options.synthesis),
        **asdict(options.augmentation),
        "init_from": _public_name(options.run.init_from),
    }
    if options.run.init_from is None:
        values["architecture"] = options.run.architecture or DEFAULT_ARCHITECTURE
    for name in (field.name for field in fields(FitArguments)):
        value = getattr(options.trainer, name)
        if name in named or value != getattr(plain, name):
            values[name] = value.value if isinstance(value, Enum) else value
    return {name: value for name, value in values.items() if name in IN_A_RECIPE and value is not None}


def _warn_of_other_weights(run: RunArguments, started: dict) -> None:
    """Warn if a recipe is the record of a fine-tuning that started from other weights."""
    path = Path(run.recipe)
    recorded = read_json(path).get(BASE_WEIGHTS) if path.suffix == ".json" else None
    if recorded and recorded != started.get(BASE_WEIGHTS):
        logger.warning("%s started from other weights than those of --init_from: this run does not repeat it.", path)


def _warn_of_another_recipe(calibrated_dir: Path, started: dict) -> None:
    """Warn of differences: calibration and figures of a fold hold only for models of the same recipe."""
    here, there = (list(_trainings(run)) for run in (started, read_record(calibrated_dir)))
    names = (FIXED_OPTIONS | read_recipe(DEFAULT_RECIPE).keys()) - {"init_from"}
    differences = [] if len(here) == len(there) else [f"{len(there)} trainings, not {len(here)}"]
    for run, other in zip(here, there, strict=False):
        ours, theirs = (
            {**record.get("recipe", {}), **{name: record.get(name) for name in ADDED}} for record in (run, other)
        )
        changed = sorted(name for name in {*names, *ADDED} if theirs.get(name) != ours.get(name))
        differences += (f"{name} {theirs.get(name)}, not {ours.get(name)}" for name in changed)
    if differences:
        logger.warning("--calibration %s is of another recipe: %s.", calibrated_dir, "; ".join(differences))


def _trainings(run: dict) -> Iterator[dict]:
    """The records of a training and of those that it started from, the last one first."""
    while run:
        yield run
        run = run.get("started_from") or {}


def _finished_before(output_dir: Path, started: dict) -> dict | None:
    """The record of a finished run with the same options, schedule included; None if there is none."""
    record = _read_record_of(output_dir, started)
    names = {*started, *ADDED, CALIBRATION, CLASSES, TEACHERS}
    is_same = all(record.get(name) == started.get(name) for name in names)
    return record if is_same and "steps" in record and (output_dir / "model.safetensors").is_file() else None


def _find_checkpoint(output_dir: Path, started: dict) -> str | None:
    """The checkpoint to go on from, if there is one; a ValueError if it is another run's."""
    if not any(output_dir.glob("checkpoint-*")):
        return None
    before = _fixed(_read_record_of(output_dir, started))
    for name, value in _fixed(started).items():
        if before.get(name) != value:
            raise ValueError(
                f"{output_dir} holds another run ({name} was {before.get(name)} and is now {value}); "
                "name another --output_dir or delete its checkpoints."
            )
    checkpoint = find_newest_intact(output_dir)
    if checkpoint is None:
        logger.warning("No checkpoint in %s is intact: the run starts anew.", output_dir)
        return None
    logger.info("Resuming from %s.", checkpoint)
    return str(checkpoint)


def _read_record_of(output_dir: Path, started: dict) -> dict:
    """The record in a folder; facts that older versions did not write are taken from the new run."""
    path = output_dir / RECORD_FILE
    if not path.is_file():
        return {}
    return {**{name: started[name] for name in ADDED_LATER if name in started}, **read_json(path)}


def _fixed(record: dict) -> dict:
    """The facts and options that must stay the same when a run goes on; the schedule may change."""
    facts = {name: record.get(name) for name in STARTED}
    base = json.dumps([record.get("started_from") or {}, record.get("trained_on")], sort_keys=True)
    facts["origin of --init_from"] = hashlib.sha256(base.encode()).hexdigest()[:12]
    recipe = record.get("recipe")
    recipe = recipe if isinstance(recipe, dict) else {}
    return {**facts, **{name: recipe.get(name) for name in sorted(FIXED_OPTIONS)}}


def _say_how_it_ended(trainer: SegmentationTrainer, mask_areas: Sequence[int]) -> None:
    """Warn of an early stop, and of a network that finds nothing; the exit code is 0 in both cases."""
    arguments, state = trainer.args, trainer.state
    if arguments.early_stopping_patience is not None and state.global_step < state.max_steps:
        logger.warning(
            "Stopped early, after %.4g of %.4g epochs: %s was %.4f at best, and nothing better came in "
            "--early_stopping_patience %d evaluations.",
            *(state.epoch, state.num_train_epochs, arguments.metric_for_best_model, state.best_metric),
            arguments.early_stopping_patience,
        )
    with_tumor = [dice for dice, area in zip(trainer.validation_dice, mask_areas, strict=True) if area]
    if with_tumor and not any(with_tumor):
        logger.warning(
            "The network finds nothing: Dice is 0 on every one of the %d slices with tumour that validate; train for "
            "longer, or with another --learning_rate.",
            len(with_tumor),
        )


def _finished(trainer: SegmentationTrainer) -> dict:
    """How a run went."""
    log, kept = trainer.state.log_history, ("epoch", "eval_loss", *WATCHED)
    return {
        "steps": trainer.state.global_step,
        "seconds_since_last_start": round(
            next(entry["train_runtime"] for entry in log[::-1] if "train_runtime" in entry)
        ),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, {_accelerator()}",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "validation": [
            {name: value for name, value in entry.items() if name in kept or name.startswith(f"{WATCHED[0]}_")}
            for entry in log
            if "eval_loss" in entry
        ],
    }


def next_step(options: FitOptions, tested: bool) -> str:
    """The end of a sentence that says what to type after a training."""
    model, fold = f"--model={options.trainer.output_dir}", options.run.fold
    if fold is None and not tested:
        return f"it has seen all persons, so others judge it: python -m train evaluate {model} --data_dir OTHER_PERSONS"
    which = "--split=test" if fold is None else f"--fold={fold}"
    return "score it with: " + shlex.join(
        ["python", "-m", "train", "evaluate", *options.data.as_options(), model, which]
    )


def _public_name(init_from: str | None) -> str | None:
    """A Hub id unchanged; for a folder, its name without the path."""
    if init_from and (path := Path(init_from)).exists():
        return path.name or path.resolve().name  # "." has no name
    return init_from


def _accelerator() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"


def _commit() -> str | None:
    """The commit of the code that runs, with "-dirty" behind it if files were changed since; None outside a clone."""
    describe = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    here = Path(__file__).parent
    try:
        return subprocess.run(describe, cwd=here, capture_output=True, check=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # no git on this machine, or no clone
        return None


def _write_sheet(trainer: SegmentationTrainer, validation: Dataset, path: Path) -> None:
    """Segment the best, median and worst validation slices at their own size, and draw them."""
    segmenter = TumorSegmenter.from_pretrained(path.parent, device=trainer.args.device, framing="none")
    samples = {}
    for title, indices in pick_examples(trainer.validation_dice, validation["person_id"][:]).items():
        rows = [validation[index] for index in indices]
        found = segmenter.batch([as_file(row["image"]) for row in rows])
        samples[title] = [
            Prediction(row["slice"], row["tumor_type"], image.image, read_bits(as_file(row["mask"])) > 0, image.mask)
            for row, image in zip(rows, found, strict=True)
        ]
    write_predictions(samples, path)
