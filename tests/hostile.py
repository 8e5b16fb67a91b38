"""Files that nobody should have sent, each made from a seed: `hostile_file(seed)` → a name and bytes.

Every door through which a file enters the project has to survive each of them: `knock`. The `AMPLIFIERS` are valid
files that cost minutes or gigabytes where nobody counts what is in them. All of them, with time and memory, and as many
others as there is time for: python -m benchmarks.hostile.
"""

import functools
import gzip
import io
import os
import struct
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import phantoms
from PIL import Image, TiffImagePlugin
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, RLELossless

from modeling_unet import read_image, read_mask, read_pages
from modeling_unet.volumes import is_volume, read_volume
from modeling_unet.volumes.archives import members
from modeling_unet.volumes.dicom.tags import HTJ2K
from space.reading import open_files


MIB = 1024 * 1024
PICTURE_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "JPEG2000", "AVIF")
Rng = np.random.Generator
Made = tuple[str, bytes]


# ---------------------------------------------------------------------------------------------------------------- doors


def read_members(path: Path):
    for member in members(path):
        member.read()


def read_as_the_page(path: Path):
    """What the page reads of a file, or of an archive, before the network runs."""
    sources, _ = open_files([path])
    refusals = []
    for source in sources:
        try:
            source.read()
        except ValueError as error:
            refusals.append(error)
    if refusals and len(refusals) == len(sources):
        raise refusals[0]


def read_every_page(path: Path):
    for _ in read_pages(path):
        pass


DOORS = (read_image, read_mask, read_every_page, read_members, read_volume, read_as_the_page)


class Answer(NamedTuple):
    """What a door says of a file.

    Attributes:
        door: its name.
        sentence: the refusal, empty where the file is let in.
        seconds: of the processor.
    """

    door: str
    sentence: str
    seconds: float


def knock(path: Path) -> list[Answer]:
    """What every door says of a file; an `AssertionError` for a bad answer."""
    is_volume(path)
    answers = []
    for door in DOORS:
        started = time.process_time()
        try:
            door(path)
            sentence = ""
        except ValueError as error:
            sentence = str(error)
            assert sentence.endswith((".", "pydicom")) and "\n" not in sentence and len(sentence) < 500, sentence
            assert str(path.parent) not in sentence, sentence
        answers.append(Answer(door.__name__, sentence, time.process_time() - started))
    return answers


# --------------------------------------------------------------------------------------------------------------- damage


def truncated(rng: Rng, content: bytes) -> bytes:
    return content[: int(rng.integers(0, len(content)))]


def flipped(rng: Rng, content: bytes) -> bytes:
    """Between one and a hundred wrong bits, half of the time near the start."""
    damaged = np.frombuffer(content, np.uint8).copy()
    reach = len(damaged) if rng.random() < 0.5 else min(len(damaged), 600)
    places = rng.integers(0, reach, int(rng.integers(1, 100)))
    damaged[places] ^= (1 << rng.integers(0, 8, len(places))).astype(np.uint8)
    return damaged.tobytes()


