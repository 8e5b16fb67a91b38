"""A fixed sample of hostile files: every door lets each in or refuses it in one sentence."""

from pathlib import Path

import pytest
from hostile import KINDS, hostile_file, knock, write_hostile_file


# Two of every kind. Bombs take seconds: all of them are tried by `python -m benchmarks.hostile`.
BOMBS = ("picture_bomb", "nifti_bomb", "dicom_bomb", "zip_bomb", "many_frames")
SAMPLE = [seed for seed in range(2 * len(KINDS)) if KINDS[seed % len(KINDS)].__name__ not in BOMBS]


@pytest.mark.filterwarnings("ignore")  # Pillow's, about odd files
@pytest.mark.parametrize("seed", SAMPLE, ids=lambda seed: f"{seed}-{KINDS[seed % len(KINDS)].__name__}")
def test_hostile_file_is_let_in_or_refused_in_one_sentence(tmp_path: Path, seed: int):
    knock(write_hostile_file(tmp_path, seed))


def test_hostile_files_repeat():
    for seed in SAMPLE[:8]:
        assert hostile_file(seed) == hostile_file(seed)
