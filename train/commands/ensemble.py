"""`python -m train ensemble`: several trainings become one model, a student of their average.

    python -m train ensemble runs/cv --data_dir DATA --output_dir OUT

A student, because an ensemble that segments by itself takes the time of all its members for every slice, and no page,
export or stock pipeline loads it. Whom any of its parents has seen cannot judge it. After a cross-validation these are
all persons: then there is no figure of it, and none is made up.
"""

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from itertools import takewhile
from pathlib import Path

from ..fitting.options import parse_fit
from ..record import EVALUATION_FILE, RECORD_FILE, read_record
from .cv import OPTIONS_FILE
from .fit import fit


USAGE = "python -m train ensemble RUN [RUN …] --data_dir DATA --output_dir OUT [options of python -m train fit]"
DESCRIPTION = """\
Train one model on the masks and, in equal parts, on the average of several trained ones.

RUN is a model folder, or the folder of a cross-validation, which stands for all its folds. The student is
trained by their recipe, unless --recipe names another one. If all of them left out the same fold, it
does too, and evaluate scores it there. Otherwise it is trained on all persons, and has no figures: its
parents together have seen everybody."""
NO_FIGURES = (
    "The parents of {folder} have together seen everybody who is in a fold, so there is nobody left there on whom it "
    "could be scored, and no figures are given. What evaluate and cv say of its parents is of persons whom each of "
    "them had not seen."
)


def main(options: list[str]) -> None:
    parser = ArgumentParser(
        prog="python -m train ensemble",
        usage=USAGE,
        description=DESCRIPTION,
        epilog="Every option goes to python -m train fit, whose --help lists them.",
        allow_abbrev=False,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", nargs="+", metavar="RUN", help="trained models, or the folder of a cross-validation")
    # What follows the runs is told apart by fit alone.
    runs = list(takewhile(lambda word: not word.startswith("-"), options))
    parser.parse_args(runs or options[:1])
    fit_options = options[len(runs) :]
    members = [member for run in runs for member in members_of(run)]
    if len(members) < 2:
        raise ValueError(f"{' '.join(runs)} is one model; an ensemble needs at least two.")
    parsed = parse_fit([*defaults(members, fit_options), *fit_options, "--teachers", *members])
    fit(parsed)
    if parsed.run.all_persons:
        print(NO_FIGURES.format(folder=parsed.trainer.output_dir))
        print(f"Next: python -m train publish model {parsed.trainer.output_dir} --repo_id YOU/NAME")


def members_of(run: str) -> list[str]:
    """The models of the folds, if this is the folder of a cross-validation.

    Raises:
        ValueError: it is not finished.
    """
    folds = sorted(Path(run).glob("fold-*/config.json"), key=lambda path: int(path.parent.name.partition("-")[2]))
    if Path(run, OPTIONS_FILE).is_file() and not Path(run, EVALUATION_FILE).is_file():
        raise ValueError(
            f"{run} is a cross-validation that is not finished ({len(folds)} folds are trained); the same cv command "
            "goes on with the others."
        )
    return [str(path.parent) for path in folds] or [run]


def defaults(members: list[str], options: list[str]) -> list[str]:
    """Recipe and fold, where the options do not say them: those of the members."""
    given = {option.partition("=")[0] for option in options}
    added = []
    if "--recipe" not in given and (record := Path(members[0], RECORD_FILE)).is_file():
        added += ["--recipe", str(record)]
    if not given & {"--fold", "--all_persons"}:
        folds = {read_record(member).get("fold") for member in members}
        (fold,) = folds if len(folds) == 1 else (None,)
        added += ["--all_persons", "true"] if fold is None else ["--fold", str(fold)]
    return added
