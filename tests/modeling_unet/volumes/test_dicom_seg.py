"""DICOM segmentation objects: the mask at the slices that it belongs to, as highdicom reads it."""

import io
from pathlib import Path

import highdicom
import numpy as np
import phantoms
import pytest
from phantoms import noise
from pydicom import dcmread

from modeling_unet.volumes import VolumeError, read_volume


UID = "1.2.826.0.1.3680043.8.498.5"


def write_series(folder: Path, numbers=(1, 2, 3, 4), **tags) -> Path:
    folder.mkdir()
    for number in numbers:
        own = {"SOPInstanceUID": f"{UID}.{number}", "FrameOfReferenceUID": UID, **tags}
        (folder / f"{9 - number}.dcm").write_bytes(phantoms.dicom(noise(20, 24, seed=number), number, **own))
    return folder


def random_mask(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).random(shape) > 0.5


def written(content: bytes) -> highdicom.seg.Segmentation:
    return highdicom.seg.segread(io.BytesIO(content))


@pytest.mark.parametrize("plane", list(phantoms.ORIENTATIONS))
def test_every_slice_of_the_mask_belongs_to_the_file_that_it_was_made_from(tmp_path, plane):
    directions = phantoms.ORIENTATIONS[plane]
    normal = np.cross(*directions)
    (tmp_path / "in").mkdir()
    for number in range(1, 5):
        tags = {
            "ImageOrientationPatient": list(np.ravel(directions)),
            "ImagePositionPatient": [*(6.0 * number * normal)],
            "SOPInstanceUID": f"{UID}.{number}",
        }
        (tmp_path / "in" / f"{number}").write_bytes(phantoms.dicom(noise(20, 24, seed=number), number, **tags))
    volume = read_volume(tmp_path / "in")
    content = volume.to_dicom_seg(volume.slices > 500)
    uids = [f"{UID}.{number}" for number in range(1, 5)]
    found = written(content).get_pixels_by_source_instance(uids, combine_segments=True)
    expected = [noise(20, 24, seed=number) > 500 for number in range(1, 5)]
    np.testing.assert_array_equal(found, expected)


def test_it_names_the_person_as_the_files_do_and_what_made_it(tmp_path):
    volume = read_volume(write_series(tmp_path / "in"))
    tags = dcmread(io.BytesIO(volume.to_dicom_seg(random_mask(volume.slices.shape))))
    assert tags.PatientID == phantoms.SECRETS["PatientID"]
    assert tags.StudyInstanceUID == phantoms.SECRETS["StudyInstanceUID"]
    assert tags.Modality == "SEG" and tags.SeriesInstanceUID != phantoms.SERIES
    (segment,) = tags.SegmentSequence
    assert segment.SegmentLabel == "Tumour" and segment.SegmentAlgorithmType == "AUTOMATIC"


def test_a_missing_slice_belongs_to_no_file(tmp_path):
    volume = read_volume(write_series(tmp_path / "in", numbers=(1, 2, 4, 5)))
    assert len(volume.slices) == 5 and volume.frames[2] is None
    seg = written(volume.to_dicom_seg(np.ones(volume.slices.shape, bool)))
    assert seg.NumberOfFrames == 4


def test_an_empty_mask_is_written_too(tmp_path):
    volume = read_volume(write_series(tmp_path / "in"))
    assert not written(volume.to_dicom_seg(np.zeros(volume.slices.shape, bool))).pixel_array.any()


def test_what_has_no_files_or_too_few_tags_is_refused(tmp_path):
    (tmp_path / "scan.nii").write_bytes(phantoms.nifti(noise(20, 24, 3), packed=False))
    volume = read_volume(tmp_path / "scan.nii")
    with pytest.raises(VolumeError, match="this volume does not come from any"):
        volume.to_dicom_seg(random_mask(volume.slices.shape))
    volume = read_volume(write_series(tmp_path / "in", StudyInstanceUID=None))
    with pytest.raises(VolumeError, match="The DICOM files lack tags that a DICOM-SEG needs") as refusal:
        volume.to_dicom_seg(random_mask(volume.slices.shape))
    assert not any(secret in str(refusal.value) for secret in phantoms.SECRETS.values())
