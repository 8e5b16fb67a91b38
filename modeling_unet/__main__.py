"""Command line of the package: `python -m modeling_unet predict PATH… --out DIR` and `… export OUT.onnx`."""

import argparse
import csv
import io
import os
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm
from transformers.utils import logging

from .export import DEFAULT_DTYPE, DTYPES, describe, origin, to_onnx
from .image_processing_unet import IMAGE_SUFFIXES
from .overlay import DEFAULT_ALPHA, DEFAULT_COLOR, STYLES, check_alpha, parse_color
from .segmenter import DEFAULT_THRESHOLD, Segmentation, TumorSegmenter, check_spacing, check_threshold


SHIPPED_MODEL = Path(__file__).resolve().parents[1] / "weights" / "brain-tumor-unet"
SUMMARY_NAME = "summary.csv"
SUMMARY_COLUMNS = (
    "path",
    "tumor_found",
    "highest_probability",
    "lesions",
    "area_px",
    "area_percent",
    "area_mm2",
    "longest_diameter_px",
    "longest_diameter_mm",
    "seconds",
    "error",
)

EXAMPLES = """\
examples:
  python -m modeling_unet predict slice.png --out results
  python -m modeling_unet predict patients/ --out results --style contour --alpha 1
  python -m modeling_unet predict patients/ --out results --spacing 0.49 0.49

written below DIR, in the sub-folders of the input:
  NAME_mask.png     0 and 255, in the slice's own size
  NAME_overlay.png  the slice with the tumour in colour
  summary.csv       one line per slice: measurements, seconds for reading and network, error

exit code: 0 all slices done, 1 some failed (they are listed), 2 nothing was started

Research only; not a medical device and not for diagnosis.
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 1 if a slice failed, 2 if nothing could be started."""
    args = build_parser().parse_args(argv)
    logging.disable_progress_bar()
    try:
        args.model = args.model or find_shipped_model()
        if args.command == "export":
            return export(args)
        check_options(args)
        slices = find_slices(args.paths, args.out)
        segmenter = TumorSegmenter.from_pretrained(args.model, revision=args.revision)
        args.out.mkdir(parents=True, exist_ok=True)
    except (ImportError, OSError, ValueError) as error:
        print(f"error: {_one_line(error)}", file=sys.stderr)
        return 2
    return predict(segmenter, slices, args)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m modeling_unet",
        description="Brain tumours in MRI slices, found by a U-Net.",
        epilog="More about a command: python -m modeling_unet COMMAND --help",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_predict(commands)
    _add_export(commands)
    return parser


def _add_predict(commands):
    command = commands.add_parser(
        "predict",
        help="segment slices: masks, overlays, measurements",
        description="Segment MRI slices: a mask and an overlay for each, and a table of measurements.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = command.add_argument
    add("paths", nargs="+", type=Path, metavar="PATH", help="slices, or folders of slices (sub-folders included)")
    add("--out", required=True, type=Path, metavar="DIR", help="folder for the results")
    _add_model(command)
    add("--threshold", type=float, default=DEFAULT_THRESHOLD, help="tumour is above this probability (%(default)s)")
    add("--style", choices=STYLES, default="fill", help="style of the overlay (%(default)s)")
    add("--color", default=DEFAULT_COLOR.strip("#"), metavar="RRGGBB", help="colour of fill and contour (%(default)s)")
    add("--alpha", type=float, default=DEFAULT_ALPHA, help="opacity of the colour, 0 to 1 (%(default)s)")
    add("--spacing", type=float, nargs=2, metavar=("ROW", "COLUMN"), help="pixel size in mm, for results in mm")


def _add_export(commands):
    command = commands.add_parser(
        "export",
        help="write the network as an ONNX file",
        description="Write the network as an ONNX file, for programs without PyTorch; docs/onnx.md says how to use it.",
    )
    command.add_argument("out", type=Path, metavar="OUT.onnx", help="the file to write")
    _add_model(command)
    command.add_argument("--dtype", choices=DTYPES, default=DEFAULT_DTYPE, help="of the weights (%(default)s)")


def _add_model(command: argparse.ArgumentParser):
    default = "default: the one that comes with the project"
    command.add_argument("--model", metavar="DIR_OR_ID", help=f"model folder or Hub id ({default})")
    command.add_argument("--revision", metavar="REV", help="branch, tag or commit of a model on the Hub")


def find_shipped_model() -> Path:
    """The folder of the model that comes with a clone, or a `ValueError` where there is none."""
    if not (SHIPPED_MODEL / "config.json").is_file():
        raise ValueError("no model comes with this installation; name one with --model, a folder or a Hub id")
    return SHIPPED_MODEL


def export(args: argparse.Namespace) -> int:
    """Write the network as `args.out` and return 0."""
    if args.out.is_dir():
        raise ValueError(f"{args.out} is a folder; name the file to write, such as {args.out / 'model.onnx'}")
    segmenter = TumorSegmenter.from_pretrained(args.model, device="cpu", revision=args.revision)
    metadata = describe(segmenter.model, segmenter.image_processor, *origin(args.model, args.revision))
    content = to_onnx(segmenter.model, metadata, args.dtype)
    write_atomically(args.out, content)
    print(f"{args.out}: {len(content) / 1e6:.1f} MB, {args.dtype}")
    return 0


def check_options(args: argparse.Namespace):
    """Raise a `ValueError` for the first option that is out of range, before any work is done."""
    check_threshold(args.threshold)
    check_alpha(args.alpha)
    check_spacing(args.spacing)
    parse_color(args.color)
    if args.out.exists() and not args.out.is_dir():
        raise ValueError(f"--out {args.out} is a file; allowed is a folder, which may be missing")


def find_slices(paths: list[Path], out: Path) -> dict[Path, Path]:
    """Find the slices and the place of each one's results.

    The places repeat the folders below the deepest folder that all paths share, so that equal names from different
    folders stay apart. They leave the suffix out, unless two slices differ in nothing else.

    Args:
        paths: files, taken whatever their suffix is, and folders, searched for `IMAGE_SUFFIXES`; hidden files, and
            results of an earlier run in `out`, are passed over.
        out: folder for the results.

    Returns:
        Place relative to `out` → slice.

    Raises:
        OSError: a path does not exist.
        ValueError: there is no slice, or results would overwrite a slice.
    """
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"{path}: there is no such file or folder")
    roots = [path if path.is_dir() else path.parent for path in paths]
    shared = os.path.commonpath([root.resolve() for root in roots])
    slices = {}
    for path, root in zip(paths, roots, strict=True):
        for file in _slices_below(path, out) if path.is_dir() else [path]:
            slices[root.resolve().relative_to(shared) / file.relative_to(root)] = file
    if not slices:
        raise ValueError(f"no slices in {', '.join(map(str, paths))}; looked for {', '.join(IMAGE_SUFFIXES)}")

    stems = {place.with_suffix(""): file for place, file in slices.items()}
    # Lower case, because many file systems take "A.png" and "a.png" for the same file.
    if len({str(stem).lower() for stem in stems}) == len(slices):
        slices = stems
    _refuse_overwriting(slices, out)
    return slices


