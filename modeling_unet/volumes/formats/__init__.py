"""Formats other than NIfTI and DICOM: MetaImage, NRRD, FreeSurfer's and Analyze → one `Scan`."""

from ..scan import Companion, Scan
from . import analyze, freesurfer, metaimage, nrrd


FORMATS = {"MetaImage": metaimage, "NRRD": nrrd, "FreeSurfer": freesurfer, "Analyze": analyze}


def sniff_format(head: bytes) -> str | None:
    """Which of the formats a file is, by its first bytes, unpacked; None if it is none of them."""
    return next((name for name, module in FORMATS.items() if module.sniff(head)), None)


def read_format(kind: str, content: bytes, name: str, companion: Companion, stack: int | None = None) -> Scan:
    """Read a file of one of the formats; arguments and errors as for `read_nifti`."""
    return FORMATS[kind].read(content, name, companion, stack)
