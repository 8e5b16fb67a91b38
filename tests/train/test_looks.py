"""Slices that were trained on are recognised at another size, and those of other people are not."""

import cv2
import numpy as np
import pytest
from surroundings import ROOT

from modeling_unet import read_image, read_mask
from train.data.raw import RawSlice
from train.data.slices import examine
from train.looks import look_of, recognize


EXAMPLES = sorted((ROOT / "examples" / "images").glob("*.png"))
METHODS = {"nearest": cv2.INTER_NEAREST, "area": cv2.INTER_AREA, "linear": cv2.INTER_LINEAR}


def look(image: np.ndarray, mask: np.ndarray, folder) -> str:
    """As the scan gives it for two files."""
    pictures = []
    for kind, pixels in (("image", image), ("mask", mask.astype(np.uint8))):
        cv2.imwrite(str(folder / f"{kind}.png"), pixels)
        pictures.append({"path": str(folder / f"{kind}.png"), "bytes": None})
    row = examine(RawSlice("1", *pictures))
    assert not row["problem"]
    return row["look"]


@pytest.fixture(scope="module")
def slices() -> list[tuple[np.ndarray, np.ndarray]]:
    return [(read_image(path), read_mask(ROOT / "examples" / "masks" / path.name)) for path in EXAMPLES]


@pytest.fixture(scope="module")
def known(slices, tmp_path_factory) -> list[str]:
    return [look(*pair, tmp_path_factory.mktemp("looks")) for pair in slices]


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize("side", [384, 256, 128])
@pytest.mark.slow
def test_resized_slices_are_recognised_by_their_own_look_alone(side, method, slices, known, tmp_path):
    for index, (image, mask) in enumerate(slices):
        small = cv2.resize(image, (side, side), interpolation=method)
        small_mask = cv2.resize(mask.astype(np.float32), (side, side), interpolation=method) >= 0.5
        own = look(small, small_mask, tmp_path)
        found = [recognize([own], [other]) for other in known]
        assert found == [[other == index] for other in range(len(known))]


def test_another_mask_on_the_same_image_is_not_recognised(slices, known, tmp_path):
    image, mask = slices[0]
    assert recognize([look(image, np.roll(mask, 4, axis=1), tmp_path)], known) == [False]
    assert recognize([look(image, np.roll(mask, 0, axis=1), tmp_path)], known) == [True]


def test_the_same_mask_on_another_image_is_not_recognised(slices, known, tmp_path):
    assert recognize([look(slices[1][0][:, ::-1], slices[0][1], tmp_path)], known) == [False]


def test_slices_without_tumour_have_no_look():
    assert look_of(np.zeros((32, 32), np.uint8), np.zeros((64, 64), bool)) == ""
    assert recognize(["", ""], ["", ""]) == recognize(["", ""], []) == [False, False]
