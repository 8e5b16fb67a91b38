"""`python -m train cv`: cross-validation; every slice is scored by a network that was trained without its person.

    python -m train cv --data_dir DATA --output_dir OUT --recipe fast-cpu

For every fold k, one process trains (`fit … --output_dir OUT/fold-k`) and one scores (`evaluate … --output
OUT/fold-k/evaluation.json`), on a GPU of their own where there are several. Their scores come together in
`OUT/evaluation.json`. Started again, it keeps the folds that are scored and goes on with the others.
"""

import asyncio
import contextlib
import logging
import os
import shlex
import signal
import sys
from argparse import SUPPRESS, ArgumentParser
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from ..data.folds import available_folds, split_fold
from ..data.raw import DataError
from ..data.slices import content_hash, load_slices
from ..files import read_json, write_json
from ..fitting.options import as_options, parse_fit
from ..record import BRAINS, CANVASES, EVALUATION_FILE, RECORD_FILE, read_evaluation, write_evaluation
from ..scoring.evaluation import put_together
from ..scoring.tables import format_table, headline


logger = logging.getLogger(__name__)

OPTIONS_FILE = "cv.json"
USAGE = "python -m train cv --data_dir DATA --output_dir OUT [--gpus 0,1] [options of python -m train fit]"


def main(options: list[str]) -> int:
    parser = ArgumentParser(
        prog="python -m train cv",
        usage=USAGE,
        description="Every other option goes to python -m train fit, whose --help lists them.",
        allow_abbrev=False,
    )
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for all folds and the scores of all")
    parser.add_argument("--gpus", help="as in 0,1: one fold on each at a time; by default all that are visible")
    parser.add_argument("--fold", help=SUPPRESS)
    own, fit_options = parser.parse_known_args(options)
    if own.fold is not None:
        raise ValueError("--fold is not an option of cv, which trains every fold; for one of them take fit.")
    gpus = own.gpus.split(",") if own.gpus else visible_gpus()
    if own.gpus and not torch.cuda.is_available():
        raise ValueError(f"--gpus is {own.gpus}, and CUDA finds no GPU here; leave it out to train on the CPU.")
    try:
        report = cross_validate(fit_options, own.output_dir, gpus)
    except asyncio.CancelledError:
        return 128 + signal.SIGTERM
    print(f"\n{format_table(report)}\n\n{next_steps(fit_options, own.output_dir, report['fold'])}")
    return 0


def next_steps(options: list[str], output_dir: Path, folds: list[int]) -> str:
    """What to type after a cross-validation, on the way to weights that are shared."""
    data = parse_fit([*options, "--fold", "0", "--output_dir", str(output_dir)]).data.as_options()
    models = ["--model", *(str(output_dir / f"fold-{fold}") for fold in folds), "--fold", *map(str, folds)]
    calibrated, final = str(output_dir / "calibrated"), str(output_dir / "final")
    what = "Next: calibrate the folds together, train on all persons, and publish those weights:"
    steps = [
        ["calibrate", *data, *models, "--output_dir", calibrated],
        ["fit", *options, "--all_persons", "true", "--calibration", calibrated, "--output_dir", final],
        ["publish", "model", final, "--repo_id", "YOU/NAME"],
    ]
    lines = [f"  python -m train {shlex.join(step)}" for step in steps]
    if {"--classes", "--sequences"} & {*data}:  # --teachers are for one class, and for one channel
        return "\n".join([what, *lines])
    ensemble = shlex.join(["ensemble", str(output_dir), *options, "--output_dir", str(output_dir / "ensemble")])
    what_else = "Or make one model of the folds, of which no figures are left, as together they have seen everybody:"
    return "\n".join([what, *lines, what_else, f"  python -m train {ensemble}"])


def visible_gpus() -> list[str]:
    """The CUDA devices that this process may use, by the names that `CUDA_VISIBLE_DEVICES` knows them by."""
    count = torch.cuda.device_count()
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    return listed.split(",")[:count] if listed else [str(index) for index in range(count)]


# ---------------------------------------------------------------------------------------------------------------- folds


