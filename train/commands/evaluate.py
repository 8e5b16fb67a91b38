"""`python -m train evaluate`: score a trained model on people whom it has never seen."""

from typing import Any

from transformers import HfArgumentParser

from ..help import PlainHelp
from ..scoring.evaluation import EvaluateArguments, evaluate


def main(options: list[str]) -> None:
    which = "[--fold K … | --split NAME | --all_persons]"
    usage = f"python -m train evaluate --data_dir DATA --model RUN … {which} [options]"
    arguments: Any = EvaluateArguments  # the annotation of the parser takes no class
    description = "Score a trained model on people whom it has never seen, slice by slice at their own size."
    how: Any = {"usage": usage, "description": description, "formatter_class": PlainHelp, "allow_abbrev": False}
    parser = HfArgumentParser(arguments, prog="python -m train evaluate", **how)
    evaluate(*parser.parse_args_into_dataclasses(options))
