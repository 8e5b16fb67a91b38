"""Small made-up scans as the bytes of NIfTI and DICOM files."""

import base64
import gzip
import io
import tempfile
from functools import cache
from pathlib import Path

import gdcm
import nibabel as nib
import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import compress
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless, MRImageStorage, RLELossless, generate_uid
from pydicom.uid import ExplicitVRLittleEndian as Uncompressed


SERIES = "1.2.826.0.1.3680043.8.498.1"
OTHER_SERIES = "1.2.826.0.1.3680043.8.498.2"
# What no output may show.
SECRETS = {
    "PatientName": "Kowalska^Zofia",
    "PatientID": "KZ-778812",
    "PatientBirthDate": "19530211",
    "StudyDate": "20210304",
    "SeriesDate": "20210305",
    "AcquisitionDateTime": "20210306101112",
    "InstitutionName": "Klinika Wroclaw",
    "StudyInstanceUID": "1.2.826.0.1.3680043.8.498.777001",
    "SOPInstanceUID": "1.2.826.0.1.3680043.8.498.777002",
    "FrameOfReferenceUID": "1.2.826.0.1.3680043.8.498.777003",
}
# A ramp from the lowest to the highest value of some bits, written by OpenJPH 0.26.3 (reversible), as nothing that is
# installed here writes HTJ2K; of those of 12 bits the header was edited afterwards.
HTJ2K_FRAMES = {
    "uint8": (
        "/0//UQApQAAAAAASAAAAEAAAAAAAAAAAAAAAEgAAABAAAAAAAAAAAAABBwEB/1AACAACAAAAAv9SAAwAAgABAAUEBEAB/1wAEyBIUFBQUF"
        "BQUFBQUFBQSEhI/2QAFwABT3BlbkpQSCBWZXIgMC4yNi4zLv+QAAoAAAAAAIIAAf+TwCXdAId0AMASgPoAx3QAoAngCMAiRf4AYjQAAGMA"
        "wBJAFVAEgOAUcwAASEjIAAAAdJYA/gBjAMASQBWg/NDTAIxGw2j8QIjCECUuSADAKuAWhAJQAADlugvQj1s3GQC8u7u7+/eAMj5Pfvk9lm"
        "sA/vvgZAD/2Q=="
    ),
    "int8": (
        "/0//UQApQAAAAAASAAAAEAAAAAAAAAAAAAAAEgAAABAAAAAAAAAAAAABhwEB/1AACAACAAAAAv9SAAwAAgABAAUEBEAB/1wAEyBIUFBQUF"
        "BQUFBQUFBQSEhI/2QAFwABT3BlbkpQSCBWZXIgMC4yNi4zLv+QAAoAAAAAAIIAAf+TwCXdAId0AMASgPoAx3QAoAngCMAiRf4AYjQAAGMA"
        "wBJAFVAEgOAUcwAASEjIAAAAdJYA/gBjAMASQBWg/NDTAIxGw2j8QIjCECUuSADAKuAWhAJQAADlugvQj1s3GQC8u7u7+/eAMj5Pfvk9lm"
        "sA/vvgZAD/2Q=="
    ),
    "uint16": (
        "/0//UQApQAAAAAASAAAAEAAAAAAAAAAAAAAAEgAAABAAAAAAAAAAAAABDwEB/1AACAACAAAACv9SAAwAAgABAAUEBEAB/1wAEyCIkJCQkJ"
        "CQkJCQkJCQiIiI/2QAFwABT3BlbkpQSCBWZXIgMC4yNi4zLv+QAAoAAAAAAOYAAf+TwAAm694Eh3QAwAATAMD8A4d0AMAAEsAAFSDpAAd0"
        "AIAlBUv+AWI0AMAAE8AAFdAABIAh3PwAArQAAABBSUBJQMkAQgB0lgD8AeMAwAAVUAAFtQAATOYb4OZ9rwBENgAAAABCAAAfRAAAQnyQAA"
        "AQ8iRmlIAsdhoZAAMAbG2FAMAALdgABdJAACtAAGNjgGwcIBsHxsgAf9vsc36szNv8t3kYv2sDEgEAoAFqgBxAA9QAHEADBAAaIAf4RQI0"
        "IAl+0IAltewIwIlbEQGAgABo1gGt05wMSdsA/9k="
    ),
    "int16": (
        "/0//UQApQAAAAAASAAAAEAAAAAAAAAAAAAAAEgAAABAAAAAAAAAAAAABjwEB/1AACAACAAAACv9SAAwAAgABAAUEBEAB/1wAEyCIkJCQkJ"
        "CQkJCQkJCQiIiI/2QAFwABT3BlbkpQSCBWZXIgMC4yNi4zLv+QAAoAAAAAAOYAAf+TwAAm694Eh3QAwAATAMD8A4d0AMAAEsAAFSDpAAd0"
        "AIAlBUv+AWI0AMAAE8AAFdAABIAh3PwAArQAAABBSUBJQMkAQgB0lgD8AeMAwAAVUAAFtQAATOYb4OZ9rwBENgAAAABCAAAfRAAAQnyQAA"
        "AQ8iRmlIAsdhoZAAMAbG2FAMAALdgABdJAACtAAGNjgGwcIBsHxsgAf9vsc36szNv8t3kYv2sDEgEAoAFqgBxAA9QAHEADBAAaIAf4RQI0"
        "IAl+0IAltewIwIlbEQGAgABo1gGt05wMSdsA/9k="
    ),
    "uint12": (
        "/0//UQApQAAAAAASAAAAEAAAAAAAAAAAAAAAEgAAABAAAAAAAAAAAAABCwEB/1AACAACAAAACv9SAAwAAgABAAUEBEAB/1wAEyCIkJCQkJ"
        "CQkJCQkJCQiIiI/2QAFwABT3BlbkpQSCBWZXIgMC4yNi4zLv+QAAoAAAAAAMcAAf+TwAAm6f0Ch3QAwAASgMwBh3QAwAARwAAVAABjAFaS"
        "Sv4A4jQAwAASQAAVkAAEgP4McwAmaRIAoOQAIQDnVgD4HXMAwAATwAAWtAABMNj+Blb7xQAAAQQpSEEAIEgABPkAozKUC3qpX7oAKh30r7"
        "UAwAAteAAFuwAArBQrlAOqwPoAX4Nqb/ReHX55oy/MiSABAAACCABAAAAABAAggIBBGQgEv2QgEpcExALJgAEA/EEAG1QOwaEIKgD/2Q=="
    ),
    "int12": (
        "/0//UQApQAAAAAASAAAAEAAAAAAAAAAAAAAAEgAAABAAAAAAAAAAAAABiwEB/1AACAACAAAACv9SAAwAAgABAAUEBEAB/1wAEyCIkJCQkJ"
        "CQkJCQkJCQiIiI/2QAFwABT3BlbkpQSCBWZXIgMC4yNi4zLv+QAAoAAAAAAMcAAf+TwAAm6f0Ch3QAwAASgMwBh3QAwAARwAAVAABjAFaS"
        "Sv4A4jQAwAASQAAVkAAEgP4McwAmaRIAoOQAIQDnVgD4HXMAwAATwAAWtAABMNj+Blb7xQAAAQQpSEEAIEgABPkAozKUC3qpX7oAKh30r7"
        "UAwAAteAAFuwAArBQrlAOqwPoAX4Nqb/ReHX55oy/MiSABAAACCABAAAAABAAggIBBGQgEv2QgEpcExALJgAEA/EEAG1QOwaEIKgD/2Q=="
    ),
}
BRAIN, SKIN, TUMOR = 300, 350, 1000
# (direction of growing columns, of growing rows) towards left, posterior, superior
ORIENTATIONS = {
    "axial": ((1, 0, 0), (0, 1, 0)),
    "coronal": ((1, 0, 0), (0, 0, -1)),
    "sagittal": ((0, 1, 0), (0, 0, -1)),
}


