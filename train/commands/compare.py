"""`python -m train compare`: which of two models is better, on the same slices."""

from typing import Any

from transformers import HfArgumentParser

from ..help import PlainHelp
from ..scoring.paired import CompareArguments, compare_models


def main(options: list[str]) -> None:
    usage = "python -m train compare A B --data_dir DATA [--fold K | --split NAME] [options]"
    arguments: Any = CompareArguments  # the annotation of the parser takes no class
    description = "Say which of two models is better on the same slices: the difference, with intervals over persons."
    how: Any = {"usage": usage, "description": description, "formatter_class": PlainHelp, "allow_abbrev": False}
    parser = HfArgumentParser(arguments, prog="python -m train compare", **how)
    parser.add_argument("first", metavar="A", help="model folder or Hub id")
    parser.add_argument("second", metavar="B", help="the model that is compared with it")
    compared, models = parser.parse_args_into_dataclasses(options)
    compare_models(models.first, models.second, compared)
