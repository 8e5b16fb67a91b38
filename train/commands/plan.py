"""`python -m train plan`: a recipe for a data set and this machine, with its reasons."""

from pathlib import Path

from ..data.arguments import DataArguments
from ..fitting.plan import plan
from .source import SourceParser


def main(options: list[str]) -> None:
    parser = SourceParser(
        "plan",
        "[--persons persons.csv] [--out recipe.yaml]",
        "Look at a data set and this machine, and write a recipe for fit and cv, with the reason for every number.",
    )
    parser.add_argument("--out", type=Path, default=Path("recipe.yaml"), help="YAML file to write (%(default)s)")
    parser.add_argument(
        "--steps", type=int, default=3, help="of training, to measure how long it takes (%(default)s); 0 for none"
    )
    given = vars(parser.parse_args(options))
    out, steps = given.pop("out"), given.pop("steps")
    plan(DataArguments(given.pop("source"), **given), out, steps)