@cache
def head(sizes: tuple[float, float, float], skull: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """A head of 150 × 190 × 160 mm in voxels of these sizes (right, anterior, superior), and its tumour, bool."""
    shape = [round(mm / size) for mm, size in zip((180, 216, 192), sizes, strict=True)]
    places = np.stack([index * size for index, size in zip(np.indices(shape), sizes, strict=True)], axis=-1)
    away = places - np.array([length * size / 2 for length, size in zip(shape, sizes, strict=True)])
    radius = np.linalg.norm(away / (75, 95, 80), axis=-1)
    voxels = np.zeros(shape, np.int16)
    if skull:
        voxels[radius < 1] = SKIN
        voxels[radius < 0.92] = 20
    voxels[radius < 0.84] = BRAIN
    tumor = (np.abs(away - (30, -20, 12)) < (13, 19, 16)).all(axis=-1)
    voxels[tumor] = TUMOR
    return voxels, tumor


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 1000, shape).astype(np.int16)


def nifti(voxels: np.ndarray, affine: np.ndarray | None = None, packed: bool = True, edit=None) -> bytes:
    """A NIfTI-1 file; `edit` changes its header before it is written."""
    content = nib.Nifti1Image(voxels, np.diag([0.5, 0.5, 5.0, 1.0]) if affine is None else affine).to_bytes()
    if edit:
        header = nib.Nifti1Header(content[:348], check=False)
        edit(header)
        content = header.binaryblock + content[348:]
    return gzip.compress(content, mtime=0) if packed else content


