"""`python -m train report`: tables and figures of evaluations, and what differs between them."""

from argparse import ArgumentParser

from ..scoring.report import report


def main(options: list[str]) -> None:
    parser = ArgumentParser(prog="python -m train report", allow_abbrev=False)
    parser.add_argument(
        "evaluations", nargs="+", help="JSON files that evaluate or cv wrote; the others against the first"
    )
    parser.add_argument("--out", required=True, help="folder for the report and its pictures")
    report(**vars(parser.parse_args(options)))
