"""Command line of the package: `python -m modeling_unet predict PATH… --out DIR`, `… export OUT.onnx` and
`… export --web DIR`.

Where the package is installed, `brain-tumor-unet predict …` does the same.
"""

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from transformers.utils import logging

from .channels import join_channels
from .export import DEFAULT_DTYPE, DTYPES, describe, to_onnx
from .files import write_atomically
from .framing import FRAMINGS
from .image_processing_unet import printable
from .journal import Journal, Source
from .overlay import DEFAULT_ALPHA, DEFAULT_COLOR, STYLES, parse_color
from .prediction import (
    DEFAULT_BATCH_SIZE,
    Options,
    Shard,
    one_line,
    predict,
    segment_files,
)
from .provenance import find_shipped_model, identify_model, origin
from .segmentation import DEFAULT_THRESHOLD, check_class_color
from .segmenter import QUALITIES, TumorSegmenter
from .sources import find_sources, refuse_overwriting
from .volumes.dicom import check_highdicom
from .web import TARBALL, write_page


SCRIPT = "brain-tumor-unet"  # as in pyproject.toml

EXAMPLES = """\
examples:
  %(prog)s slice.png --out results
  %(prog)s patients/ --out results --style contour --alpha 1
  %(prog)s patients/ --out results --spacing 0.49 0.49
  %(prog)s scan.nii.gz studies/ --out results --probability
  torchrun --nproc_per_node 4 -m modeling_unet predict archive/ --out results

written below DIR, in the sub-folders of the input:
  NAME_mask.png     0 and 255, in the slice's own size; of a volume NAME_mask.nii.gz, which lies where the scan does
  NAME_mask_1.png   … and so on, of models of several classes: the mask of each, in the order of the model's labels
  NAME_labels.png   likewise: 0, or the number of the pixel's class, in colour; of a volume NAME_labels.nii.gz
  NAME_overlay.png  the slice with the tumour in colour; of a volume the slices that show most of it
  summary.csv       one line per slice or volume: measurements, seconds for reading and network, warnings, error
  lesions.csv       one line per lesion of a volume: mL, diameters, where it lies
  journal.jsonl     what is done: the same command, started again, does the rest

A model of several channels, such as t1ce and flair, takes a file of each: CASE_t1ce.nii.gz and CASE_flair.nii.gz, a
folder with t1ce.png and flair.png, CASE_0000.nii.gz with nnU-Net's dataset.json, BIDS; or one file of all: a .npy
[C, H, W], a NIfTI of so many volumes. If files call them otherwise, --channels says how, in the order of the model.
With a model of one channel, --channels t1ce takes the files of that name alone.

Results are done again when the weights, an option above or a file changed; without journal.jsonl, all are.
A shard writes summary-I-of-N.csv. Once all shards are done, the same command without --shard keeps their results and
writes the one summary.csv.

exit code: 0 all done (with torchrun: or tried), 1 some failed (they are listed) or the disk is full,
2 nothing was started, 130 interrupted

Research only; not a medical device and not for diagnosis.
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code.

    It is 0, 1 if a slice failed or the table cannot be written, 2 if nothing could be started, 130 after Ctrl-C.
    """
    args = build_parser().parse_args(argv)
    logging.disable_progress_bar()
    try:
        return run(args)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from where it can", file=sys.stderr)
        return 130