def dicom(pixels: np.ndarray, number: int = 1, **tags) -> bytes:
    """One axial slice of a T1-weighted series with contrast, or several frames; a tag of None is left out."""
    return written(dataset(pixels, number, **tags))


def dataset(pixels: np.ndarray, number: int = 1, **tags) -> Dataset:
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = Uncompressed
    data.SOPClassUID = MRImageStorage
    usual = {
        "Modality": "MR",
        "SeriesDescription": "T1 SE +C",
        "ContrastBolusAgent": "Gadovist",
        "SeriesInstanceUID": SERIES,
        "InstanceNumber": number,
        "ImageOrientationPatient": list(np.ravel(ORIENTATIONS["axial"])),
        "ImagePositionPatient": [-10.0, -20.0, 6.0 * number],
        "PixelSpacing": [0.5, 0.75],
        "SliceThickness": 5.0,
        "SpacingBetweenSlices": 6.0,
        "PhotometricInterpretation": "MONOCHROME2",
        "SamplesPerPixel": 1,
        "Rows": pixels.shape[-2],
        "Columns": pixels.shape[-1],
        "BitsAllocated": 8 * pixels.dtype.itemsize,
        "BitsStored": 8 * pixels.dtype.itemsize,
        "HighBit": 8 * pixels.dtype.itemsize - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
        "NumberOfFrames": len(pixels) if pixels.ndim == 3 else None,
        "PixelData": pixels.tobytes(),
    }
    for keyword, value in {**SECRETS, **usual, **tags}.items():
        if value is not None:
            setattr(data, keyword, value)
    return data


