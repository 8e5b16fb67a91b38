"""A lab's way from folders of NIfTI volumes to a trained network, as docs/train.md walks it."""

import json
import logging
import re
from pathlib import Path

import numpy as np
import pytest
from labs import AFFINE, draw_head, write_brats
from surroundings import ROOT
from tiny import TINY

from modeling_unet import TumorSegmenter
from modeling_unet.volumes import read_volume
from train.__main__ import main
from train.data.prepare import prepare
from train.data.raw import as_file
from train.data.slices import DataArguments, load_slices
from train.hub.staging import stage_dataset


GUIDE = ROOT / "docs" / "train.md"
PERSONS = 10
MASKS = ["--tumor_labels", "1", "2", "4"]
SHARE = ["--negative_share", "0.3"]
NETWORK = ["--architecture", "resnet34", "--config", json.dumps(TINY), "--image_size", "32", "--bf16", "false"]
SCHEDULE = ["--num_train_epochs", "2", "--dataloader_num_workers", "0", "--disable_tqdm", "true"]


@pytest.fixture(scope="module")
def desk(tmp_path_factory) -> Path:
    """A folder with `BRATS`, ten heads in the layout of BraTS."""
    desk = tmp_path_factory.mktemp("desk")
    write_brats(desk / "BRATS", PERSONS)
    return desk


def typed(command: str) -> list[tuple[list[str], str]]:
    """Every line of the guide that types a command on BRATS, and what is shown below its block."""
    fenced = re.compile(r"^```bash\n(python -m train [^`]*)^```\n\n```text\n([^`]*)^```", re.MULTILINE)
    found = [found.groups() for found in fenced.finditer(GUIDE.read_text(encoding="utf-8"))]
    begins = f"python -m train {command} BRATS"
    return [(line.split()[3:], shown) for line, shown in found if line.startswith(begins)]


def said(options: list[str], desk: Path, monkeypatch, caplog, capsys) -> tuple[int, str]:
    """Exit code, and what a terminal shows but for bars and library messages."""
    monkeypatch.chdir(desk)
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="train"):
        code = main(options)
    messages = [record.getMessage() for record in caplog.records if record.name.startswith("train")]
    return code, "\n".join([*messages, capsys.readouterr().out])


@pytest.mark.parametrize("number", [0, 1])
def test_the_guide_shows_what_check_says_of_volumes(number, desk, monkeypatch, caplog, capsys):
    options, shown = typed("check")[number]
    code, printed = said(options, desk, monkeypatch, caplog, capsys)
    assert code == (1, 0)[number]
    for part in shown.strip().split("\n…\n"):
        assert part in printed


def test_volumes_are_counted_by_what_they_show(desk):
    """Of the slices of a head the lowest is blank, and left out."""
    slices = load_slices(DataArguments(str(desk / "BRATS"), tumor_labels=[1, 2, 4]))
    with_tumor = sum((draw_head(number)[1] > 0).any(axis=(0, 1)).sum() for number in range(1, PERSONS + 1))
    areas = np.array(slices["mask_area"])
    assert len(slices) == 5 * PERSONS and (areas > 0).sum() == with_tumor
    fewer = load_slices(DataArguments(str(desk / "BRATS"), tumor_labels=[4], negative_share=0.0))
    assert 0 < len(fewer) < with_tumor and all(fewer["mask_area"])


def test_prepared_and_published_slices_of_volumes_keep_person_volume_plane_and_spacing(desk, tmp_path):
    out = prepare(desk / "BRATS", tmp_path / "slices", tumor_labels=[1, 2, 4])
    row = json.loads((out / "metadata.jsonl").read_text().splitlines()[0])
    assert row["slice"] == "BraTS20_Training_001-axial-002" and row["image_file_name"] == "images/1.png"
    assert (row["person_id"], row["volume"], row["plane"]) == (*["BraTS20_Training_001"] * 2, "axial")
    assert (row["row_mm"], row["column_mm"]) == (AFFINE[1, 1], AFFINE[0, 0])
    columns = ["slice", "person_id", "fold", "volume", "row_mm", "column_mm", "image_sha256", "mask_sha256"]
    stage_dataset(out, tmp_path / "published", "you/slices")
    sources = (DataArguments(str(desk / "BRATS"), tumor_labels=[1, 2, 4]), DataArguments(str(out)))
    first, second, published = (
        load_slices(arguments).select_columns(columns).to_list()
        for arguments in (*sources, DataArguments(str(tmp_path / "published")))
    )
    assert first == second == published


@pytest.fixture(scope="module")
def trained(desk) -> Path:
    run = desk / "runs" / "brats"
    data = ["--data_dir", str(desk / "BRATS"), *MASKS, *SHARE, "--fold", "0"]
    assert main(["fit", *data, "--recipe", "fast-cpu", *NETWORK, *SCHEDULE, "--output_dir", str(run)]) == 0
    return run


def test_a_network_learns_from_volumes_and_is_scored_on_the_persons_that_it_left_out(trained, desk):
    record = json.loads((trained / "training.json").read_text())
    said = f"Training on {record['training_slices']} slices of {record['training_persons']} persons, validating on"
    assert said in GUIDE.read_text(encoding="utf-8") and len(record["validation"]) == 2
    output = trained / "evaluation.json"
    data = ["--data_dir", str(desk / "BRATS"), *MASKS, *SHARE]
    assert main(["evaluate", *data, "--fold", "0", "--model", str(trained), "--output", str(output)]) == 0
    report = json.loads(output.read_text())
    assert report["seen_in_training"] is False and report["all"]["persons"] == 2
    assert {row["plane"] for row in report["per_slice"]} == {"axial"}


def test_a_slice_is_to_the_network_what_the_volume_shows(trained, desk):
    segmenter = TumorSegmenter.from_pretrained(trained, optimize="none", framing="none")
    (row,) = load_slices(DataArguments(str(desk / "BRATS"), tumor_labels=[1, 2, 4])).select([2])
    volume = read_volume(desk / "BRATS" / row["volume"] / f"{row['volume']}_t1ce.nii.gz")
    shown = volume.slices[int(row["slice"].rpartition("-")[2]) - 1]
    stored, asked = (segmenter(image).probability for image in (as_file(row["image"]), shown))
    np.testing.assert_array_equal(stored, asked)
