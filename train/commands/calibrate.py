"""`python -m train calibrate`: make probabilities mean what they say, and measure which pictures the model knows."""

from typing import Any

from transformers import HfArgumentParser

from ..help import PlainHelp
from ..scoring.calibration import CalibrateArguments, calibrate, teach_familiarity


def main(options: list[str]) -> None:
    usage = "python -m train calibrate --data_dir DATA --model RUN --fold K --output_dir CALIBRATED [options]"
    kind: Any = CalibrateArguments  # the annotation of the parser takes no class
    description = "Make the probabilities of a trained model mean what they say, and measure which pictures it knows."
    how: Any = {"usage": usage, "description": description, "formatter_class": PlainHelp, "allow_abbrev": False}
    parser = HfArgumentParser(kind, prog="python -m train calibrate", **how)
    (arguments,) = parser.parse_args_into_dataclasses(options)
    if arguments.only_familiarity:
        teach_familiarity(arguments)
    else:
        calibrate(arguments)
