"""What gzip packed, unpacked piece by piece, and no more of it than is wanted."""

import math
import zlib

import numpy as np

from .scan import VolumeError


GZIP_MAGIC = b"\x1f\x8b"
GZIP, ZLIB = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS  # how zlib is told which header to expect
CHUNK_BYTES = 64 * 1024
# bgzip writes one for every 64 KiB.
MAX_GZIP_PARTS = 10_000


def is_gzipped(content: bytes) -> bool:
    """Whether a file starts as gzip's do."""
    return content.startswith(GZIP_MAGIC)


def take(content: bytes, size: int, name: str = "", start: int = 0) -> bytes | bytearray:
    """`size` bytes of a file from `start` on, unpacked if it is packed; fewer if it ends before.

    Raises:
        VolumeError: it is damaged, or packed in too many parts; `name` is what to call it.
    """
    if not is_gzipped(content):
        return content[start : start + size]
    return unpack(content, size, name, start)


def unpack(content: bytes, size: int, name: str = "", start: int = 0, form: int = GZIP) -> bytearray:
    """The same of what is packed for sure, by gzip or in another form that zlib knows."""
    unpacked, parts, place = bytearray(), 0, 0
    while len(unpacked) < size and place < len(content):
        decompressor, parts = zlib.decompressobj(form), parts + 1
        if parts > MAX_GZIP_PARTS:
            raise VolumeError(f"{name}: gzip packed it in more than {MAX_GZIP_PARTS:,} parts; pack it as one.")
        while len(unpacked) < size and place < len(content) and not decompressor.eof:
            chunk = content[place : place + CHUNK_BYTES]
            try:
                unpacked += decompressor.decompress(chunk, min(start, CHUNK_BYTES) or size - len(unpacked))
            except zlib.error as error:
                raise VolumeError(f"{name}: the file is packed by gzip and damaged.") from error
            # At the end of a part, what follows it may stand in both.
            left = decompressor.unused_data if decompressor.eof else decompressor.unconsumed_tail
            place += len(chunk) - len(left)
            passed = min(start, len(unpacked))
            del unpacked[:passed]
            start -= passed
    return unpacked


def read_voxels(
    content: bytes,
    offset: int,
    shape: tuple[int, ...],
    dtype: np.dtype,
    name: str,
    index: int = 0,
    form: int | None = None,
) -> np.ndarray:
    """The voxels of one volume in a file, [I, J, K] of which the first axis runs fastest.

    Args:
        content: the file's bytes.
        offset: number of bytes before the voxels of the first volume.
        name: what to call the file in a message.
        index: of the volume, from 0.
        form: in which zlib knows that it is packed; None asks the file.

    Raises:
        VolumeError: the file ends before, or is damaged.
    """
    size = math.prod(shape) * dtype.itemsize
    # One byte more, so that gzip compares its checksum.
    start, wanted = offset + index * size, size + 1
    unpacked = take(content, wanted, name, start) if form is None else unpack(content, wanted, name, start, form)
    if len(unpacked) < size:
        raise VolumeError(f"{name}: the file is truncated; {size - len(unpacked):,} bytes are missing.")
    return np.frombuffer(unpacked, dtype, math.prod(shape)).reshape(shape, order="F")
