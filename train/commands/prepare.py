"""`python -m train prepare`: write a clean data set with a card from any source."""

from ..data.prepare import prepare
from .source import SourceParser


def main(options: list[str]) -> None:
    parser = SourceParser(
        "prepare",
        "[--persons persons.csv] --out slices",
        "Write a clean copy of a data set with a card: PNG files and metadata.jsonl. Nothing of the files but their "
        "pixels is kept. The copy needs none of the options below when it is read.",
    )
    parser.add_argument("--out", required=True, help="folder to write; it must not exist or be empty")
    prepare(**vars(parser.parse_args(options)))
