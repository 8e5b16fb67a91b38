"""The options of the commands that read a data set and nothing else."""

from argparse import ArgumentParser


class SourceParser(ArgumentParser):
    """Options by which a data set is found: `source`, whose slices are whose, and what its masks mean."""

    def __init__(self, command: str):
        super().__init__(prog=f"python -m train {command}", allow_abbrev=False)
        self.add_argument("source", help="folder, zip from figshare, or data set id on the Hub")
        self.add_argument("--persons", help="CSV file with the columns slice and person_id")
        self.add_argument("--num_folds", type=int, help="divide the persons into this many folds")
        self.add_argument(
            "--mask_threshold", type=float, help="take masks of any grey values: tumour is what lies above"
        )
