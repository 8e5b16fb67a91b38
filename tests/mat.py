"""MATLAB v7.3 files and zips for the tests, in the layout of the original on figshare."""

import io
import zipfile
from pathlib import Path

import h5py
import numpy as np


_HEADER = b"MATLAB 7.3 MAT-file, Platform: GLNXA64, Created on: Sat Apr 15 17:32:12 2017 HDF5 schema 1.00 ."


def mat_bytes(image: np.ndarray, mask: np.ndarray, label: int = 1, pid: str = "100360", without: str = "") -> bytes:
    """An `N.mat`: HDF5 behind a user block of 512 bytes, arrays transposed, text as a column of character codes.

    `without` names a field that is left out.
    """
    fields = {
        "PID": np.array([[ord(character)] for character in pid], np.uint16),
        "image": image.T,
        "label": np.array([[label]], np.float64),
        "tumorBorder": np.zeros((1, 8)),
        "tumorMask": mask.astype(np.uint8).T,
    }
    file = io.BytesIO()
    with h5py.File(file, "w", userblock_size=512) as mat:
        group = mat.create_group("cjdata")
        group.attrs["MATLAB_class"] = np.bytes_("struct")
        for name, values in fields.items():
            if name != without:
                chunks = {"chunks": values.shape, "compression": "gzip"} if values.size > 512 else {}
                group.create_dataset(name, data=values, **chunks).attrs["MATLAB_class"] = np.bytes_(values.dtype.name)
    return _HEADER.ljust(124) + b"\x00\x02IM" + bytes(384) + file.getvalue()[512:]


def write_zip(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path
