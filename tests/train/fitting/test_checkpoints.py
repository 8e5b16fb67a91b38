import logging
import re
from pathlib import Path

import pytest

from train.fitting.checkpoints import find_newest_intact, seal


@pytest.fixture
def run(tmp_path) -> Path:
    for step in (9, 10, 100):
        checkpoint = tmp_path / f"checkpoint-{step}"
        checkpoint.mkdir()
        (checkpoint / "model.safetensors").write_bytes(bytes([step]) * 50)
        (checkpoint / "trainer_state.json").write_text("{}")
        seal(checkpoint)
    return tmp_path


def test_the_newest_is_the_one_of_most_steps(run):
    assert find_newest_intact(run) == run / "checkpoint-100"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\x64" * 49), "model.safetensors changed"),
        (
            lambda folder: (folder / "model.safetensors").write_bytes(b"\x64" * 49 + b"0"),
            "model.safetensors changed",
        ),
        (lambda folder: (folder / "trainer_state.json").unlink(), "trainer_state.json changed .* or went missing"),
        (lambda folder: (folder / "checksums.json").unlink(), "it was not finished"),
        (lambda folder: (folder / "checksums.json").write_text('{"model'), "it was not finished"),
    ],
    ids=["truncated", "flipped", "missing", "unsealed", "half a seal"],
)
def test_a_damaged_one_is_set_aside_and_said(run, damage, said, caplog):
    damage(run / "checkpoint-100")
    with caplog.at_level(logging.WARNING):
        assert find_newest_intact(run) == run / "checkpoint-10"
    assert caplog.records and re.search(f"checkpoint-100 is damaged: .*{said}", caplog.text)
    assert (run / "damaged-checkpoint-100").is_dir() and not (run / "checkpoint-100").exists()


@pytest.mark.parametrize("place", [lambda path: path.write_bytes(b"pickle"), Path.mkdir], ids=["file", "folder"])
def test_what_was_not_written_there_is_refused_and_nothing_renamed(run, place):
    """The Trainer reads some names wherever it finds them, pickles among them."""
    (run / "checkpoint-100" / ".DS_Store").write_bytes(b"of a file browser")
    assert find_newest_intact(run) == run / "checkpoint-100"
    place(run / "checkpoint-100" / "pytorch_model_fsdp.bin")
    said = r"checkpoint-100 holds pytorch_model_fsdp\.bin, which the training did not write there; take it away"
    with pytest.raises(ValueError, match=said):
        find_newest_intact(run)
    assert sorted(path.name for path in run.iterdir()) == ["checkpoint-10", "checkpoint-100", "checkpoint-9"]


def test_damaged_ones_of_one_name_do_not_replace_each_other(run):
    (run / "damaged-checkpoint-100").mkdir()
    (run / "checkpoint-100" / "checksums.json").unlink()
    find_newest_intact(run)
    assert (run / "damaged-checkpoint-100-2" / "model.safetensors").is_file()


def test_where_none_is_whole_there_is_none(run, tmp_path):
    for path in run.glob("checkpoint-*/checksums.json"):
        path.unlink()
    assert find_newest_intact(run) is None
    assert find_newest_intact(tmp_path / "nowhere") is None


def test_other_folders_are_left_alone(run):
    (run / "checkpoint-best").mkdir()
    assert find_newest_intact(run) == run / "checkpoint-100"
    assert (run / "checkpoint-best").is_dir()
