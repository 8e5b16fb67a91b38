"""DICOM: the files of one or several series → one `Scan`; and a mask as a DICOM segmentation object."""

from .segmentation import check_highdicom, write_dicom_seg
from .series import read_dicom
from .tags import DICOMDIR, MAX_FRAMES, sniff_dicom, study_of


__all__ = [
    "DICOMDIR",
    "MAX_FRAMES",
    "check_highdicom",
    "read_dicom",
    "sniff_dicom",
    "study_of",
    "write_dicom_seg",
]
