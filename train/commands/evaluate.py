"""`python -m train evaluate`: score a trained model on people whom it has never seen."""

from typing import Any

from transformers import HfArgumentParser

from ..scoring.evaluation import EvaluateArguments, evaluate


def main(options: list[str]) -> None:
    which = "[--fold K | --split NAME | --all_persons]"
    usage = f"python -m train evaluate --data_dir DATA --model RUN {which} [options]"
    arguments: Any = EvaluateArguments  # the annotation of the parser takes no class
    parser = HfArgumentParser(arguments, prog="python -m train evaluate", usage=usage, allow_abbrev=False)
    evaluate(*parser.parse_args_into_dataclasses(options))
