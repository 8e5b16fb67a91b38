"""`python -m train plan`: the rules, on data and machines made up, and the recipe that comes of them."""

import pytest
import yaml
from slices import write_data_set, write_persons

from train.__main__ import main
from train.data.slices import DataArguments, load_slices
from train.fitting import plan as planning
from train.fitting.options import parse_fit, read_recipe
from train.fitting.plan import Fingerprint, Machine, advise, decide, describe_time, fingerprint


GB = 10**9


def found(**changes) -> Fingerprint:
    """As the public data set."""
    usual = {
        "slices": 2609,
        "with_tumor": 2609,
        "training": 2087,
        "persons": 172,
        "side": 512,
        "tumor_px": 38.0,
        "spacing": None,
    }
    return Fingerprint(**{**usual, **changes})


def machine(**changes) -> Machine:
    return Machine(**{"device": "CPU, 2 threads", "free_bytes": 16 * GB, "is_gpu": False, **changes})


def chosen(data: Fingerprint, place: Machine) -> dict:
    return {choice.name: choice.value for choice in decide(data, place)}


def test_the_public_data_set_is_planned_as_the_default_recipe_has_it():
    default = read_recipe("default")
    assert chosen(found(), machine()) == {
        "image_size": 256,
        "per_device_train_batch_size": default["per_device_train_batch_size"],
        "num_train_epochs": default["num_train_epochs"],
    }


@pytest.mark.parametrize(
    ("changes", "size"),
    [
        ({"tumor_px": 12.0}, 384),  # 9 px at 384, 7.5 at 320
        ({"tumor_px": 3.0}, 512),
        ({"side": 240, "tumor_px": 20.0}, 256),
        ({"side": 128, "tumor_px": 4.0}, 128),
        ({"side": 3000, "tumor_px": 20.0}, 512),
    ],
)
def test_slices_are_as_large_as_small_tumours_need_and_no_larger_than_they_are(changes, size):
    assert chosen(found(**changes), machine())["image_size"] == size


@pytest.mark.parametrize(
    ("free", "is_gpu", "batch", "summed"),
    [(16 * GB, False, 16, None), (3 * GB, False, 8, 2), (3 * GB, True, 16, None), (10**6, False, 1, 16)],
)
def test_a_step_sees_sixteen_slices_in_as_many_parts_as_the_memory_asks_for(free, is_gpu, batch, summed):
    values = chosen(found(), machine(free_bytes=free, is_gpu=is_gpu))
    assert values["per_device_train_batch_size"] == batch and values.get("gradient_accumulation_steps") == summed


@pytest.mark.parametrize(("slices", "epochs"), [(100, 60), (1000, 35), (2609, 16), (50_000, 4)])
def test_few_slices_are_seen_more_often_and_many_less(slices, epochs):
    assert chosen(found(slices=slices), machine())["num_train_epochs"] == epochs


def test_what_a_recipe_cannot_say_is_said():
    assert advise(found()) == []
    remarks = advise(found(persons=5, with_tumor=100, spacing=(0.5, 1.1)))
    assert [remark.partition(":")[0] for remark in remarks[:2]] == [
        "5 persons are few",
        "2,509 of 2,609 slices are without tumour",
    ]
    assert "0.5 to 1.1 mm" in remarks[2]
    assert "Whose slices these are is not known" in advise(found(persons=None))[0]


def test_the_time_is_that_of_four_folds():
    values = {"num_train_epochs": 10, "per_device_train_batch_size": 8}
    said = describe_time(1.0, 800, values, machine())
    assert said == "A fold takes about 18 min on this machine (CPU, 2 threads): 1,000 steps of 1 s."


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> list[str]:
    folder = write_data_set(tmp_path_factory.mktemp("data") / "slices", 12)
    return [str(folder), "--persons", str(write_persons(folder / "persons.csv", [f"p{n // 2}" for n in range(12)]))]


def test_a_data_set_is_measured(data):
    slices = load_slices(DataArguments(data[0], persons=data[2]))
    measured = fingerprint(slices)
    assert (measured.slices, measured.with_tumor, measured.persons, measured.side) == (12, 12, 6, 64)
    assert measured.training == 10  # four folds of five
    smallest, largest = min(slices["mask_area"]), max(slices["mask_area"])
    assert smallest < measured.tumor_px**2 * 3.1416 / 4 < largest


def test_slices_that_are_never_trained_on_are_not_counted(tmp_path):
    folder = write_data_set(tmp_path / "slices", 12)
    parts = ["train"] * 5 + ["validation"] * 4 + ["test"] * 3
    lines = [f"{n + 1},p{n},{split}" for n, split in enumerate(parts)]
    (tmp_path / "persons.csv").write_text("\n".join(["slice,person_id,split", *lines]))
    slices = load_slices(DataArguments(str(folder), persons=str(tmp_path / "persons.csv")), without_folds=True)
    measured = fingerprint(slices)
    assert (measured.slices, measured.training, measured.persons) == (9, 5, 9)


def test_the_file_is_a_recipe_with_its_reasons(data, tmp_path, monkeypatch, capsys, caplog):
    monkeypatch.setattr(planning, "measure_step", lambda size, batch, steps: 0.5)
    out = tmp_path / "recipe.yaml"
    assert main(["plan", *data, "--out", str(out)]) == 0
    text = out.read_text()
    assert capsys.readouterr().out == text + "\n"
    options = parse_fit(["--data_dir", "D", "--output_dir", "OUT", "--fold", "0", "--recipe", str(out)])
    assert options.run.image_size == 128 and options.trainer.num_train_epochs == 60
    lines = text.splitlines()
    assert all(lines[index - 1].startswith("# ") for index, line in enumerate(lines) if line and line[0] != "#")
    assert "# A fold takes about 33 s on this machine" in text and set(yaml.safe_load(text)) <= {*read_recipe(str(out))}
    assert main(["plan", *data, "--out", str(out)]) == 1
    assert "recipe.yaml is there already; name another file, or delete it." in capsys.readouterr().err


def test_a_step_is_measured():
    assert planning.measure_step(32, 2, 1) > 0
