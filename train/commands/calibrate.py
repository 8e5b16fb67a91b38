"""`python -m train calibrate`: make probabilities mean what they say, and measure which pictures the model knows."""

from typing import Any

from transformers import HfArgumentParser

from ..scoring.calibration import CalibrateArguments, calibrate, teach_familiarity


def main(options: list[str]) -> None:
    usage = "python -m train calibrate --data_dir DATA --model RUN --fold K --output_dir CALIBRATED [options]"
    kind: Any = CalibrateArguments  # the annotation of the parser takes no class
    parser = HfArgumentParser(kind, prog="python -m train calibrate", usage=usage, allow_abbrev=False)
    (arguments,) = parser.parse_args_into_dataclasses(options)
    if arguments.only_familiarity:
        teach_familiarity(arguments)
    else:
        calibrate(arguments)
