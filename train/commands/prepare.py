"""`python -m train prepare`: write a clean data set with a card from any source."""

from ..data.prepare import prepare
from .source import SourceParser


def main(options: list[str]) -> None:
    parser = SourceParser("prepare")
    parser.add_argument("--out", required=True, help="folder to write; it must not exist or be empty")
    prepare(**vars(parser.parse_args(options)))
