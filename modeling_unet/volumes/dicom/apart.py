"""GDCM in a process of its own, for the JPEGs that Pillow does not know: a damaged frame may end the process that
decodes it.

`Apart` starts this file as a program, which imports nothing of this package, and sends it one frame after another.
"""

import struct
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from threading import Timer
from typing import Any

import numpy as np


# Number of the transfer syntax for GDCM, rows, columns, bits of a value in the frame, bytes of the frame.
REQUEST = struct.Struct("<5I")
ANSWER = struct.Struct("<I")  # number of bytes
MAX_SECONDS = 30  # for a frame
MAX_BYTES = 1 << 30  # of the program's memory


class Apart:
    """The program, started when the first frame comes, and again when one has ended it; close it as a context."""

    def __init__(self):
        self._process: subprocess.Popen | None = None

    def __enter__(self) -> "Apart":
        return self

    def __exit__(self, *error):
        self._end()

    @staticmethod
    def is_available() -> bool:
        """Whether GDCM is installed."""
        return find_spec("gdcm") is not None

    def decode(self, frame: bytes, syntax: str, rows: int, columns: int, bits: int) -> np.ndarray:
        """The values of a grey frame, uint8 or uint16 [rows, columns].

        Args:
            bits: of a value, as the frame itself says.

        Raises:
            ValueError: it cannot be decoded.
        """
        try:
            content = self._ask(REQUEST.pack(int(syntax.rpartition(".")[2]), rows, columns, bits, len(frame)) + frame)
            return np.frombuffer(content, np.uint8 if bits <= 8 else np.dtype("<u2")).reshape(rows, columns)
        except (OSError, struct.error, ValueError) as error:
            self._end()
            raise ValueError("a compressed frame is damaged.") from error

    def _ask(self, request: bytes) -> bytes:
        if self._process is None:
            # Without its own folder among those where modules are looked for.
            command = [sys.executable, "-P", __file__]
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        process = self._process
        assert process.stdin and process.stdout
        timer = Timer(MAX_SECONDS, process.kill)
        timer.start()
        try:
            process.stdin.write(request)
            process.stdin.flush()
            (size,) = ANSWER.unpack(process.stdout.read(ANSWER.size))
            return process.stdout.read(size)
        finally:
            timer.cancel()

    def _end(self):
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()


def main():
    """Decode frames from the standard input until it ends, or until one cannot be decoded."""
    hold_memory_down()
    gdcm: Any = import_module("gdcm")
    # What GDCM calls them, by the last number of their UIDs.
    syntaxes = {
        51: gdcm.TransferSyntax.JPEGExtendedProcess2_4,
        57: gdcm.TransferSyntax.JPEGLosslessProcess14,
        70: gdcm.TransferSyntax.JPEGLosslessProcess14_1,
        80: gdcm.TransferSyntax.JPEGLSLossless,
        81: gdcm.TransferSyntax.JPEGLSNearLossless,
    }
    while request := sys.stdin.buffer.read(REQUEST.size):
        syntax, rows, columns, bits, size = REQUEST.unpack(request)
        fragment = gdcm.Fragment()
        fragment.SetByteStringValue(sys.stdin.buffer.read(size))
        fragments = gdcm.SequenceOfFragments.New()
        fragments.AddFragment(fragment)
        element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
        element.SetValue(fragments.__ref__())
        image = gdcm.Image()
        image.SetNumberOfDimensions(2)
        image.SetDimensions((columns, rows, 1))
        image.SetDataElement(element)
        image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(gdcm.PhotometricInterpretation.MONOCHROME2))
        image.SetTransferSyntax(gdcm.TransferSyntax(syntaxes[syntax]))
        image.SetPixelFormat(gdcm.PixelFormat(1, 8 if bits <= 8 else 16, bits, bits - 1, 0))
        content = image.GetBuffer().encode("utf-8", "surrogateescape")
        sys.stdout.buffer.write(ANSWER.pack(len(content)) + content)
        sys.stdout.buffer.flush()


def hold_memory_down():
    """Let the system refuse this process more than `MAX_BYTES`, where it can."""
    try:
        import resource
    except ImportError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_AS, (MAX_BYTES, MAX_BYTES))


if __name__ == "__main__":
    main()
