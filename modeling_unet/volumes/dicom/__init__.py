"""DICOM: the files of one or several series → one `Scan`."""

from .series import read_dicom
from .tags import MAX_FRAMES, sniff_dicom


__all__ = ["MAX_FRAMES", "read_dicom", "sniff_dicom"]
