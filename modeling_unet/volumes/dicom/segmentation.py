"""A mask as a DICOM segmentation object, for archives and viewers of hospitals; needs the package highdicom.

It repeats what the files of the scan say of the person and the study, as otherwise nothing could be filed beside them.
These tags are copied from file to file and are used for nothing else.
"""

import io
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

import numpy as np

from ..scan import MAX_BYTES, File, VolumeError, pydicom, read_file
from .tags import unpacked


NAME, LABEL = "brain-tumor-unet", "Tumour"
SERIES_NUMBER = 9000  # above those of scanners
# What DICOM lets be empty, but not left out, as programs that hide the person do.
MAY_BE_EMPTY = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber", "ReferringPhysicianName"),
    *("StudyID", "StudyDate", "StudyTime"),
)


def check_highdicom():
    """Raise an ImportError that says what to install if highdicom is missing."""
    if find_spec("highdicom") is None:
        raise ImportError("DICOM-SEG needs the package highdicom; run: pip install highdicom")


def write_dicom_seg(mask: np.ndarray, frames: Sequence[tuple[File, int] | None]) -> bytes:
    """A DICOM segmentation object.

    Args:
        mask: bool [I, J, K], as the scan lies: columns, rows, slices.
        frames: of every slice, as in `Scan`.

    Raises:
        ImportError: highdicom is missing.
        VolumeError: there are no such files, or they lack tags that the object needs.
    """
    check_highdicom()
    if not frames:
        raise VolumeError("A DICOM-SEG belongs to DICOM files, and this volume does not come from any.")
    pixels = [mask[:, :, slot].T for slot in range(len(frames))]
    shown = [(frame, image) for frame, image in zip(frames, pixels, strict=True) if frame]
    files = list(dict.fromkeys(file for (file, _), _ in shown))
    try:
        sources = [_tags_of(file) for file in files]
        if "NumberOfFrames" in sources[0]:
            (source,) = sources
            array = np.zeros((int(source.NumberOfFrames), *pixels[0].shape), np.uint8)
            for (_, index), image in shown:
                array[index] = image
        else:
            array = np.stack([image for _, image in shown]).astype(np.uint8)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # which quote tags
            content = io.BytesIO()
            _segmentation(sources, array).save_as(content)
    # highdicom raises whatever it stumbles over, and quotes tags.
    except Exception as error:
        raise VolumeError(
            "The DICOM files lack tags that a DICOM-SEG needs, or have them in another way "
            f"({type(error).__name__}); the mask as NIfTI needs none of them."
        ) from None
    return content.getvalue()


def _tags_of(file: File) -> "pydicom.Dataset":
    """All tags of a file, without its pixels."""
    content = unpacked(read_file(file), MAX_BYTES, "A DICOM file")
    tags = pydicom.dcmread(io.BytesIO(content), stop_before_pixels=True, force=True)
    for keyword in MAY_BE_EMPTY:
        if keyword not in tags:
            setattr(tags, keyword, None)
    return tags


def _segmentation(sources: "list[pydicom.Dataset]", array: np.ndarray) -> "pydicom.Dataset":
    highdicom: Any = import_module("highdicom")  # here, because it takes a second
    codes = import_module("pydicom.sr.codedict").codes
    try:
        own_version = version(NAME)
    except PackageNotFoundError:  # in a clone
        own_version = "unknown"
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name=NAME, version=own_version, family=codes.DCM.ArtificialIntelligence
    )
    description = highdicom.seg.SegmentDescription(
        segment_number=1,
        segment_label=LABEL,
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Neoplasm,
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
    )
    return highdicom.seg.Segmentation(
        source_images=sources,
        pixel_array=array,
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[description],
        series_instance_uid=highdicom.UID(),
        series_number=SERIES_NUMBER,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer=NAME,
        manufacturer_model_name=NAME,
        software_versions=own_version,
        device_serial_number="none",
        series_description="Research only: tumour by a U-Net",
    )