@dataclass(frozen=True)
class FoldRun:
    """One fold: where it lies, the two commands that make it, and the slices that it scores."""

    fold: int
    folder: Path
    fit: list[str]
    evaluate: list[str]
    training_sha256: str
    scored_sha256: str

    @property
    def log(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def finished(self) -> bool:
        return (self.folder / EVALUATION_FILE).is_file()

    def evaluation(self) -> dict:
        """What `evaluate` wrote.

        Raises:
            DataError: images, masks or folds have changed since.
        """
        evaluation = read_evaluation(self.folder / EVALUATION_FILE)
        found = self.record().get("training_slices_sha256"), evaluation.get("slices_sha256")
        if found != (self.training_sha256, self.scored_sha256):
            raise DataError(
                f"{self.folder} was trained or scored on other slices than fold {self.fold} has now; name another "
                "--output_dir, or delete it to train the fold anew."
            )
        return evaluation

    def record(self) -> dict:
        """What `fit` wrote of the training."""
        return read_json(self.folder / RECORD_FILE)


def cross_validate(options: list[str], output_dir: Path, gpus: list[str]) -> dict:
    """Train and score every fold that is not scored yet, and put the scores together.

    Args:
        options: of `python -m train fit`, without `--fold` and `--output_dir`.
        output_dir: gets `fold-0`, `fold-1`, … and `evaluation.json`.
        gpus: as in `CUDA_VISIBLE_DEVICES`; as many folds run at once. With none they run one after another.

    Returns:
        The report of `evaluate` over the slices of all folds, with `fold` a list, and `by_fold` and `over_folds`, the
        figures of the folds, and their mean and standard deviation.

    Raises:
        ValueError: an option is wrong, the data cannot be trained on, or `output_dir` holds something else.
        ChildProcessError: folds failed; the others are trained and scored.
    """
    runs = _plan(options, output_dir)
    _remember(options, output_dir / OPTIONS_FILE)
    finished = [fold_run for fold_run in runs if fold_run.finished]
    for fold_run in finished:
        fold_run.evaluation()
        logger.info("Fold %d is scored already and kept.", fold_run.fold)
    _check_alike(finished)
    waiting = [fold_run for fold_run in runs if not fold_run.finished]
    failed = asyncio.run(_run_all(waiting, [*gpus] or [None]))
    if failed:
        raise ChildProcessError(
            f"{len(failed)} of {len(runs)} folds failed ({', '.join(map(str, failed))}); the same command tries "
            "them again."
        )
    _check_alike(runs)
    report = put_together([fold_run.evaluation() for fold_run in runs], str(output_dir))
    write_evaluation(output_dir / EVALUATION_FILE, report)
    return report


def _plan(options: list[str], output_dir: Path) -> list[FoldRun]:
    """The runs of all folds; whatever is wrong with the options or the data is found here, before any training."""
    parsed = parse_fit([*options, "--fold", "0", "--output_dir", str(output_dir)])
    if parsed.trainer.push_to_hub:
        raise ValueError(
            "--push_to_hub would send every fold to one repository; publish the fold that you mean instead."
        )
    slices = load_slices(parsed.data)
    if len(available_folds(slices)) < 2:
        raise DataError(
            "The data set says itself which slices validate, so there is one fold and nothing to cross: train it with "
            "fit --fold 0, or give --num_folds to deal the slices of both splits out."
        )
    data_options = as_options(asdict(parsed.data))
    runs = []
    for fold in available_folds(slices):
        training, scored = split_fold(slices, fold)
        folder, which = output_dir / f"fold-{fold}", ["--fold", str(fold)]
        fit = ["fit", *options, *which, "--output_dir", str(folder)]
        score = ["evaluate", *data_options, *which, "--model", str(folder), "--output", str(folder / EVALUATION_FILE)]
        runs.append(FoldRun(fold, folder, fit, score, content_hash(training), content_hash(scored)))
    return runs


def _remember(options: list[str], path: Path) -> None:
    """Store the options; raise an error if folds in the folder were trained with other ones."""
    if path.is_file() and (before := read_json(path).get("options", [])) != options:
        raise ValueError(
            f"{path.parent} holds a cross-validation with other options ({' '.join(before)}); name another "
            f"--output_dir, or delete {path.name} there if the difference does not matter."
        )
    write_json(path, {"options": options})


def _check_alike(runs: list[FoldRun]) -> None:
    """Raise an error if recipe, first weights, canvases or masks of the brain differ between the folds."""
    for fold_run in runs[1:]:
        first, other = runs[0].record(), fold_run.record()
        if any(first.get(name) != other.get(name) for name in ("recipe", "started_from", CANVASES, BRAINS)):
            raise DataError(
                f"{fold_run.folder} was trained by another recipe, from other weights, on other canvases or with "
                f"other masks of the brain than {runs[0].folder}; delete one of them to train that fold anew."
            )


async def _run_all(runs: list[FoldRun], slots: list[str | None]) -> list[int]:
    """Run the folds, one per slot at a time; returns the folds that failed."""
    free: asyncio.Queue[str | None] = asyncio.Queue()
    for slot in slots:
        free.put_nowait(slot)

    async def run_when_free(fold_run: FoldRun) -> bool:
        gpu = await free.get()
        done = await _run_fold(fold_run, gpu, fold_run.log if len(slots) > 1 else None)
        free.put_nowait(gpu)
        return done

    # Stop the folds with this process: a second start would train in the same folders.
    with contextlib.suppress(NotImplementedError):  # on Windows, which has no such signal
        cancel = asyncio.current_task().cancel  # type: ignore[union-attr]  # inside of a coroutine there is one
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, cancel)
    async with asyncio.TaskGroup() as group:
        tasks = {fold_run.fold: group.create_task(run_when_free(fold_run)) for fold_run in runs}
    return [fold for fold, task in tasks.items() if not task.result()]


async def _run_fold(fold_run: FoldRun, gpu: str | None, log: Path | None) -> bool:
    place = "" if gpu is None else f" on GPU {gpu}"
    logger.info("Fold %d: training%s%s.", fold_run.fold, place, f", messages in {log}" if log else "")
    try:
        for command in (fold_run.fit, fold_run.evaluate):
            if code := await run_command(command, gpu, log):
                raise ChildProcessError(f"{command[0]} ended with exit code {code}.")
        figures = headline(fold_run.evaluation())
    except (OSError, ValueError) as error:
        logger.error("Fold %d failed: %s.", fold_run.fold, str(error).rstrip("."))
        return False
    logger.info("Fold %d: slice_dice %.4f.", fold_run.fold, figures["slice_dice"])
    return True


async def run_command(command: list[str], gpu: str | None, log: Path | None) -> int:
    """Run `python -m train COMMAND…` to its end, or stop it when this task is cancelled.

    Args:
        command: the command and its options.
        gpu: the only GPU that it sees, as in `CUDA_VISIBLE_DEVICES`; None leaves the variable unchanged.
        log: file that its messages are added to; None leaves them on the terminal.

    Returns:
        The exit code, negative if a signal ended it.
    """
    environment = {**os.environ, **({} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu})}
    with contextlib.nullcontext() if log is None else log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "train", *command), env=environment, stdout=output, stderr=output
        )
        try:
            return await process.wait()
        finally:
            if process.returncode is None:
                process.terminate()
                await process.wait()
