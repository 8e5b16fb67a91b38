"""`python -m train check`: look for what would spoil a training."""

from ..data.check import check
from .source import SourceParser


def main(options: list[str]) -> int:
    parser = SourceParser("check")
    parser.add_argument("--out", help="folder for the report and its pictures")
    return 1 if check(**vars(parser.parse_args(options))) else 0
