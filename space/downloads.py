"""Files to take away: pictures, a report and archives of what is on a visitor's page; and those that its viewer draws.

They are written into a folder that nobody can guess, below the one that is swept (sweeping.py).
"""

import gzip
import io
import uuid
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePosixPath

import nibabel as nib
import numpy as np
from gradio.utils import get_upload_folder

from modeling_unet.comparison import compare
from modeling_unet.overlay import DEFAULT_ALPHA, DEFAULT_COLOR, class_colors, parse_color
from modeling_unet.pictures import encode_labels, encode_png, to_16_bit
from modeling_unet.prediction import trust
from modeling_unet.report import Profile, draw_report
from modeling_unet.segmentation import Segmentation
from modeling_unet.tables import to_csv
from modeling_unet.volumes import Volume
from modeling_unet.volumes.volume import DISPLAY

from .network import Origin
from .studies import Settings, Slice, Study


TABLE_COLUMNS = (
    *("slice", "tumor_found", "lesions", "area_px", "area_percent", "area_mm2", "longest_diameter_px"),
    *("longest_diameter_mm", "mean_probability", "highest_probability", "familiarity", "warnings"),
    *("corrected_by_hand", "error"),
)


@dataclass(frozen=True)
class Look:
    """How overlays are drawn; see `draw_overlay`."""

    style: str = "fill"
    color: str = DEFAULT_COLOR
    alpha: float = DEFAULT_ALPHA

    def draw(self, cut: Segmentation) -> np.ndarray:
        """The slice with the tumour in colour, uint8 [H, W, 3]."""
        return cut.overlay(self.color, self.alpha, self.style)


def save_overlay(study: Study, settings: Settings, look: Look, origin: Origin) -> str:
    """The slice on the stage with its overlay, as PNG."""
    return write(_named(study.shown, "overlay.png"), encode_png(look.draw(study.shown.cut(settings))))


def save_mask(study: Study, settings: Settings, look: Look, origin: Origin) -> str:
    """Its mask, 0 and 255, as PNG; of several classes their labels, in colour."""
    if (cut := study.shown.cut(settings)).classes:
        return write(_named(study.shown, "labels.png"), _labels(cut))
    return write(_named(study.shown, "mask.png"), encode_png(study.shown.cut(settings).mask))


def save_network_mask(study: Study, settings: Settings, look: Look, origin: Origin) -> str:
    """The same without what was corrected by hand."""
    return write(f"{study.shown.name}_mask.png", encode_png(settings.cut(study.shown.segmentation).mask))


def save_probability(study: Study, settings: Settings, look: Look, origin: Origin) -> str:
    """Its probabilities, as 16-bit PNG in which 65535 stands for 1."""
    return write(f"{study.shown.name}_probability.png", encode_png(to_16_bit(study.shown.segmentation.probability)))


def save_report(study: Study, settings: Settings, look: Look, origin: Origin) -> str:
    """One page about it, as HTML to print; the slice of a volume goes by the name of its file."""
    shown, volume = study.shown, study.volume
    cut = shown.cut(settings)
    page = draw_report(
        cut,
        title=f"{study.name}, slice {study.index + 1} of {len(study.slices)}" if volume else shown.title,
        model=origin.name,
        revision=origin.revision,
        comparison=None if shown.truth is None else compare(cut.mask, shown.truth, cut.spacing),
        color=look.color,
        alpha=look.alpha,
        style=look.style,
        warnings=study.warnings,
        volume=study.volume_figures(settings),
        profile=Profile(study.profile(settings), volume.voxel_ml, study.index) if volume else None,
        by_hand=shown.is_corrected,
    )
    return write(_named(shown, "report.html"), page.encode())


def save_everything(study: Study, settings: Settings, look: Look, origin: Origin) -> str:
    """Of several slices all masks, overlays and one table, as ZIP; of a volume its mask, or its labels, as NIfTI."""
    if study.volume and study.shown.segmentation.class_names:
        return write(f"{study.name}_labels.nii.gz", study.volume.to_nifti(study.labels(settings)))
    if study.volume:
        kind = "corrected_mask" if study.is_corrected else "mask"
        return write(f"{study.name}_{kind}.nii.gz", study.volume.to_nifti(study.masks(settings)))
    return write(f"{study.name}_results.zip", pack(study, settings, look))


