"""What gzip packed, unpacked piece by piece, and no more of it than is wanted."""

import zlib

from .scan import VolumeError


GZIP_MAGIC = b"\x1f\x8b"
GZIP = 16 + zlib.MAX_WBITS  # how zlib is told to expect gzip's header
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
    unpacked, parts, place = bytearray(), 0, 0
    while len(unpacked) < size and place < len(content):
        decompressor, parts = zlib.decompressobj(GZIP), parts + 1
        if parts > MAX_GZIP_PARTS:
            raise VolumeError(f"{name}: gzip packed it in more than {MAX_GZIP_PARTS:,} parts; pack it as one.")
        while len(unpacked) < size and place < len(content) and not decompressor.eof:
            chunk = content[place : place + CHUNK_BYTES]
            try:
                unpacked += decompressor.decompress(chunk, min(start, CHUNK_BYTES) or size - len(unpacked))
            except zlib.error as error:
                raise VolumeError(f"{name}: the file is packed by gzip and damaged.") from error
            place += len(chunk) - len(decompressor.unused_data) - len(decompressor.unconsumed_tail)
            passed = min(start, len(unpacked))
            del unpacked[:passed]
            start -= passed
    return unpacked
