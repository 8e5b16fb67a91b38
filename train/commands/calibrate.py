"""`python -m train calibrate`: make the probabilities of a trained model mean what they say."""

from typing import Any

from transformers import HfArgumentParser

from ..scoring.calibration import CalibrateArguments, calibrate


def main(options: list[str]) -> None:
    usage = "python -m train calibrate --data_dir DATA --model RUN --fold K --output_dir CALIBRATED [options]"
    arguments: Any = CalibrateArguments  # the annotation of the parser takes no class
    parser = HfArgumentParser(arguments, prog="python -m train calibrate", usage=usage, allow_abbrev=False)
    calibrate(*parser.parse_args_into_dataclasses(options))
