"""Volumes: an archive or a scan, as NIfTI or DICOM lay it out → one `Volume` of slices → its tumour, in mL."""

from .lesions import VolumeLesion
from .scan import VolumeError
from .segmenting import VolumeSegmentation, segment_volume
from .volume import Volume, is_volume, read_volume


__all__ = [
    "Volume",
    "VolumeError",
    "VolumeLesion",
    "VolumeSegmentation",
    "is_volume",
    "read_volume",
    "segment_volume",
]
