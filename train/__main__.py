"""`python -m train COMMAND`: one command line for training and evaluation."""

import logging
import sys

from transformers import HfArgumentParser


USAGE = """usage: python -m train COMMAND [options]

commands:
  fit        train on a folder of slices and masks
  evaluate   score a trained model on the persons of a fold

python -m train COMMAND --help lists the options.
"""


def main(arguments: list[str]) -> int:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    command, options = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if command in ("-h", "--help"):
        print(USAGE)
        return 0
    if command not in COMMANDS:
        print(f"{command} is not a command.\n\n{USAGE}", file=sys.stderr)
        return 2
    try:
        COMMANDS[command](options)
    except (ImportError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _fit(options: list[str]) -> None:
    from .trainer import FitArguments, SliceArguments, fit

    usage = "python -m train fit --data_dir DATA --output_dir RUN --fold K [options]"
    parser = HfArgumentParser((SliceArguments, FitArguments), prog="python -m train fit", usage=usage)
    fit(*parser.parse_args_into_dataclasses(options))


def _evaluate(options: list[str]) -> None:
    from .evaluate import EvaluateArguments, evaluate

    usage = "python -m train evaluate --data_dir DATA --model RUN --fold K [options]"
    parser = HfArgumentParser(EvaluateArguments, prog="python -m train evaluate", usage=usage)
    evaluate(*parser.parse_args_into_dataclasses(options))


COMMANDS = {"fit": _fit, "evaluate": _evaluate}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
