"""`docs/train.ipynb` runs from top to bottom, in a fresh kernel, on a handful of slices."""

import os

import nbformat
import pytest
from nbclient import NotebookClient
from slices import write_data_set, write_persons
from surroundings import ROOT


NOTEBOOK = ROOT / "docs" / "train.ipynb"
TINY_RECIPE = """
config: {block_type: plain, stem_width: 0, stem_stride: 1, widths: [4, 6], depths: [1, 1], strides: [1, 2],
         kernel_sizes: null, expansion_ratios: null, decoder_widths: [4]}
encoder_weights: random
image_size: 32
num_train_epochs: 2
dataloader_num_workers: 0
bf16: false
"""


@pytest.fixture(scope="module")
def executed(tmp_path_factory) -> nbformat.NotebookNode:
    """The notebook with its outputs; a cell that fails raises an error that shows it."""
    folder = tmp_path_factory.mktemp("notebook")
    data = write_data_set(folder / "data", count=12)
    persons = write_persons(folder / "persons.csv", [f"p{number // 2}" for number in range(12)])
    (folder / "tiny.yaml").write_text(TINY_RECIPE)
    places = {"DATA": data, "PERSONS": persons, "RECIPE": folder / "tiny.yaml", "RUN": folder / "run"}
    environment = {**os.environ, **{name: str(path) for name, path in places.items()}}
    del environment["MPLBACKEND"]  # the kernel's own shows figures below their cell
    client = NotebookClient(read(), timeout=300, resources={"metadata": {"path": str(NOTEBOOK.parent)}})
    return client.execute(env=environment)


def read() -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


def outputs(executed: nbformat.NotebookNode, cell_id: str) -> list[dict]:
    (cell,) = (cell for cell in executed.cells if cell.id == cell_id)
    return cell.outputs


def test_no_outputs_are_stored():
    cells = [cell for cell in read().cells if cell.cell_type == "code"]
    assert cells and not any(cell.outputs or cell.execution_count for cell in cells)


@pytest.mark.parametrize("cell_id", ["look", "show-curves", "show-sheet", "show-overlay"])
def test_it_shows_pictures(executed, cell_id):
    assert any("image/png" in output.get("data", {}) for output in outputs(executed, cell_id))


def test_it_ends_with_the_scores_of_the_fold(executed):
    printed = "".join(output.text for output in outputs(executed, "score") if output.get("name") == "stdout")
    assert "slice_dice" in printed and "| all | 4 | 2 |" in printed


def test_it_says_who_trains_and_who_validates(executed):
    printed = "".join(output.text for output in outputs(executed, "folds"))
    assert printed == "8 slices of 4 people train,\n4 slices of 2 others validate.\n"
