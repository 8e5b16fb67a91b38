"""Volumes: an archive or a scan, as NIfTI or DICOM lay it out → one `Volume` of slices to be looked at."""

from .scan import VolumeError
from .volume import Volume, is_volume, read_volume


__all__ = ["Volume", "VolumeError", "is_volume", "read_volume"]
