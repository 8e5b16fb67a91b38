"""The options by which every command finds slices, and says whose they are and what is tumour in them."""

from dataclasses import dataclass, field, fields
from pathlib import Path

from modeling_unet.image_processing_unet import COLOURS

from .masks import Classes, MaskRule, parse_color
from .raw import Reading


PLANES = ("axial", "coronal", "sagittal")


@dataclass(kw_only=True)
class ReadingArguments:
    """How a data set is read, beside where it lies."""

    persons: str | None = field(
        default=None,
        metadata={
            "help": "CSV file that says whose slices are whose: a column of slices or volumes, by name or file name, "
            "and one of persons."
        },
    )
    person_column: str | None = field(
        default=None,
        metadata={"help": "Name of the column of persons, in --persons or in the data set's own table; person_id."},
    )
    num_folds: int | None = field(
        default=None,
        metadata={"help": "Divide the persons into this many folds; by default the public data set's five, or five."},
    )
    planes: list[str] | None = field(
        default=None,
        metadata={"help": "Planes into which volumes are cut; by default as they were taken.", "choices": PLANES},
    )
    sequence: str | None = field(
        default=None,
        metadata={
            "help": "Which sequence is read: by name in BraTS, BIDS and nnU-Net, there by default T1 with contrast; or "
            "by number, from 1, where a file holds several volumes."
        },
    )
    image_channel: str | None = field(
        default=None,
        metadata={"help": "Channel of coloured images that is read, where each is a sequence.", "choices": COLOURS},
    )
    sequences: list[str] | None = field(
        default=None,
        metadata={
            "help": "Read several sequences as the channels of a slice, in this order, e.g. t1ce t1 t2 flair; red "
            "green blue are the channels of coloured images."
        },
    )
    missing_mask: str = field(
        default="refuse",
        metadata={"help": "What an image without mask is: a fault, or without tumour.", "choices": ["refuse", "empty"]},
    )
    negative_share: float | None = field(
        default=None,
        metadata={"help": "Of all slices, take about this share without tumour, e.g. 0.3; by default all there are."},
    )
    mask_threshold: float | None = field(
        default=None, metadata={"help": "Take masks of any grey values: tumour is what lies above, e.g. 127."}
    )
    tumor_labels: list[int] | None = field(
        default=None, metadata={"help": "Take masks of several labels: tumour is what has one of these, e.g. 1 4."}
    )
    mask_color: list[str] | None = field(
        default=None, metadata={"help": "Take coloured masks: tumour is what is red, or '#ff8000', or one of several."}
    )

    classes: list[str] | None = field(
        default=None,
        metadata={
            "help": "Tell several kinds or regions of tumour apart, each by its values in the masks, e.g. whole=1,2,4 "
            "core=1,4 rim=4; the larger ones first."
        },
    )

    dataset_num_proc: int | None = field(
        default=None, metadata={"help": "Processes that prepare slices for the network; by default this one alone."}
    )

    def __post_init__(self):
        if self.dataset_num_proc is not None and self.dataset_num_proc < 1:
            raise ValueError(f"--dataset_num_proc is {self.dataset_num_proc}; it must be at least 1.")
        rules = ("mask_threshold", "tumor_labels", "mask_color", "classes")
        given = [name for name in rules if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"--{' and --'.join(given)} say different things about masks; give one of them.")
        if self.negative_share is not None and not 0 <= self.negative_share < 1:
            raise ValueError(f"--negative_share is {self.negative_share}; it must be from 0 to below 1.")
        # Not every caller is a command line.
        for name, allowed in (("planes", PLANES), ("image_channel", COLOURS), ("missing_mask", ("refuse", "empty"))):
            value = getattr(self, name)
            for word in value if isinstance(value, (list, tuple)) else [value] if value else []:
                if word not in allowed:
                    raise ValueError(f"--{name} is {word}; allowed are {', '.join(allowed)}.")
        self._check_sequences()
        self.mask_rule()

    def _check_sequences(self):
        names, one = self.sequences, self.sequence or self.image_channel
        if names is None:
            return
        if one is not None:
            raise ValueError(f"--sequences names {' '.join(names)}, and another option {one}; give one of them.")
        if len(names) < 2 or len({name.lower() for name in names}) < len(names):
            raise ValueError(
                f"--sequences is {' '.join(names)}; it takes two or more different ones, and --sequence takes one."
            )

    def reading(self) -> Reading:
        """What the source is told; a column of persons is that of `persons`, where it is given."""
        column = None if self.persons else self.person_column
        sequences = () if self.has_colours else tuple(self.sequences or ())
        return Reading(tuple(self.planes or ()), self.sequence, sequences, column, self.missing_mask)

    @property
    def has_colours(self) -> bool:
        """Whether the channels are those of coloured pictures, which no layout has to tell apart."""
        return bool(self.sequences) and {*self.sequences} <= {*COLOURS}

    def mask_rule(self) -> MaskRule:
        colors = tuple(map(parse_color, self.mask_color or ()))
        return MaskRule(self.mask_threshold, tuple(self.tumor_labels or ()), colors, self.tumor_classes())

    def tumor_classes(self) -> Classes | None:
        """The classes to tell apart; None where there is one."""
        return Classes.parse(self.classes) if self.classes else None

    def persons_file(self) -> Path | None:
        return Path(self.persons) if self.persons else None


@dataclass
class DataArguments(ReadingArguments):
    """Which slices, whose, and in which folds: what every command asks for."""

    data_dir: str = field(
        metadata={
            "help": "Folder of slices or volumes with masks, in any of the layouts of docs/train.md; a CSV file that "
            "lists them; the zips from figshare; or a data set id on the Hub."
        }
    )
    official_folds: bool = field(
        default=False, metadata={"help": "Folds 1 to 5 of the public data set's author (by patient id)."}
    )

    def as_options(self) -> list[str]:
        """What to type for these arguments, those that are as by default left out."""
        options = [f"--data_dir={self.data_dir}"]
        for own in fields(DataArguments):
            value = getattr(self, own.name)
            if own.name != "data_dir" and value != own.default:
                options += [f"--{own.name}", *map(str, value)] if isinstance(value, list) else [f"--{own.name}={value}"]
        return options
