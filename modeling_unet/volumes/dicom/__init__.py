"""DICOM: the files of one or several series → one `Scan`."""

from .series import read_dicom
from .tags import DICOMDIR, MAX_FRAMES, sniff_dicom, study_of


__all__ = ["DICOMDIR", "MAX_FRAMES", "read_dicom", "sniff_dicom", "study_of"]
