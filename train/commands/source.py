"""The options of the commands that read a data set and nothing else."""

from typing import Any

from transformers import HfArgumentParser

from ..data.arguments import ReadingArguments


class SourceParser(HfArgumentParser):
    """Where a data set lies, and how it is read."""

    def __init__(self, command: str):
        arguments: Any = ReadingArguments  # the annotation of the parser takes no class
        super().__init__(arguments, prog=f"python -m train {command}", allow_abbrev=False)
        self.add_argument("source", help="folder, CSV file that lists the files, zip from figshare, or id on the Hub")