def enhanced(pixels: np.ndarray, positions: list[float], slopes: list[float]) -> bytes:
    """An enhanced multi-frame image: places and slopes by frame, everything else shared."""
    plain = (
        "ImageOrientationPatient",
        "ImagePositionPatient",
        "PixelSpacing",
        "SliceThickness",
        "SpacingBetweenSlices",
    )
    data = dataset(pixels, **dict.fromkeys(plain))
    data.SharedFunctionalGroupsSequence = [
        _item(
            PlaneOrientationSequence=[_item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
            PixelMeasuresSequence=[_item(PixelSpacing=[0.5, 0.5], SliceThickness=4)],
        )
    ]
    data.PerFrameFunctionalGroupsSequence = [
        _item(
            PlanePositionSequence=[_item(ImagePositionPatient=[0, 0, position])],
            PixelValueTransformationSequence=[_item(RescaleSlope=slope, RescaleIntercept=0)],
        )
        for position, slope in zip(positions, slopes, strict=True)
    ]
    return written(data)


def run_length(pixels: np.ndarray, number: int = 1) -> bytes:
    data = dataset(pixels, number)
    compress(data, RLELossless, generate_instance_uid=False)
    return written(data)


def jpeg_2000(pixels: np.ndarray, number: int = 1) -> bytes:
    frame = io.BytesIO()
    Image.fromarray(pixels).save(frame, "JPEG2000", irreversible=False, no_jp2=True)
    data = dataset(pixels, number, PixelData=encapsulate([frame.getvalue()]))
    data["PixelData"].is_undefined_length = True
    data.file_meta.TransferSyntaxUID = JPEG2000Lossless
    return written(data)


def htj2k(kind: str, syntax: str) -> tuple[bytes, np.ndarray]:
    """A file with one of `HTJ2K_FRAMES`, and its pixels, [16, 18]."""
    bits = int(kind.strip("uint"))
    lowest = 0 if kind.startswith("u") else -(1 << bits - 1)
    ramp = np.linspace(lowest, lowest + (1 << bits) - 1, 16 * 18).round().reshape(16, 18)
    pixels = ramp.astype(f"{kind.rstrip('0123456789')}{8 if bits == 8 else 16}")
    frame = encapsulate([base64.b64decode(HTJ2K_FRAMES[kind])])
    data = dataset(pixels, BitsStored=bits, HighBit=bits - 1, PixelData=frame)
    data["PixelData"].is_undefined_length = True
    data.file_meta.TransferSyntaxUID = syntax
    return written(data), pixels


def jpeg_lossless(pixels: np.ndarray, number: int = 1) -> bytes:
    return _by_gdcm(pixels, number, gdcm.TransferSyntax.JPEGLosslessProcess14_1)


def jpeg_lossless_of_any_predictor(pixels: np.ndarray, number: int = 1) -> bytes:
    return _by_gdcm(pixels, number, gdcm.TransferSyntax.JPEGLosslessProcess14)


def jpeg_ls(pixels: np.ndarray, number: int = 1) -> bytes:
    return _by_gdcm(pixels, number, gdcm.TransferSyntax.JPEGLSLossless)


def jpeg_of_12_bits(pixels: np.ndarray, number: int = 1) -> bytes:
    return _by_gdcm(pixels, number, gdcm.TransferSyntax.JPEGExtendedProcess2_4, BitsStored=12, HighBit=11)


def _by_gdcm(pixels: np.ndarray, number: int, syntax: int, **tags) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        plain, packed = Path(folder, "plain"), Path(folder, "packed")
        plain.write_bytes(dicom(pixels, number, **tags))
        reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
        reader.SetFileName(str(plain))
        assert reader.Read()
        change.SetTransferSyntax(gdcm.TransferSyntax(syntax))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer.SetFileName(str(packed))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
        return packed.read_bytes()


def deflated(pixels: np.ndarray, number: int = 1) -> bytes:
    data = dataset(pixels, number)
    data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    return written(data)


def with_syntax(syntax: str, pixels: np.ndarray) -> bytes:
    """A file that says its pixels are written in some way, with rubbish for pixels."""
    data = dataset(pixels, PixelData=encapsulate([b"rubbish!"]))
    data["PixelData"].is_undefined_length = True
    data.file_meta.TransferSyntaxUID = JPEG2000Lossless
    # pydicom itself does not write some of them.
    return written(data).replace(JPEG2000Lossless.encode(), syntax.ljust(len(JPEG2000Lossless), "\0").encode())


def written(data: Dataset) -> bytes:
    content = io.BytesIO()
    data.file_meta.MediaStorageSOPClassUID = MRImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.get("SOPInstanceUID") or generate_uid()
    data.save_as(content, enforce_file_format=True)
    return content.getvalue()


def series(
    folder: Path, voxels: np.ndarray, plane: str = "axial", start: float = 0.0, gap: float = 6.0, **tags
) -> Path:
    """`voxels` [N, H, W] as one file each, N along the normal of the plane, named in an order that means nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    columns, rows = ORIENTATIONS[plane]
    normal = np.cross(columns, rows)
    for place in range(len(voxels)):
        position = normal * (start + gap * place)
        content = dicom(
            voxels[place],
            number=place + 1,
            **{
                "ImageOrientationPatient": [*columns, *rows],
                "ImagePositionPatient": position.tolist(),
                "SpacingBetweenSlices": gap,
                **tags,
            },
        )
        (folder / f"{(place * 7) % len(voxels):03d}").write_bytes(content)
    return folder


def _item(**tags) -> Dataset:
    item = Dataset()
    for keyword, value in tags.items():
        setattr(item, keyword, value)
    return item