def overwritten(rng: Rng, content: bytes) -> bytes:
    """A few words of the header that became the largest, the smallest or any numbers."""
    damaged = bytearray(content)
    for place in rng.integers(0, max(min(len(damaged), 600) - 4, 1), 6):
        word = (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f", rng.bytes(4))[rng.integers(4)]
        damaged[place : place + 4] = word
    return bytes(damaged)


DAMAGES = (truncated, flipped, overwritten)


def damaged(rng: Rng, content: bytes) -> bytes:
    return DAMAGES[rng.integers(len(DAMAGES))](rng, content)


# ------------------------------------------------------------------------------------------------------------- pictures


def picture(rng: Rng, file_format: str = "PNG", mode: str = "L", side: int = 40) -> bytes:
    shape = (side, side + 3) if mode in ("L", "1") else (side, side + 3, 3)
    image = Image.fromarray(rng.integers(0, 256, shape, np.uint8)).convert(mode)
    content = io.BytesIO()
    image.save(content, file_format)
    return content.getvalue()


def damaged_picture(rng: Rng) -> Made:
    file_format = PICTURE_FORMATS[rng.integers(len(PICTURE_FORMATS))]
    return f"slice.{file_format.lower()}", damaged(rng, picture(rng, file_format))


def lying_array(rng: Rng) -> Made:
    """A `.npy` file whose header promises another array than follows, or is damaged."""
    content = io.BytesIO()
    np.save(content, rng.integers(0, 256, (40, 43), np.uint8))
    content = content.getvalue()
    said = (b"(-4, -430)", b"(1e3, 1720)", b"(2**40, 43)", b"(9999999999, 43)", b"[40, 43]", b"(" * 3000)[
        rng.integers(6)
    ]
    if rng.random() < 0.5:
        content = content[:10] + content[10:128].replace(b"(40, 43)", said)[:118] + content[128:]
    return "array.npy", damaged(rng, content) if rng.random() < 0.5 else content


def odd_mode(rng: Rng) -> Made:
    mode = ("1", "P", "LA", "PA", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16")[rng.integers(12)]
    image = Image.fromarray(rng.integers(0, 256, (40, 50), np.uint8))
    image = image.convert("RGB").convert(mode) if mode in ("LAB", "HSV", "YCbCr", "CMYK") else image.convert(mode)
    if mode == "F":
        image = Image.fromarray(np.full((40, 50), (np.nan, np.inf, -1e38)[rng.integers(3)], np.float32))
    content = io.BytesIO()
    if mode == "HSV":
        image = image.convert("RGB")
    image.save(content, "TIFF" if mode not in ("P", "LA", "1") else "PNG")
    return f"odd.{mode}", content.getvalue()


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, data: bytes, *chunks: bytes, depth: int = 8, color: int = 0) -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + png_chunk(b"IDAT", data) + png_chunk(b"IEND", b"")


@functools.cache
def zeros(count: int, wbits: int = 15) -> bytes:
    """`count` zeros, packed a thousand to one."""
    packer = zlib.compressobj(9, zlib.DEFLATED, wbits)
    block = b"\0" * MIB
    return b"".join(packer.compress(block) for _ in range(count // MIB)) + packer.flush()


def picture_bomb(rng: Rng) -> Made:
    kind = rng.integers(6)
    if kind == 0:
        side = int(rng.integers(9000, 2**31 - 1))
        return "large.png", png(side, int(rng.integers(16, side)), zeros(64 * MIB))
    if kind == 1:  # as large as is allowed
        return "clear.png", png(8192, 8192, zeros(257 * MIB), color=int(rng.choice([2, 4, 6])))
    if kind == 2:
        return "text.png", png(40, 40, zeros(MIB), png_chunk(b"zTXt", b"Comment\0\0" + zeros(300 * MIB)))
    if kind == 3:
        return "profile.png", png(40, 40, zeros(MIB), png_chunk(b"iCCP", b"profile\0\0" + zeros(300 * MIB)))
    if kind == 4:  # more data than the header says
        return "long.png", png(40, 40, zeros(512 * MIB))
    return "large.webp", b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8L" + struct.pack("<IB", 10, 0x2F) + b"\xff" * 10


def many_frames(rng: Rng) -> Made:
    kind = rng.integers(3)
    if kind == 0:
        first = picture(rng, "GIF", "L", 20)
        body = first[first.index(b",") : -1]
        return "film.gif", first[:-1] + body * int(rng.integers(1000, 5000)) + b";"
    pictures = io.BytesIO()
    Image.new("L", (20, 20)).save(pictures, "TIFF", save_all=True, append_images=[Image.new("L", (20, 20))] * 200)
    content = bytearray(pictures.getvalue())
    if kind == 1:  # a directory that names itself as the next
        start = struct.unpack_from("<I", content, 4)[0]
        entries = struct.unpack_from("<H", content, start)[0]
        struct.pack_into("<I", content, start + 2 + 12 * entries, start)
    return "pages.tif", bytes(content)


def lying_tiff(rng: Rng) -> Made:
    """Tags that hold absurd numbers."""
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    tag = int(rng.choice([256, 257, 258, 259, 262, 273, 277, 278, 279, 282, 322, 324, 339]))
    directory[tag] = int(rng.choice([0, 1, 2**16 - 1, 2**31, 2**32 - 1])) if tag != 282 else 0.0
    content = io.BytesIO()
    try:
        Image.new("L", (40, 40)).save(content, "TIFF", tiffinfo=directory)
    except Exception:
        return "tags.tif", overwritten(rng, picture(rng, "TIFF"))
    return "tags.tif", content.getvalue()


def tiny_or_turned(rng: Rng) -> Made:
    width, height = (int(side) for side in rng.integers(1, 20, 2))
    image, exif = Image.new("L", (width, height)), Image.Exif()
    exif[0x0112] = int(rng.integers(0, 20))
    content = io.BytesIO()
    image.save(content, "JPEG", exif=exif.tobytes() + rng.bytes(20))
    return "tiny.jpg", content.getvalue()


def wrong_type(rng: Rng) -> Made:
    contents = {
        "empty.png": b"",
        "page.png": b"<!DOCTYPE html><script>alert(1)</script>",
        "picture.svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="9"><image href="/etc/passwd"/></svg>',
        "program.dcm": b"\x7fELF" + rng.bytes(5000),
        "pickle.nii": b"\x80\x04cos\nsystem\n(S'true'\ntR.",
        "postscript.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99999 99999\n(/etc/passwd) run\n",
        "paper.pdf": b"%PDF-1.7\n" + rng.bytes(2000),
        "noise.nii.gz": rng.bytes(4000),
        "noise.zip": b"PK\3\4" + rng.bytes(4000),
        "noise.dcm": bytes(128) + b"DICM" + rng.bytes(4000),
        "noise.gz": gzip.compress(rng.bytes(4000)),
        "zeros": bytes(4000),
        "long" * 50 + ".png": rng.bytes(100),
        "a\nb\x1b[31m.png": rng.bytes(100),
    }
    return list(contents.items())[rng.integers(len(contents))]


def polyglot(rng: Rng) -> Made:
    """One file that is two things."""
    archive = zipped({"../../evil.png": picture(rng), "1.png": picture(rng)})
    scan = phantoms.dicom(phantoms.noise(20, 20))
    kind = rng.integers(5)
    if kind == 0:
        return "picture-and-zip.png", picture(rng) + archive
    if kind == 1:
        return "picture-and-zip.jpg", picture(rng, "JPEG") + archive
    if kind == 2:  # what DICOM allows to stand before its mark
        return "tiff-and-dicom.dcm", picture(rng, "TIFF")[:128].ljust(128, b"\0") + scan[128:]
    if kind == 3:
        return "gif-and-script.gif", b"GIF89a/*" + picture(rng, "GIF")[8:] + b"*/=1;alert(1)"
    return "dicom-and-zip.dcm", scan + archive


# ----------------------------------------------------------------------------------------------------------------- ZIPs


def zipped(entries: dict[str, bytes] | list[tuple], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", method) as archive:
        for name, data in entries.items() if isinstance(entries, dict) else entries:
            archive.writestr(name, data)
    return content.getvalue()


def raw_entry(name: str, packed: bytes, size: int) -> tuple[bytes, bytes]:
    """(local entry, line of the table of contents) for data that are packed already; the checksum is a lie."""
    common = struct.pack("<HHHHHIII", 20, 0, 8, 0, 0, 0, len(packed), size)
    local = b"PK\3\4" + common + struct.pack("<HH", len(name), 0) + name.encode() + packed
    line = b"PK\1\2" + struct.pack("<H", 20) + common + struct.pack("<HHHHHII", len(name), 0, 0, 0, 0, 0, 0)
    return local, line + name.encode()


def zip_bomb(rng: Rng) -> Made:
    kind = rng.integers(5)
    if kind == 0:  # honest about what it unpacks to
        return "bomb.zip", single_zip("1.png", zeros(512 * MIB, -15), 512 * MIB)
    if kind == 1:  # not honest
        return "liar.zip", single_zip("1.png", zeros(512 * MIB, -15), int(rng.integers(0, 5000)))
    if kind == 2:
        inner = zipped({"1.png": bytes(MIB)})
        for depth in range(int(rng.integers(1, 6))):
            inner = zipped({f"{depth}.zip": inner, f"{depth}.png": inner})
        return "nested.zip", inner
    if kind == 3:
        count = int(rng.integers(2000, 60_000))
        return "many.zip", zipped({f"{number}.png": b"" for number in range(count)}, zipfile.ZIP_STORED)
    local, _ = raw_entry("0.png", zeros(64 * MIB, -15), 64 * MIB)
    lines = [raw_entry(f"{number}.png", b"", 64 * MIB)[1] for number in range(200)]
    return "shared.zip", closed(local, lines)


def single_zip(name: str, packed: bytes, size: int) -> bytes:
    local, line = raw_entry(name, packed, size)
    return closed(local, [line])


def closed(local: bytes, lines: list[bytes]) -> bytes:
    table = b"".join(lines)
    count = len(lines)
    return local + table + b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, count, count, len(table), len(local), 0)


def bad_names(rng: Rng) -> Made:
    names = (
        "../1.png",
        "/etc/cron.d/1",
        "C:\\1.png",
        "..\\..\\1.png",
        "a/../../b",
        "\\\\host\\x",
        "a" * 5000,
        ".",
        "..",
    )
    link = zipfile.ZipInfo("link.png")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    choices = [*((name, b"x") for name in names), (link, b"/etc/passwd")]
    entries = [("ok.png", picture(rng)), choices[rng.integers(len(choices))]]
    return "names.zip", zipped(entries)


def damaged_zip(rng: Rng) -> Made:
    content = zipped({f"{number}.png": picture(rng) for number in range(3)})
    if rng.random() < 0.5:  # in the table of contents, where most lies are
        start = content.index(b"PK\1\2")
        return "damaged.zip", content[:start] + damaged(rng, content[start:])
    return "damaged.zip", damaged(rng, content)


def zip_of_hostiles(rng: Rng) -> Made:
    makers = (damaged_dicom, damaged_nifti, damaged_picture, lying_dicom)
    made = [makers[rng.integers(len(makers))](rng) for _ in range(int(rng.integers(1, 8)))]
    return "study.zip", zipped({f"{number}-{name}": content for number, (name, content) in enumerate(made)})


# --------------------------------------------------------------------------------------------------------------- NIfTI


def damaged_nifti(rng: Rng) -> Made:
    voxels, packed = phantoms.noise(20, 22, 4, seed=int(rng.integers(99))), bool(rng.integers(2))
    content = phantoms.nifti(voxels, packed=False)
    if rng.random() < 0.3:
        content = nib.Nifti2Image(voxels, np.eye(4)).to_bytes()
    if packed and rng.random() < 0.5:
        return "scan.nii.gz", damaged(rng, gzip.compress(content))
    content = damaged(rng, content)
    return ("scan.nii.gz", gzip.compress(content)) if packed else ("scan.nii", content)


def lying_nifti(rng: Rng) -> Made:
    fields = {
        "dim": [rng.integers(-3, 9), *rng.choice([-1, 0, 1, 20, 2048, 32767], 7)],
        "pixdim": rng.choice([0, -1, 1, 1e-30, 1e30, np.nan, np.inf], 8),
        "datatype": rng.integers(0, 2400),
        "vox_offset": rng.choice([-1, 0, 352, 1e6, 1e30, np.nan]),
        "scl_slope": rng.choice([0, 1e38, -1e38, np.nan, np.inf]),
        "scl_inter": rng.choice([1e38, np.nan, np.inf]),
        "srow_x": rng.choice([0, 1, 1e30, np.nan], 4),
        "quatern_b": rng.choice([0, 2, 1e30, np.nan]),
        "xyzt_units": rng.integers(0, 255),
        "sform_code": rng.integers(-2, 9),
    }
    chosen = rng.choice(list(fields), int(rng.integers(1, 4)), replace=False)
    content = bytearray(phantoms.nifti(phantoms.noise(20, 22, 4), packed=False))
    header = nib.Nifti1Header(bytes(content[:348]), check=False)
    with np.errstate(all="ignore"):
        for name in chosen:
            header[name] = np.asarray(fields[name]).astype(header[name].dtype)
    return "scan.nii", header.binaryblock + bytes(content[348:])


def nifti_bomb(rng: Rng) -> Made:
    kind = rng.integers(5)
    if kind == 0:  # as many voxels as are allowed, of zeros
        return "zeros.nii.gz", gzipped_header([3, 512, 512, 256, 1, 1, 1, 1], 4) + zeros(128 * MIB, 31)
    if kind == 1:
        return "long.nii.gz", gzipped_header([3, 20, 20, 4, 1, 1, 1, 1], 4) + zeros(1024 * MIB, 31)
    if kind == 2:
        name = b"\x1f\x8b\x08\x08" + bytes(6) + b"A" * int(rng.integers(10, 40)) * MIB
        return "named.nii.gz", name + zeros(MIB, -15)
    if kind == 3:
        return "parts.nii.gz", gzipped_header([3, 512, 512, 64, 1, 1, 1, 1], 4) + gzip.compress(b"") * 200_000
    return "lie.nii", gzip.decompress(gzipped_header([3, 512, 512, 256, 1, 1, 1, 1], 4)) + bytes(100)


def gzipped_header(dim: list[int], datatype: int) -> bytes:
    header = nib.Nifti1Header()
    header["dim"], header["datatype"], header["bitpix"], header["vox_offset"] = dim, datatype, 16, 352
    header["magic"] = b"n+1"
    return gzip.compress(header.binaryblock + bytes(4))


# --------------------------------------------------------------------------------------------------------------- DICOM


def damaged_dicom(rng: Rng) -> Made:
    pixels = phantoms.noise(24, 20, seed=int(rng.integers(99))).astype(np.uint16)
    makers = (phantoms.dicom, phantoms.run_length, phantoms.jpeg_2000, enhanced, htj2k)
    content = makers[rng.integers(len(makers))](pixels)
    start = int(rng.integers(0, len(content) - 200)) if rng.random() < 0.5 else 132
    return "IM0001", content[:start] + damaged(rng, content[start:])


def enhanced(pixels: np.ndarray) -> bytes:
    return phantoms.enhanced(np.stack([pixels] * 3), [0, 4, 8], [1, 1, 2])


def htj2k(pixels: np.ndarray) -> bytes:
    return phantoms.htj2k("int16" if pixels[0, 0] % 2 else "uint8", HTJ2K[0])[0]


def lying_dicom(rng: Rng) -> Made:
    tags = {
        "Rows": (0, 1, 2048, 65535),
        "Columns": (0, 1, 2048, 65535),
        "NumberOfFrames": (0, -5, 2, 1000, 2**31 - 1),
        "BitsAllocated": (0, 1, 12, 32, 64),
        "BitsStored": (0, 1, 40, 65535),
        "HighBit": (0, 65535),
        "SamplesPerPixel": (0, 3, 65535),
        "PixelRepresentation": (2, 65535),
        "PhotometricInterpretation": ("", "RGB", "PALETTE COLOR", "MONOCHROME1", "nothing"),
        "RescaleSlope": (0, 1e38, -1e38, 1e-300),
        "RescaleIntercept": (1e38, -1e300),
        "PixelSpacing": ([0, 0], [-1, 1], [1e30, 1], [1e-30, 1]),
        "ImageOrientationPatient": ([0] * 6, [1, 0, 0, 1, 0, 0], [1e300] * 6),
        "ImagePositionPatient": ([1e300, -1e300, 1e300],),
        "SpacingBetweenSlices": (0, -1, 1e30),
        "InstanceNumber": (2**31 - 1, -(2**31)),
        "PixelData": (b"", b"\0" * 10, b"\0" * 10_000),
    }
    keywords = rng.choice(list(tags), int(rng.integers(1, 4)), replace=False)
    chosen = {keyword: tags[keyword][rng.integers(len(tags[keyword]))] for keyword in keywords}
    return "IM0001", phantoms.dicom(phantoms.noise(20, 20), **chosen)


def dicom_bomb(rng: Rng) -> Made:
    pixels = phantoms.noise(20, 20).astype(np.uint16)
    kind = rng.integers(7)
    if kind == 0:  # deflated
        content = phantoms.with_syntax("1.2.840.10008.1.2.1.99", pixels)
        return "deflated.dcm", content[: content.index(b"1.2.840.10008.1.2.1.99") + 22] + zeros(512 * MIB, -15)
    if kind == 1:  # a run of 128 zeros from two bytes, for ever
        frame = struct.pack("<16I", 2, 64, 20 * MIB, *[0] * 13) + b"\x81\0" * (20 * MIB)
        return "runs.dcm", compressed(pixels, frame, RLELossless)
    if kind == 2:  # a picture much larger than the tags say
        picture = io.BytesIO()
        Image.new("L", (9000, 9000)).save(picture, "JPEG2000", no_jp2=True)
        return "large.dcm", compressed(pixels, picture.getvalue(), JPEG2000Lossless)
    if kind == 3:  # sequences in sequences
        depth = int(rng.integers(100, 50_000))
        sequence = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
        return "deep.dcm", before_pixels(phantoms.dicom(pixels), sequence * depth)
    if kind == 4:  # a sequence of nothing but items
        items = b"\xfe\xff\x00\xe0\0\0\0\0" * int(rng.integers(10_000, 2_000_000))
        sequence = b"\x08\x00\x40\x11SQ\0\0" + struct.pack("<I", len(items)) + items
        return "items.dcm", before_pixels(phantoms.dicom(pixels), sequence)
    if kind == 5:  # tags without end
        return "tags.dcm", before_pixels(phantoms.dicom(pixels), b"\x09\x00\x10\x10LO\0\0" * 4 * MIB)
    # the tags once more behind the pixels, and larger
    again = b"\x28\x00\x10\x00US\x02\x00\xff\xff\x28\x00\x11\x00US\x02\x00\xff\xff"
    return "again.dcm", phantoms.run_length(pixels) + again


def compressed(pixels: np.ndarray, frame: bytes, syntax: str) -> bytes:
    data = phantoms.dataset(pixels, PixelData=encapsulate([frame]))
    data["PixelData"].is_undefined_length = True
    data.file_meta.TransferSyntaxUID = syntax
    return phantoms.written(data)


def before_pixels(content: bytes, elements: bytes) -> bytes:
    start = content.index(b"\xe0\x7f\x10\x00")
    return content[:start] + elements + content[start:]


# ----------------------------------------------------------------------------------------------------------- mutations


def scan_of_a_format(rng: Rng) -> Made:
    """A good file of one of twelve formats, eight of pictures."""
    formats = (*PICTURE_FORMATS, "nii", "nii.gz", "dcm", "zip")
    name = formats[rng.integers(len(formats))]
    voxels = phantoms.noise(20, 22, 4, seed=int(rng.integers(99)))
    if name in PICTURE_FORMATS:
        content = picture(rng, name, ("L", "RGB")[rng.integers(2)])
    elif name == "dcm":
        makers = (phantoms.dicom, phantoms.run_length, phantoms.jpeg_2000, enhanced)
        content = makers[rng.integers(len(makers))](voxels[..., 0].astype(np.uint16))
    elif name == "zip":
        content = zipped({f"{number}.png": picture(rng) for number in range(3)})
    else:
        content = phantoms.nifti(voxels, packed=name == "nii.gz")
    return f"scan.{name.lower()}", content


def mutated(rng: Rng) -> Made:
    """The same, damaged once or a few times."""
    name, content = scan_of_a_format(rng)
    for _ in range(int(rng.integers(1, 4))):
        content = damaged(rng, content) or content[:1]
    return name, content


KINDS: tuple[Callable[[Rng], Made], ...] = (
    *(
        damaged_picture,
        lying_array,
        odd_mode,
        picture_bomb,
        many_frames,
        lying_tiff,
        tiny_or_turned,
        wrong_type,
        polyglot,
    ),
    *(zip_bomb, bad_names, damaged_zip, zip_of_hostiles),
    *(damaged_nifti, lying_nifti, nifti_bomb),
    *(damaged_dicom, lying_dicom, dicom_bomb),
)


# ----------------------------------------------------------------------------------------------------------- amplifiers


def jpeg(before: bytes = b"", after: bytes = b"", side: int = 40, **options) -> bytes:
    """A grey JPEG with other segments before its first one, or after its pixels."""
    content = io.BytesIO()
    Image.fromarray(np.full((side, side), 99, np.uint8)).save(content, "JPEG", **options)
    content = content.getvalue()
    return content[:2] + before + content[2:-2] + after + content[-2:]


def segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


EMPTY_SCAN = segment(0xDA, b"\x01\x01\x00\x01\x3f\x00")  # of the first component


def exif(entries: int, size: int) -> bytes:
    """A directory of entries that all claim the same numbers of two bytes, in a picture that lies on its side."""
    lines = [struct.pack("<HHII", 0x112, 3, 1, 6)]
    lines += [struct.pack("<HHII", 1000 + number, 3, size // 2, 8) for number in range(entries)]
    directory = struct.pack("<H", len(lines)) + b"".join(lines) + bytes(4)
    return (b"II*\0\x08\0\0\0" + directory).ljust(size + 8, b"\0")


def table_of_pictures(entries: int, size: int) -> bytes:
    """Of the pictures behind the first one of a JPEG; its entries all claim the same numbers of two bytes."""
    return segment(0xE2, b"MPF\0" + exif(entries, size)[:65_000])


def tiff(*tags: tuple[int, int, int, int | None], data: bytes = b"", side: int = 16) -> bytes:
    """A TIFF with more tags (number, type, count, value), where None stands for the place of its data."""
    start = 8 + 2 + 12 * (8 + len(tags)) + 4
    usual = {256: side, 257: side, 258: 8, 259: 1, 262: 1, 273: start, 278: side, 279: side * side}
    lines = [(number, 4, 1, value) for number, value in usual.items() if number not in {tag[0] for tag in tags}]
    lines = sorted([*lines, *tags])
    packed = b"".join(struct.pack("<HHII", *line[:3], start if line[3] is None else line[3]) for line in lines)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(lines)) + packed + bytes(4) + data.ljust(side * side, b"\0")


def tiff_pages(count: int) -> bytes:
    page = 2 + 8 * 12 + 4
    end = 8 + count * page
    tags = {256: 16, 257: 16, 258: 8, 259: 1, 262: 1, 273: end, 278: 16, 279: 256}
    packed = struct.pack("<H", 8) + b"".join(struct.pack("<HHII", *(number, 4, 1, tags[number])) for number in tags)
    following = [8 + number * page for number in range(1, count)] + [0]
    return b"II*\0\x08\0\0\0" + b"".join(packed + struct.pack("<I", place) for place in following) + bytes(256)


def tiff_of_nested_tags(count: int, size: int) -> bytes:
    """The entries lie in the directory of its EXIF data, which is read when the pixels have been."""
    start = len(tiff((34665, 4, 1, 0)))
    nested = struct.pack("<H", count) + b"".join(struct.pack("<HHII", 1000 + n, 1, size, 8) for n in range(count))
    return tiff((34665, 4, 1, start)) + nested + bytes(4 + size)


def gif_comments(count: int, after: bool = False) -> bytes:
    """A chain of full comment blocks, before or after the picture."""
    content = io.BytesIO()
    Image.new("L", (40, 40)).save(content, "GIF")
    content = content.getvalue()
    place = len(content) - 1 if after else content.index(b",", 13)
    return content[:place] + b"!\xfe" + (b"\xff" + b"A" * 255) * count + b"\0" + content[place:]


def png_of(*chunks: bytes, after: bool = False) -> bytes:
    """Chunks in a black picture of 40 × 40 pixels, before or after its pixels."""
    data = zlib.compress(bytes(41 * 40))
    if not after:
        return png(40, 40, data, *chunks)
    return png(40, 40, data)[:-12] + b"".join(chunks) + png_chunk(b"IEND", b"")


def raw_profile(content: bytes) -> bytes:
    """EXIF data as text, as some programs write them into a PNG."""
    text = f"\nexif\n{len(content):8}\n{content.hex()}".encode()
    return png_chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text))


def webp_exif(content: bytes) -> bytes:
    picture = io.BytesIO()
    Image.new("RGB", (40, 40)).save(picture, "WEBP", exif=EXIF_MARK + content)
    return picture.getvalue()


def run_length_bmp(side: int) -> bytes:
    """A run of one pixel after another, which are decoded in Python."""
    header = struct.pack("<IIIHHIIIIII", 40, side, side, 1, 8, 1, 0, 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 54 + 1024) + header + bytes(1024) + b"\x01\x07" * side**2


def claiming_dicoms(count: int, frames: int) -> bytes:
    return zipped({f"{n}.dcm": phantoms.dicom(phantoms.noise(20, 20), NumberOfFrames=frames) for n in range(count)})


def compressed_claims(count: int, frames: int) -> bytes:
    """Frames so short that the files are long enough for them."""
    pixels = phantoms.noise(20, 20).astype(np.uint16)
    data = phantoms.dataset(pixels, NumberOfFrames=frames, PixelData=encapsulate([b"\0\0"] * frames))
    data["PixelData"].is_undefined_length = True
    data.file_meta.TransferSyntaxUID = RLELossless
    return zipped({f"{n}.dcm": phantoms.written(data) for n in range(count)})


def dicoms_of_items(count: int, items: int) -> bytes:
    """Items in a sequence that has to be read."""
    content = b"\xfe\xff\x00\xe0\0\0\0\0" * items
    sequence = b"\x00\x52\x30\x92SQ\0\0" + struct.pack("<I", len(content)) + content
    one = before_pixels(phantoms.dicom(phantoms.noise(20, 20)), sequence)
    padding = np.random.default_rng(0).bytes(2 * MIB)
    return zipped({"padding": padding, **{f"{number}.dcm": one for number in range(count)}})


def dicom_of_scans(count: int) -> bytes:
    pixels = np.full((512, 512), 99, np.uint16).astype(np.uint8)
    return compressed(pixels, jpeg(after=EMPTY_SCAN * count, side=512, progressive=True), JPEGBaseline8Bit)


def tiff_archive(count: int) -> bytes:
    """Each file alone takes a good part of a second."""
    numbers = struct.pack("<II", 3, 7) * (60 * 1024 // 8)
    one = tiff((282, 5, len(numbers) // 8, None), (283, 5, len(numbers) // 8, None), data=numbers, side=60)
    return zipped({"padding": np.random.default_rng(0).bytes(2 * MIB), **{f"{n}.tif": one for n in range(count)}})


EXIF_MARK = b"Exif\0\0"
# What each of them is, and how it is made.
AMPLIFIERS: dict[str, Callable[[], bytes]] = {
    "scans.jpg": lambda: jpeg(after=EMPTY_SCAN * 20_000, side=2048, progressive=True),
    "exif-segments.jpg": lambda: jpeg(segment(0xE1, EXIF_MARK + bytes(65_500)) * 1000),
    "markers.jpg": lambda: jpeg(segment(0xE5, b"") * 8 * MIB),
    "junk.jpg": lambda: jpeg(segment(0xE5, b"") + bytes(100 * MIB)),
    "exif-entries.jpg": lambda: jpeg(segment(0xE1, EXIF_MARK + exif(5000, 65_000))),
    "pictures.jpg": lambda: jpeg(table_of_pictures(5000, 60_000)),
    "comments.gif": lambda: gif_comments(32_000),
    "comments-after.gif": lambda: gif_comments(32_000, after=True),
    "pages.tif": lambda: tiff_pages(60_000),
    "rationals.tif": lambda: tiff((282, 5, 4 * MIB, None), (283, 5, 4 * MIB, None), data=b"\x01\0\0\0" * 8 * MIB),
    "tags.tif": lambda: tiff(*((1000 + n, 1, 10 * MIB, None) for n in range(20_000)), data=bytes(10 * MIB)),
    "nested-tags.tif": lambda: tiff_of_nested_tags(20_000, 10 * MIB),
    "strips.tif": lambda: tiff((273, 4, 4 * MIB, 8), data=bytes(16 * MIB)),
    "chunks.png": lambda: png_of(*[png_chunk(b"prVt", b"")] * 8 * MIB),
    "chunks-after.png": lambda: png_of(*[png_chunk(b"prVt", b"")] * 8 * MIB, after=True),
    "empty-pixels.png": lambda: png_of(*[png_chunk(b"IDAT", b"")] * 8 * MIB),
    "exif.png": lambda: png_of(png_chunk(b"eXIf", exif(60_000, MIB))),
    "exif-entries.png": lambda: png_of(png_chunk(b"eXIf", exif(5000, 64_000))),
    "exif-text.png": lambda: png_of(raw_profile(exif(40_000, 500_000))),
    "exif.webp": lambda: webp_exif(exif(60_000, MIB)),
    "runs.bmp": lambda: run_length_bmp(7900),
    "claims.zip": lambda: claiming_dicoms(1000, 2048),
    "compressed-claims.zip": lambda: compressed_claims(40, 2048),
    "items.zip": lambda: dicoms_of_items(800, 49_000),
    "scans.dcm": lambda: dicom_of_scans(60_000),
    "tiffs.zip": lambda: tiff_archive(480),
}


# ---------------------------------------------------------------------------------------------------------------- files


def hostile_file(seed: int) -> Made:
    """The name and the bytes of one hostile file; the kinds take turns."""
    return KINDS[seed % len(KINDS)](np.random.default_rng(seed))


def write_file(folder: Path, made: Made) -> Path:
    name, content = made
    path = folder / name.replace(os.sep, "_")
    path.write_bytes(content)
    return path
