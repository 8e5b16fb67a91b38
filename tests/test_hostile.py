"""A fixed sample of hostile files: every door lets each in or refuses it in one sentence, and soon."""

from pathlib import Path

import numpy as np
import pytest
from hostile import AMPLIFIERS, KINDS, hostile_file, knock, mutated, write_file

from benchmarks.hostile import MAX_MIB, MAX_SECONDS, try_file


# Two of every kind. Bombs take seconds: all of them are tried by `python -m benchmarks.hostile`.
BOMBS = ("picture_bomb", "nifti_bomb", "dicom_bomb", "zip_bomb", "many_frames")
SAMPLE = [seed for seed in range(2 * len(KINDS)) if KINDS[seed % len(KINDS)].__name__ not in BOMBS]
MUTATIONS = 40


@pytest.mark.filterwarnings("ignore")  # Pillow's, about odd files
@pytest.mark.parametrize("seed", SAMPLE, ids=lambda seed: f"{seed}-{KINDS[seed % len(KINDS)].__name__}")
def test_hostile_file_is_let_in_or_refused_in_one_sentence(tmp_path: Path, seed: int):
    knock(write_file(tmp_path, hostile_file(seed)))


@pytest.mark.filterwarnings("ignore")
def test_mutated_files_are_let_in_or_refused_in_one_sentence(tmp_path: Path):
    for seed in range(MUTATIONS):
        knock(write_file(tmp_path, mutated(np.random.default_rng(seed))))


def test_hostile_files_repeat():
    for seed in SAMPLE[:8]:
        assert hostile_file(seed) == hostile_file(seed)


@pytest.mark.parametrize("name", AMPLIFIERS)
def test_files_that_cost_minutes_or_gigabytes_are_answered_soon(tmp_path: Path, name: str):
    result = try_file(write_file(tmp_path, (name, AMPLIFIERS[name]())))
    assert not result.problem, f"{result}; allowed are {MAX_SECONDS} s and {MAX_MIB} MiB"