def predict(segmenter: TumorSegmenter, slices: dict[Path, Path], args: argparse.Namespace) -> int:
    """Segment every slice, write its results below `args.out`, and the table last, even when interrupted.

    Returns:
        0, or 1 if any slice failed.
    """
    rows = []
    try:
        for place, file in tqdm(slices.items(), unit="slice", disable=None):
            try:
                row = predict_slice(segmenter, file, args.out / place, args)
            # Whatever is wrong with one file, the others still get their results.
            except Exception as error:
                row = {"error": _one_line(error)}
                tqdm.write(f"{file}: {row['error'].removeprefix(f'{file.name}: ')}", file=sys.stderr)
            rows.append({"path": file, **row})
    finally:
        write_summary(args.out / SUMMARY_NAME, rows)
    failed = sum("error" in row for row in rows)
    found = sum(row.get("tumor_found", False) for row in rows)
    print(f"slices: {len(rows)}, tumour found: {found}, failed: {failed}; results in {args.out}")
    return 1 if failed else 0


def predict_slice(segmenter: TumorSegmenter, file: Path, place: Path, args: argparse.Namespace) -> dict:
    """Segment one slice, write `<place>_mask.png` and `<place>_overlay.png`, and return its line of the table."""
    start = time.perf_counter()
    segmentation = segmenter(file, args.spacing).at_threshold(args.threshold)
    seconds = time.perf_counter() - start
    overlay = segmentation.overlay(args.color, args.alpha, args.style)
    write_png(place.with_name(f"{place.name}_mask.png"), segmentation.mask.astype(np.uint8) * 255)
    write_png(place.with_name(f"{place.name}_overlay.png"), overlay)
    return {**summarize(segmentation), "seconds": round(seconds, 3)}


def summarize(segmentation: Segmentation) -> dict:
    """The measurements of one slice as the table shows them; the diameters are the longest of all lesions."""
    diameters_px = [lesion.longest_diameter_px for lesion in segmentation.lesions]
    diameters_mm = [lesion.longest_diameter_mm for lesion in segmentation.lesions if segmentation.spacing]
    return {
        "tumor_found": segmentation.tumor_found,
        "highest_probability": round(segmentation.highest_probability, 4),
        "lesions": len(segmentation.lesions),
        "area_px": segmentation.area_px,
        "area_percent": round(segmentation.area_percent, 3),
        "area_mm2": None if segmentation.area_mm2 is None else round(segmentation.area_mm2, 2),
        "longest_diameter_px": round(max(diameters_px), 2) if diameters_px else None,
        "longest_diameter_mm": round(max(diameters_mm), 2) if diameters_mm else None,
    }


def write_summary(path: Path, rows: list[dict]):
    table = io.StringIO()
    writer = csv.DictWriter(table, SUMMARY_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    # A name that is not valid Unicode must not cost the table.
    write_atomically(path, table.getvalue().encode("utf-8", "backslashreplace"))


def write_png(path: Path, image: np.ndarray):
    content = io.BytesIO()
    Image.fromarray(image).save(content, format="PNG")
    write_atomically(path, content.getvalue())


def write_atomically(path: Path, content: bytes):
    """Write a file whole or not at all: under a hidden name first, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _slices_below(folder: Path, out: Path) -> list[Path]:
    results = out.resolve()
    results_inside = folder.resolve() in results.parents
    files = []
    for file in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
        earlier_result = results_inside and results in file.resolve().parents
        if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file() and not (hidden or earlier_result):
            files.append(file)
    return files


def _refuse_overwriting(slices: dict[Path, Path], out: Path):
    inputs = {file.resolve() for file in slices.values()}
    for place in slices:
        for ending in ("mask", "overlay"):
            result = out / place.with_name(f"{place.name}_{ending}.png")
            if result.resolve() in inputs:
                raise ValueError(f"the results would overwrite the slice {result}; name another folder with --out")


def _one_line(error: Exception) -> str:
    # The messages of these are written for whoever runs the command; any other needs its name to be understood.
    kind = "" if isinstance(error, (ImportError, OSError, ValueError)) else f"{type(error).__name__}: "
    return kind + " ".join(str(error).split())


if __name__ == "__main__":
    sys.exit(main())