def write_viewed(study: Study, settings: Settings, with_scan: bool) -> list[str]:
    """The mask of a volume as the viewer draws it, and before it, if it is asked for, the scan: NIfTI of 8 bits.

    Both lie in one grid, whose axes are column, row and slice as the page shows them. Names say what is in a file. The
    mask of several classes has a bit for each.
    """
    assert study.volume and study.voxels is not None
    mask = study.class_bits(settings) if study.shown.segmentation.class_names else study.masks(settings)
    files = {f"mask_{study.token}_{settings.name}.nii.gz": mask}
    if with_scan:
        files = {f"scan_{study.token}.nii.gz": study.voxels, **files}
    affine = viewed_affine(study.volume)
    return [write(name, _viewed(values, affine)) for name, values in files.items()]


def viewed_affine(volume: Volume) -> np.ndarray:
    """Index (column, row, slice, 1) → mm towards the patient's right, anterior and superior side, float64 [4, 4].

    Where the file does not say how the patient lies, slices count as axial; where it does not say how large a voxel
    is, it counts as 1 mm.
    """
    affine = volume.affine
    if affine is None:
        sizes = volume.slice_spacing or 1.0, *(volume.spacing or (1.0, 1.0))
        towards = nib.orientations.axcodes2ornt(DISPLAY.get(volume.plane, DISPLAY["axial"]))
        affine = np.diag([0.0, 0.0, 0.0, 1.0])
        for axis, (size, (side, sign)) in enumerate(zip(sizes, towards, strict=True)):
            affine[int(side), axis] = sign * size
    return affine[:, [2, 1, 0, 3]]


def _viewed(values: np.ndarray, affine: np.ndarray) -> bytes:
    image = nib.Nifti1Image(values.astype(np.uint8).transpose(2, 1, 0), affine)
    image.header.set_xyzt_units("mm")
    # Whoever waits for it looks at it once: fast rather than small.
    return gzip.compress(image.to_bytes(), compresslevel=1, mtime=0)


SAVERS: dict[str, Callable[[Study, Settings, Look, Origin], str]] = {
    "Overlay": save_overlay,
    "Mask": save_mask,
    "Probability": save_probability,
    "Report": save_report,
    "Network's mask": save_network_mask,
}


def pack(study: Study, settings: Settings, look: Look) -> bytes:
    """A ZIP with `NAME_mask.png` and `NAME_overlay.png` of every slice, and `summary.csv`.

    Of several classes, `NAME_labels.png` holds the labels, and `NAME_mask_1.png` and so on the mask of each.
    What was corrected by hand is called `NAME_corrected_mask.png` and so on, and lies beside the network's own mask.
    """
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:  # PNG files do not shrink any more
        for part, cut in zip(study.slices, study.cuts(settings), strict=True):
            archive.writestr(_named(part, "mask.png"), encode_png(cut.mask))
            archive.writestr(_named(part, "overlay.png"), encode_png(look.draw(cut)))
            if cut.classes:
                archive.writestr(f"{part.name}_labels.png", _labels(cut))
            for number, one in enumerate(cut.classes, start=1):
                archive.writestr(f"{part.name}_mask_{number}.png", encode_png(one.mask))
            if part.is_corrected:
                archive.writestr(f"{part.name}_mask.png", encode_png(settings.cut(part.segmentation).mask))
        summaries = zip(study.summaries(settings), study.slices, strict=True)
        rows = study.table({**row, **trust(part.segmentation)} for row, part in summaries)
        of_classes = [name for name in dict.fromkeys(chain(*rows)) if name not in TABLE_COLUMNS]
        archive.writestr("summary.csv", to_csv((*TABLE_COLUMNS, *of_classes), rows))
    return content.getvalue()


def _labels(cut: Segmentation) -> bytes:
    """The labels of several classes as PNG, shown in their colours."""
    return encode_labels(cut.labels, [parse_color(color) for color in class_colors(len(cut.classes))])


def _named(part: Slice, kind: str) -> str:
    """The name of a file of a slice, which says whether its mask was corrected by hand."""
    return f"{part.name}_corrected_{kind}" if part.is_corrected else f"{part.name}_{kind}"


def write(name: str, content: bytes) -> str:
    """Write a file for one visitor, and return its path."""
    folder = Path(get_upload_folder()) / uuid.uuid4().hex
    folder.mkdir(parents=True)
    path = folder / PurePosixPath(name).name
    path.write_bytes(content)
    return str(path)