def run(args: argparse.Namespace) -> int:
    """Run a command and return its exit code; see `main`."""
    try:
        args.model = args.model or find_shipped_model("with --model")
        if args.command == "export":
            return export(args)
        segment, journal = prepare(args)
    except (ImportError, OSError, ValueError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    try:
        code = predict(segment, journal)
    except OSError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        code = 1
    # torchrun would stop the other processes; the run that joins the shards tries again, and says what failed.
    return 0 if "TORCHELASTIC_RUN_ID" in os.environ else code


class Parser(argparse.ArgumentParser):
    """Its messages repeat arguments, and a shell puts any names of files among them."""

    def error(self, message: str):
        super().error(printable(message))


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog=SCRIPT if Path(sys.argv[0]).stem == SCRIPT else "python -m modeling_unet",
        description="Brain tumours in MRI slices, found by a U-Net.",
        epilog="More about a command: %(prog)s COMMAND --help",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_predict(commands)
    _add_export(commands)
    return parser


def _add_predict(commands):
    command = commands.add_parser(
        "predict",
        help="segment slices and volumes: masks, overlays, measurements",
        description="Segment MRI slices and volumes: a mask and an overlay for each, and tables of measurements.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = command.add_argument
    add("paths", nargs="+", type=Path, metavar="PATH", help="slices, volumes (NIfTI, DICOM, ZIP), or folders of them")
    add("--out", required=True, type=Path, metavar="DIR", help="folder for the results")
    _add_model(command)
    add("--quality", choices=QUALITIES, default="fast", help="best: mirrored and in three sizes too, ten times slower")
    add(
        "--framing", choices=FRAMINGS, default="auto", help="none: don't cut heads out of larger pictures (%(default)s)"
    )
    add("--threshold", type=float, default=DEFAULT_THRESHOLD, help="tumour is above this probability (%(default)s)")
    add("--style", choices=STYLES, default="fill", help="style of the overlay (%(default)s)")
    add("--color", default=DEFAULT_COLOR.strip("#"), metavar="RRGGBB", help="colour of fill and contour (%(default)s)")
    add("--alpha", type=float, default=DEFAULT_ALPHA, help="opacity of the colour, 0 to 1 (%(default)s)")
    add("--spacing", type=float, nargs=2, metavar=("ROW", "COLUMN"), help="pixel size of slices, for results in mm")
    add("--probability", action="store_true", help="write the probabilities too: 16-bit PNG, or NIfTI of a volume")
    add("--dicom_seg", action="store_true", help='masks of DICOM volumes as DICOM-SEG too; needs "highdicom"')
    add("--series", type=int, metavar="N", help="which stack of slices of a volume, by the number that a warning names")
    add("--channels", nargs="+", metavar="NAME", help="what names of files call the channels of the model, as t1ce")
    many = command.add_argument_group("many slices").add_argument
    many("--batch_size", type=int, default=DEFAULT_BATCH_SIZE, metavar="N", help="slices at a time (%(default)s)")
    many("--shard", metavar="I/N", help="only the I-th of N parts; by default what torchrun says, or everything")
    many("--ray", action="store_true", help='on a Ray cluster (RAY_ADDRESS) or all of this machine; needs "ray"')


def _add_export(commands):
    command = commands.add_parser(
        "export",
        help="write the network as an ONNX file, or a page that runs it in the browser",
        description="Write the network as an ONNX file, for programs without PyTorch (docs/onnx.md), or as a folder "
        "with a page that runs it in the browser (docs/static.md).",
    )
    target = command.add_mutually_exclusive_group(required=True)
    target.add_argument("out", nargs="?", type=Path, metavar="OUT.onnx", help="the file to write")
    target.add_argument("--web", type=Path, metavar="DIR", help="the folder to write; python -m http.server shows it")
    _add_model(command)
    command.add_argument("--dtype", choices=DTYPES, default=DEFAULT_DTYPE, help="of the weights in OUT (%(default)s)")
    command.add_argument("--runtime", type=Path, metavar="PATH", help=f"for --web: {TARBALL}, instead of asking npm")


def _add_model(command: argparse.ArgumentParser):
    default = "default: the one that comes with the project"
    command.add_argument("--model", metavar="DIR_OR_ID", help=f"model folder or Hub id ({default})")
    command.add_argument("--revision", metavar="REV", help="branch, tag or commit of a model on the Hub")


def export(args: argparse.Namespace) -> int:
    """Write the network as `args.out`, or the page around it as `args.web`, and return 0."""
    if args.out and args.out.is_dir():
        raise ValueError(f"{args.out} is a folder; name the file to write, such as {args.out / 'model.onnx'}.")
    if args.web and args.web.exists() and not args.web.is_dir():
        raise ValueError(f"--web {args.web} is a file; allowed is a folder, which may be missing.")
    segmenter = TumorSegmenter.from_pretrained(args.model, "cpu", args.revision, optimize="none")
    if args.web:
        size = write_page(args.web, segmenter, *origin(args.model, args.revision), args.runtime)
        print(f"{printable(str(args.web))}: {size / 1e6:.1f} MB; python -m http.server -d shows it")
        return 0
    metadata = describe(segmenter.model, segmenter.image_processor, *origin(args.model, args.revision))
    content = to_onnx(segmenter.model, metadata, args.dtype)
    write_atomically(args.out, content)
    print(f"{printable(str(args.out))}: {len(content) / 1e6:.1f} MB, {args.dtype}")
    return 0


def prepare(args: argparse.Namespace) -> tuple[Callable, Journal]:
    """The two arguments of `predict`; wrong options raise an error before anything is written."""
    if args.dicom_seg:
        check_highdicom()
    color = parse_color(args.color)
    options = Options(
        args.threshold,
        args.spacing,
        args.style,
        color,
        args.alpha,
        probability=args.probability,
        series=args.series,
        dicom_seg=args.dicom_seg,
    )
    if args.batch_size < 1:
        raise ValueError(f"batch_size is {args.batch_size}; allowed are whole numbers from 1.")
    shard = Shard.parse(args.shard) if args.shard else Shard.from_environment()
    if args.out.exists() and not args.out.is_dir():
        raise ValueError(f"--out {args.out} is a file; allowed is a folder, which may be missing.")
    sources = find_sources(args.paths, args.out)
    segment, segmenter = _segment_on_ray(args) if args.ray else _segment_here(args)
    check_class_color(options.color, segmenter.class_names)
    sources = shard.take(_of_channels(args, sources, segmenter.channel_names), args.batch_size)
    maker = {
        "model": identify_model(args.model, args.revision),
        "quality": args.quality,
        "framing": args.framing,
        **asdict(options),
    }
    args.out.mkdir(parents=True, exist_ok=True)
    segment = partial(segment, out=args.out, options=options, batch_size=args.batch_size)
    return segment, Journal(args.out, sources, maker, shard.suffix)


def _segment_here(args: argparse.Namespace) -> tuple[Callable, TumorSegmenter]:
    """What segments, and the model that it takes."""
    segmenter = TumorSegmenter.from_pretrained(
        args.model, own_device(), args.revision, quality=args.quality, framing=args.framing
    )
    return partial(segment_files, segmenter=segmenter), segmenter


def _segment_on_ray(args: argparse.Namespace) -> tuple[Callable, TumorSegmenter]:
    from .on_ray import check_ray, segment_files_on_ray  # here, because importing Ray takes seconds

    check_ray()
    # A bad model is refused before anything starts.
    segmenter = TumorSegmenter.from_pretrained(args.model, "cpu", args.revision)
    how = {"quality": args.quality, "framing": args.framing}
    return partial(segment_files_on_ray, model=args.model, revision=args.revision, **how), segmenter


def _of_channels(args: argparse.Namespace, sources: dict[str, Source], names: tuple[str, ...]) -> dict[str, Source]:
    """The sources of a model with these channels; none if it takes grey slices, of which --channels may name one."""
    if not (names or args.channels):
        return sources
    if names and args.series is not None:
        raise ValueError(f"--series is {args.series}, and the model takes {len(names)} channels; leave it out.")
    joined, left_out = join_channels(sources, names or ("grey values",), args.channels or ())
    refuse_overwriting(joined, args.out, sources.values())
    if left_out:
        files = "1 file is" if len(left_out) == 1 else f"{len(left_out):,} files are"
        named = ", ".join(args.channels or names)
        print(printable(f"{files} left out, being no channel ({named}), such as {left_out[0]}"), file=sys.stderr)
    return joined


def own_device() -> str:
    """One GPU for each process that torchrun started, if this machine has GPUs; otherwise "auto"."""
    gpus = torch.cuda.device_count()
    return f"cuda:{int(os.environ['LOCAL_RANK']) % gpus}" if gpus and "LOCAL_RANK" in os.environ else "auto"


if __name__ == "__main__":
    sys.exit(main())
