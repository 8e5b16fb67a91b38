"""`python -m train COMMAND`: one command line from the check of a data set to the report on a trained model."""

import logging
import os
import sys
from importlib import import_module

import transformers


USAGE = """usage: python -m train COMMAND [options]

commands, in the order of use:
  check      look for what would spoil a training: unpaired files, duplicates across persons, …
  prepare    write a clean data set with a card from any source
  plan       write a recipe for a data set and this machine, with its reasons
  fit        train on all folds but one
  cv         train and score every fold, and put the scores together
  ensemble   make one model of several, which learns their average
  evaluate   score a trained model on the persons of a fold
  compare    two models on the same slices: which one is better
  calibrate  make the probabilities of a trained model mean what they say
  report     tables and figures of an evaluation, and a paired comparison of several
  publish    a trained model, a prepared data set or the demo, to the Hugging Face Hub

python -m train COMMAND --help lists the options.
"""

COMMANDS = (
    "check",
    "prepare",
    "plan",
    "fit",
    "cv",
    "ensemble",
    "evaluate",
    "compare",
    "calibrate",
    "report",
    "publish",
)
# Modules whose package has another name on the package index.
PACKAGES = {"PIL": "pillow", "cv2": "opencv-python-headless", "yaml": "pyyaml"}


def main(arguments: list[str]) -> int:
    # With torchrun every process runs this; only one of them prints.
    level = logging.INFO if os.environ.get("RANK", "0") == "0" else logging.ERROR
    logging.basicConfig(level=level, format="%(message)s")
    for client in ("httpx", "httpx2"):  # which of them huggingface_hub has depends on its version
        logging.getLogger(client).setLevel(logging.WARNING)
    transformers.utils.logging.disable_progress_bar()  # bars for files; the Trainer's own stays
    command, options = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if command in ("-h", "--help"):
        print(USAGE)
        return 0
    if command not in COMMANDS:
        print(f"{command} is not a command.\n\n{USAGE}", file=sys.stderr)
        return 2
    try:
        return import_module(f".commands.{command}", __package__).main(options) or 0
    except (ImportError, MemoryError, OSError, ValueError) as error:
        print(f"error: {_explain(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from where it can", file=sys.stderr)
        return 130


def _explain(error: Exception) -> str:
    """The message of an error; for a missing package, the command that installs it."""
    if isinstance(error, ModuleNotFoundError) and error.name and "." not in error.name:
        package = PACKAGES.get(error.name, error.name)
        return f"this needs the package {package}; run: pip install {package}"
    return str(error)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
