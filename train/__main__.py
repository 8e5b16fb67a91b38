"""`python -m train COMMAND`: one command line from the check of a data set to the report on a trained model."""

import logging
import os
import sys
from argparse import ArgumentParser

import transformers
from transformers import HfArgumentParser


USAGE = """usage: python -m train COMMAND [options]

commands, in the order of use:
  check      look for what would spoil a training: unpaired files, duplicates across persons, …
  prepare    write a clean data set with a card from any source
  fit        train on all folds but one
  cv         train and score every fold, and put the scores together
  evaluate   score a trained model on the persons of a fold
  calibrate  make the probabilities of a trained model mean what they say
  report     tables and figures of an evaluation, and a paired comparison of several
  publish    a trained model, a prepared data set or the demo, to the Hugging Face Hub

python -m train COMMAND --help lists the options.
"""

# Modules whose package has another name on the index.
PACKAGES = {"PIL": "pillow", "cv2": "opencv-python-headless", "yaml": "pyyaml"}


def main(arguments: list[str]) -> int:
    # With torchrun every process runs this; one of them talks.
    level = logging.INFO if os.environ.get("RANK", "0") == "0" else logging.ERROR
    logging.basicConfig(level=level, format="%(message)s")
    for client in ("httpx", "httpx2"):  # which of them huggingface_hub has depends on its version
        logging.getLogger(client).setLevel(logging.WARNING)
    transformers.utils.logging.disable_progress_bar()  # one for every file that is read or written; the Trainer's stays
    command, options = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if command in ("-h", "--help"):
        print(USAGE)
        return 0
    if command not in COMMANDS:
        print(f"{command} is not a command.\n\n{USAGE}", file=sys.stderr)
        return 2
    try:
        return COMMANDS[command](options) or 0
    except (ImportError, MemoryError, OSError, ValueError) as error:
        print(f"error: {_explain(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from where it can", file=sys.stderr)
        return 130


def _explain(error: Exception) -> str:
    """What to say of an error: of a package that is not installed, what to type."""
    if isinstance(error, ModuleNotFoundError) and error.name and "." not in error.name:
        package = PACKAGES.get(error.name, error.name)
        return f"this needs the package {package}; run: pip install {package}"
    return str(error)


def _check(options: list[str]) -> int:
    from .data.check import check

    parser = ArgumentParser(prog="python -m train check", allow_abbrev=False)
    _add_source(parser)
    parser.add_argument("--out", help="folder for the report and its pictures")
    return 1 if check(**vars(parser.parse_args(options))) else 0


def _prepare(options: list[str]) -> None:
    from .data.prepare import prepare

    parser = ArgumentParser(prog="python -m train prepare", allow_abbrev=False)
    _add_source(parser)
    parser.add_argument("--out", required=True, help="folder to write; it must not exist or be empty")
    prepare(**vars(parser.parse_args(options)))


def _fit(options: list[str]) -> None:
    from .fitting.options import parse_fit
    from .fitting.trainer import fit

    fit(parse_fit(options))


def _cv(options: list[str]) -> int:
    from .commands.cv import main

    return main(options)


def _evaluate(options: list[str]) -> None:
    from .scoring.evaluation import EvaluateArguments, evaluate

    which = "(--fold K | --split NAME | --all_persons)"
    usage = f"python -m train evaluate --data_dir DATA --model RUN {which} [options]"
    parser = HfArgumentParser(EvaluateArguments, prog="python -m train evaluate", usage=usage, allow_abbrev=False)
    evaluate(*parser.parse_args_into_dataclasses(options))


def _calibrate(options: list[str]) -> None:
    from .scoring.calibration import CalibrateArguments, calibrate

    usage = "python -m train calibrate --data_dir DATA --model RUN --fold K --output_dir CALIBRATED [options]"
    parser = HfArgumentParser(CalibrateArguments, prog="python -m train calibrate", usage=usage, allow_abbrev=False)
    calibrate(*parser.parse_args_into_dataclasses(options))


def _report(options: list[str]) -> None:
    from .scoring.report import report

    parser = ArgumentParser(prog="python -m train report", allow_abbrev=False)
    parser.add_argument(
        "evaluations", nargs="+", help="JSON files that evaluate or cv wrote; the others against the first"
    )
    parser.add_argument("--out", required=True, help="folder for the report and its pictures")
    report(**vars(parser.parse_args(options)))


def _publish(options: list[str]) -> None:
    from .hub.publishing import main

    main(options)


def _add_source(parser: ArgumentParser) -> None:
    parser.add_argument("source", help="folder, zip from figshare, or data set id on the Hub")
    parser.add_argument("--persons", help="CSV file with the columns slice and person_id")
    parser.add_argument("--num_folds", type=int, help="deal the persons out to this many folds")
    parser.add_argument("--mask_threshold", type=float, help="take masks of any grey values: tumour is what lies above")


COMMANDS = {
    "check": _check,
    "prepare": _prepare,
    "fit": _fit,
    "cv": _cv,
    "evaluate": _evaluate,
    "calibrate": _calibrate,
    "report": _report,
    "publish": _publish,
}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
