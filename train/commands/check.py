"""`python -m train check`: look for what would spoil a training."""

from ..data.check import check
from .source import SourceParser


def main(options: list[str]) -> int:
    parser = SourceParser(
        "check",
        "[--persons persons.csv] [--out runs/check]",
        "Say what is in a data set, and what would spoil a training. The exit code is 1 if fit would refuse it.",
    )
    parser.add_argument("--out", help="folder for the report and its pictures")
    return 1 if check(**vars(parser.parse_args(options))) else 0
