"""The options of the commands that read a data set and nothing else."""

from typing import Any

from transformers import HfArgumentParser

from ..data.arguments import ReadingArguments
from ..help import PlainHelp


class SourceParser(HfArgumentParser):
    """Where a data set lies, and how it is read.

    Args:
        command: its name.
        example: what to type behind it, the most usual.
        description: what it does, in a sentence or two.
    """

    def __init__(self, command: str, example: str, description: str):
        arguments: Any = ReadingArguments  # the annotation of the parser takes no class
        usage = f"python -m train {command} DATA {example} [options]"
        how: Any = {"allow_abbrev": False, "formatter_class": PlainHelp, "epilog": "More in docs/train.md."}
        super().__init__(arguments, prog=f"python -m train {command}", usage=usage, description=description, **how)
        self.add_argument(
            "source",
            metavar="DATA",
            help="folder or ZIP of slices or volumes with masks, CSV file that lists them, or id on the Hub",
        )
