"""`python -m train publish`: the real clients against a Hub on the loopback device, in fresh processes."""

import hashlib
import json
import logging
import os
import signal
import subprocess
from pathlib import Path
from types import SimpleNamespace

import fresh
import pytest
from hub import DROP, HANG, READER, STRANGER, WRITER, Hub, Repo
from huggingface_hub import DatasetCard, ModelCard, RepoCard, get_session
from PIL import Image
from safetensors.torch import load_file
from served import save_tiny_model, serve
from slices import write_data_set, write_persons
from surroundings import ROOT
from tiny import TINY, tiny_config

from modeling_unet import TumorSegmenter, UNetForSemanticSegmentation, UNetImageProcessor
from train.__main__ import main
from train.data.folds import read_manifest
from train.files import save_model, write_json
from train.hub import publishing, stranger
from train.hub.cards import complete_model_card, describe_scored, write_data_card
from train.hub.staging import stage_dataset, stage_model


EXAMPLES = ROOT / "examples"
MODEL, DATA, SPACE, FITTED = "you/tiny", "you/slices", "you/page", "you/fitted"
INITIAL = {".gitattributes"}  # what a new repository holds

# Runs commands of `python -m train` one after another and reports how each ended. The graph of a static page takes
# seconds: one is written for all pages, which are of one model.
CLERK = """
import contextlib, io, json, os, sys
from unittest.mock import patch
import huggingface_hub
from modeling_unet import web
from train.__main__ import main

def write_once(*parts, write=web.to_whole_onnx):
    graphs[:] = graphs or [write(*parts)]
    return graphs[0]

graphs = []
patch.object(web, "to_whole_onnx", write_once).start()
patch.multiple("train.hub.client", WAITS_SECONDS=(0.1, 0.1), TIMEOUT_SECONDS=2).start()
endings = {}
for name, case in json.load(sys.stdin).items():
    os.environ["HF_TOKEN"] = case["token"]
    huggingface_hub.constants.ENDPOINT = case["endpoint"]
    said, complained = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(complained):
        code = main(case["arguments"])
    endings[name] = {"code": code, "said": said.getvalue(), "complained": complained.getvalue()}
json.dump(endings, sys.stdout)
"""
# Page, model and data set from the Hub: the page with the package that came along, the data set with a clone.
FRIEND = """
import hashlib, json, os, sys
from pathlib import Path
import numpy as np
from datasets import Image, load_dataset
from huggingface_hub import snapshot_download
from safetensors.numpy import save_file

model_id, data_id, space_id, picture, out, clone = sys.argv[1:]
page = snapshot_download(space_id, repo_type="space", local_dir=Path(out, "page"))
os.chdir(page)
import app
from modeling_unet import TumorSegmenter

network = app.load_network(os.environ["MODEL_ID"])
network.warm_up()
app.build_app(network)
found = TumorSegmenter.from_pretrained(model_id, device="cpu", optimize="none")(picture)
save_file({"mask": found.mask.astype(np.uint8)}, Path(out, "friend.safetensors"))
sys.path.append(clone)
from train.data.sources import open_source

splits = load_dataset(data_id)
source = open_source(data_id)
files = splits["test"].cast_column("image", Image(decode=False))["image"]
json.dump({
    "splits": {name: len(split) for name, split in splits.items()},
    "features": {name: str(feature.dtype) for name, feature in splits["train"].features.items()},
    "first": {name: splits["train"][0][name] for name in ("slice", "person_id", "fold")},
    "modes": [splits["train"][0][name].mode for name in ("image", "mask")],
    "digests": {file["path"]: hashlib.sha256(file["bytes"]).hexdigest() for file in files},
    "source": sorted((raw.person_id, raw.split) for raw in source),
    "shown": [network.origin.name, len(app.views.EXAMPLES), app.vendor.NIIVUE.is_file()],
    "code": [str(Path(module.__file__).relative_to(page)) for module in (app, sys.modules["modeling_unet"])],
}, sys.stdout)
"""


def run(program: str, *arguments: object, hub: Hub, **options) -> str:
    """What a program prints in a process of its own, which knows this Hub."""
    environment = {**os.environ, **hub.environment, **options.pop("environment", {})}
    ran = fresh.alone().run(program, *arguments, environment=environment, timeout=900, **options)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def commits(hub: Hub, kind: str, repo_id: str) -> int:
    """How often something was published, the creation left out."""
    return len(hub.repos[kind, repo_id].commits) - 1


@pytest.fixture(scope="module")
def hub():
    with Hub() as running:
        yield running


# ------------------------------------------------------------------------------------------------------------ the story


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A tiny model, trained on the real slices under other names and persons, and evaluated on those it held out."""
    data = tmp_path_factory.mktemp("real")
    for kind in ("images", "masks"):
        (data / kind).mkdir()
    persons = ["slice,person_id"]
    for number, path in enumerate(sorted((EXAMPLES / "images").glob("*.png"))):
        for kind in ("images", "masks"):
            # Cropped, or they would be recognised as examples, which are not trained on.
            with Image.open(EXAMPLES / kind / path.name) as picture:
                picture.crop((96, 96, 480, 480)).save(data / kind / f"{number}.png")
        persons.append(f"{number},new{number}")
    (data / "persons.csv").write_text("\n".join(persons) + "\n")
    whose = ("--data_dir", str(data), "--persons", str(data / "persons.csv"), "--num_folds", "3", "--fold", "0")
    run = tmp_path_factory.mktemp("runs") / "run"
    network = ("--architecture", "resnet34", "--config", json.dumps(TINY), "--image_size", "32")
    schedule = ("--num_train_epochs", "12", "--learning_rate", "1e-2", "--ema_decay", "0.8", "--warmup_steps", "0")
    quiet = ("--per_device_train_batch_size", "4", "--dataloader_num_workers", "0", "--disable_tqdm", "true")
    assert main(["fit", *whose, "--output_dir", str(run), *network, *schedule, *quiet, "--bf16", "false"]) == 0
    assert main(["evaluate", *whose, "--model", str(run), "--output", str(run / "evaluation.json")]) == 0
    return run


@pytest.fixture(scope="module")
def published(ended) -> str:
    """What the command says that publishes the trained model."""
    assert ended["model"]["code"] == 0, ended["model"]["complained"]
    return ended["model"]["said"]


@pytest.fixture(scope="module")
def picture() -> Path:
    return EXAMPLES / "images" / "meningioma-axial-7.png"


def test_a_model_goes_from_real_slices_to_a_stranger_with_the_same_mask(hub, trained, published, picture, tmp_path):
    sha = hub.repos["model", MODEL].sha("main")
    assert f"published: {hub.url}/{MODEL}/commit/{sha}" in published
    assert "verified: a fresh process loaded" in published
    home = {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_MODULES_CACHE": str(tmp_path / "modules")}
    program = Path(stranger.__file__).read_text(encoding="utf-8")
    run(program, MODEL, sha, picture, tmp_path / "out.safetensors", hub=hub, cwd=tmp_path, environment=home)
    expected = TumorSegmenter.from_pretrained(trained, device="cpu", optimize="none")(picture).mask
    found = load_file(tmp_path / "out.safetensors")["mask"].numpy().astype(bool)
    assert 0 < expected.sum() < expected.size  # else this would prove nothing
    assert (found == expected).all()


def test_a_verification_that_takes_too_long_says_so(monkeypatch, tmp_path):
    """`subprocess` hands over what was said until then as bytes, whatever it was asked for."""

    def wait(command, *, timeout, **_):
        raise subprocess.TimeoutExpired(command, timeout, stderr=b"Downloading\n")

    monkeypatch.setattr(publishing.subprocess, "run", wait)
    with pytest.raises(OSError, match=r"could not load it from the Hub: it was not done after \d+ s$"):
        publishing._verify(MODEL, SimpleNamespace(oid="0" * 40), tmp_path / "slice.png", {}, "hf_token")


def test_only_what_belongs_there_is_published(hub, trained, published):
    assert (trained / "best").is_dir() and list(trained.glob("checkpoint-*"))
    assert hub.repos["model", MODEL].files().keys() - INITIAL == {
        *("config.json", "model.safetensors", "preprocessor_config.json", "README.md"),
        *("configuration_unet.py", "image_processing_unet.py", "modeling_unet.py"),
        *("training.json", "evaluation.json", "curves.csv", "curves.png", "predictions.png"),
    }
    assert commits(hub, "model", MODEL) == 2  # one to main, and one to the version
    assert "auto_map" in json.loads(hub.repos["model", MODEL].files()["config.json"])


def test_the_card_says_what_was_measured(hub, trained, published):
    evaluation = json.loads((trained / "evaluation.json").read_text())
    card = ModelCard(hub.repos["model", MODEL].files()["README.md"].decode())
    results = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert results["slice_dice"] == pytest.approx(evaluation["all"]["slice_dice"], abs=1e-4)
    assert card.data.library_name == "transformers" and card.data.model_name == "tiny"
    assert f"{evaluation['all']['slice_dice']:.4f}" in card.text and "was not trained on these persons" in card.text
    assert "Not a medical device" in card.text and f'from_pretrained("{MODEL}", **where)' in card.text
    assert "On 6 slices of 6 persons; fold 0 was held out" in card.text


def test_neither_persons_nor_paths_leave_the_house(hub, trained, published):
    for name in ("evaluation.json", "training.json", "README.md"):
        text = hub.repos["model", MODEL].files()[name].decode()
        assert "new0" not in text and str(trained.parent) not in text, name


# ------------------------------------------------------------------------------------------- everything else at one go


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """A prepared data set of made-up slices, two of them of a test person, with ids that look like numbers."""
    raw = write_data_set(tmp_path_factory.mktemp("raw") / "slices", count=10)
    persons = write_persons(raw / "persons.csv", [f"00{number // 2}" for number in range(10)])
    folder = tmp_path_factory.mktemp("prepared") / "slices"
    assert main(["prepare", str(raw), "--persons", str(persons), "--out", str(folder)]) == 0
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    for row in rows:
        if row["person_id"] == "004":
            row.update(split="test", fold=-1)
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    card = (folder / "README.md").read_text().replace("---\n", "---\nlicense: cc-by-4.0\n", 1)
    (folder / "README.md").write_text(f"{card}\n## Where the slices come from\n\nDrawn by the tests, CC BY 4.0.\n")
    return folder


@pytest.fixture(scope="module")
def killed(hub) -> set[str]:
    """What is in a repository after the process that was about to commit to it has been killed."""
    program = "import sys; from train.__main__ import main; main(sys.argv[1:])"
    arguments = ("publish", "space", "--model_id", MODEL, "--repo_id", "you/killed")
    hub.fail("killed/commit/", HANG, times=1)
    process = fresh.alone().start(program, *arguments, environment={**os.environ, **hub.environment})
    try:
        assert hub.hanging.wait(600)
    finally:
        os.kill(process, signal.SIGKILL)
        fresh.alone().wait(60)
    assert [request for request in hub.requests if request.startswith("PUT /lfs/")]
    return hub.repos["space", "you/killed"].files().keys()


@pytest.fixture(scope="module")
def ended(hub, trained, prepared, killed, tmp_path_factory) -> dict[str, dict]:
    """How each of many commands ended, by name."""
    fit = fit_options(tmp_path_factory.mktemp("fitted"))
    changed = tmp_path_factory.mktemp("changed") / "run"
    changed.mkdir()
    for name in ("config.json", "model.safetensors", "preprocessor_config.json", "training.json", "curves.csv"):
        (changed / name).write_bytes((trained / name).read_bytes())
    evaluation = json.loads((trained / "evaluation.json").read_text())
    write_json(changed / "evaluation.json", {**evaluation, "weights_sha256": "that of others"})
    model, data = ["model", str(trained)], ["dataset", str(prepared)]
    page = ["space", "--model_id", MODEL]
    dry = ["--dry_run"]
    closed_port = {"endpoint": "http://127.0.0.1:9"}
    cases = {
        "model": (model, MODEL, [], {}),
        "dry model": (model, "you/dry", dry, closed_port),
        "dry data": (data, "you/dry", dry, closed_port),
        "dry page": (page, "you/dry", dry, closed_port),
        "data": (data, DATA, [], {}),
        "page": (page, SPACE, ["--dataset_id", DATA], {}),
        "page again": (page, SPACE, [], {}),
        "private page": (page, "you/secret", ["--private"], {}),
        "too late to be private": (page, SPACE, ["--private"], {}),
        "version": (["model", str(changed)], MODEL, ["--revision", "v1"], {}),
        "unknown token": (page, "you/unknown-token", [], {"token": STRANGER}),
        "reader": (page, "you/reader", [], {"token": READER}),
        "no token": (page, "you/no-token", [], {"token": ""}),
        "no network": (page, "you/no-network", [], closed_port),
        "fails twice": (page, "you/fails-twice", [], {}),
        "fails always": (page, "you/fails-always", [], {}),
        "drops": (page, "you/drops", [], {}),
        "hangs": (page, "you/hangs", [], {}),
        "killed": (page, "you/killed", [], {}),
        "no id": (page, "page", [], {}),
        "no model": (["model", str(prepared)], "you/none", [], {}),
        "not prepared": (["dataset", str(trained)], "you/none", [], {}),
    }
    hub.uploads.clear()
    hub.fail("/api/repos/create", 500, times=2)
    hub.fail("fails-twice/commit/", 503, times=2)
    hub.fail("fails-always/commit/", 502)
    hub.fail("drops/commit/", DROP, times=1)
    hub.fail("hangs/commit/", HANG, times=1)
    usual = {"token": WRITER, "endpoint": hub.url}
    orders = {
        name: {"arguments": ["publish", *what, "--repo_id", repo_id, *more], **usual, **other}
        for name, (what, repo_id, more, other) in cases.items()
    }
    orders["fit"] = {"arguments": fit, **usual}
    return json.loads(run(CLERK, hub=hub, entered=json.dumps(orders)))


def test_a_dry_run_lists_everything_and_asks_nobody(hub, ended, trained):
    listed = ended["dry model"]
    weights = (trained / "model.safetensors").stat().st_size
    assert listed["code"] == 0 and f"{weights:>13,}  model.safetensors" in listed["said"]
    assert "checkpoint" not in listed["said"] and "nothing was uploaded" in listed["said"]
    assert ended["dry data"]["code"] == 0 and "data/train-00000-of-00001.parquet" in ended["dry data"]["said"]
    assert ended["dry page"]["code"] == 0 and "app.py" in ended["dry page"]["said"]
    assert not [request for request in hub.requests if "dry" in request]


def test_a_second_run_sends_only_what_changed(hub, ended):
    assert ended["page again"]["code"] == 0
    before, after = list(hub.repos["space", SPACE].commits.values())[-2:]
    assert {name for name in after if after[name] != before.get(name)} == {"README.md"}
    assert commits(hub, "space", SPACE) == 2
    sent = [request for request in hub.requests if request.startswith("PUT /lfs/")]
    assert len(sent) == len({*sent})


def test_a_version_is_a_branch_and_takes_away_what_it_no_longer_has(hub, ended):
    assert ended["version"]["code"] == 0 and "verified" in ended["version"]["said"]
    main_files, files = (hub.repos["model", MODEL].files(name) for name in ("main", "v1"))
    assert files["model.safetensors"] == main_files["model.safetensors"]
    assert main_files.keys() - files.keys() == {"evaluation.json", "curves.png", "predictions.png"}
    card = files["README.md"].decode()
    assert "has not been evaluated" in card and "model-index" not in card and '"revision": "v1"' in card


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("unknown token", "does not accept the token (status 401); run `hf auth login` again"),
        ("reader", "no right to write to you/reader (status 403)"),
        ("no token", "run `hf auth login`, or set HF_TOKEN"),
        ("no network", "http://127.0.0.1:9 cannot be reached (ConnectError"),
        ("fails always", "failed 3 times in a row (status 502); run the command again later"),
        ("too late to be private", "is on the Hub already, and public"),
        ("no id", "--repo_id page is no id on the Hub; write the owner and the name"),
        ("no model", "holds no model: there is no config.json in it"),
        ("not prepared", "holds no metadata.jsonl; name a folder that `python -m train prepare` wrote"),
    ],
)
def test_what_cannot_be_published_is_one_sentence(hub, ended, name, message):
    *_, last = ended[name]["complained"].splitlines()
    assert ended[name]["code"] == 1
    assert last.startswith("error: ") and message in last and "Traceback" not in ended[name]["complained"]
    repo = hub.repos.get(("space", f"you/{name.replace(' ', '-')}"))
    assert repo is None or repo.files().keys() == INITIAL


@pytest.mark.parametrize("name", ["fails twice", "drops", "hangs"])
def test_a_hub_that_fails_for_a_moment_is_asked_again(hub, ended, name):
    repo_id = f"you/{name.replace(' ', '-')}"
    assert ended[name]["code"] == 0, ended[name]["complained"]
    assert commits(hub, "space", repo_id) == 1
    assert hub.repos["space", repo_id].files() == hub.repos["space", SPACE].files()


def test_private_is_private(hub, ended):
    assert hub.repos["space", "you/secret"].private and not hub.repos["space", SPACE].private


def test_killed_in_the_middle_nothing_is_published_and_the_next_run_goes_on(hub, killed, ended):
    assert killed == INITIAL
    assert ended["killed"]["code"] == 0 and commits(hub, "space", "you/killed") == 1
    assert hub.repos["space", "you/killed"].files() == hub.repos["space", SPACE].files()


# ----------------------------------------------------------------------------------------------- what friends receive


@pytest.fixture(scope="module")
def received(hub, ended, picture, tmp_path_factory) -> dict:
    out = tmp_path_factory.mktemp("friend")
    variables = hub.repos["space", SPACE].variables
    found = json.loads(run(FRIEND, MODEL, DATA, SPACE, picture, out, ROOT, hub=hub, cwd=out, environment=variables))
    return {**found, "mask": load_file(out / "friend.safetensors")["mask"].numpy().astype(bool)}


def test_with_the_package_the_mask_is_the_same(received, trained, picture):
    segmenter = TumorSegmenter.from_pretrained(trained, device="cpu", optimize="none")
    assert (received["mask"] == segmenter(picture).mask).all()


def test_a_data_set_comes_back_with_splits_types_and_persons(received):
    assert received["splits"] == {"train": 8, "test": 2}
    assert received["features"] == {
        **dict.fromkeys(("image", "mask"), "PIL.Image.Image"),
        **dict.fromkeys(("slice", "person_id", "tumor_type", "plane", "volume"), "string"),
        **dict.fromkeys(("row_mm", "column_mm"), "float64"),
        "fold": "int64",
    }
    assert received["first"]["person_id"] == "000" and received["modes"] == ["L", "1"]
    assert received["source"] == [[f"00{number // 2}", "test" if number > 7 else "train"] for number in range(10)]


def test_pictures_come_back_byte_by_byte(received, prepared):
    for name, digest in received["digests"].items():
        assert hashlib.sha256((prepared / "images" / name).read_bytes()).hexdigest() == digest
    assert len(received["digests"]) == 2


def test_licence_and_origin_stay_on_the_data_card(hub, ended):
    card = DatasetCard(hub.repos["dataset", DATA].files()["README.md"].decode())
    assert card.data.license == "cc-by-4.0" and "Drawn by the tests, CC BY 4.0." in card.text
    assert {split["split"] for split in card.data.configs[0]["data_files"]} == {"train", "test"}
    assert f'load_dataset("{DATA}", split="train")' in card.text
    assert "imagefolder" not in card.text and "metadata.jsonl" not in card.text


def test_the_number_of_folds_stays_on_the_data_card():
    command = "python -m train fit --data_dir {}{} --output_dir RUN --fold 0"
    for num_folds in ("", " --num_folds 3"):
        readme = f"---\nlicense: mit\n---\n\n## Use\n\n```bash\n{command.format('slices', num_folds)}\n```\n"
        assert command.format("you/slices", num_folds) in write_data_card(readme, "you/slices", ["train"])


def test_the_page_works_with_what_came_along_and_reads_the_model_from_the_hub(hub, received):
    space = hub.repos["space", SPACE]
    assert space.variables == {"MODEL_ID": MODEL}
    first = next(files for files in list(space.commits.values())[1:])
    assert f"models:\n- {MODEL}\n" in first["README.md"].decode()
    assert f"datasets:\n- {DATA}\n" in first["README.md"].decode()
    assert not [name for name in space.files() if name.startswith("weights/")]
    assert received["shown"] == [MODEL, 9, True] and received["code"] == ["app.py", "modeling_unet/__init__.py"]


@pytest.mark.slow
def test_a_static_page_holds_the_model_of_the_hub_and_what_runs_it(hub, onnxruntime_web, tmp_path):
    serve(hub, "you/served", save_tiny_model(tmp_path), tag="v1")
    hub.repos["space", "you/was-gradio"] = Repo()
    hub.repos["space", "you/was-gradio"].commit("main", {"app.py": b"", "space/views.py": b"", "notes.txt": b"mine"})
    page = ["publish", "space", "--model_id", "you/served", "--dataset_id", DATA, "--runtime", str(onnxruntime_web)]
    cases = {
        "dry": ["--static", "--repo_id", "you/dry", "--dry_run"],
        "new": ["--static", "--repo_id", "you/static"],
        "instead": ["--static", "--repo_id", "you/was-gradio"],
        "not static": ["--repo_id", "you/static"],
    }
    usual = {"token": WRITER, "endpoint": hub.url}
    orders = {name: {"arguments": [*page, *more], **usual} for name, more in cases.items()}
    found = json.loads(run(CLERK, hub=hub, entered=json.dumps(orders)))
    assert [found[name]["code"] for name in cases] == [0, 0, 0, 1], found
    assert f"index.html  ← {ROOT / 'web' / 'index.html'}" in found["dry"]["said"]
    assert "model.onnx  ← written for this upload" in found["dry"]["said"]
    assert "is for a static page; add --static, or leave it out." in found["not static"]["complained"]
    repo = hub.repos["space", "you/static"]
    files, was_gradio = repo.files(), hub.repos["space", "you/was-gradio"].files()
    card = RepoCard(files["README.md"].decode()).data.to_dict()
    assert (card["sdk"], card["models"], card["datasets"]) == ("static", ["you/served"], [DATA])
    assert card["custom_headers"]["cross-origin-embedder-policy"] == "require-corp"
    assert not {"sdk_version", "app_file", "python_version", "suggested_hardware"} & card.keys()
    assert {"index.html", "model.onnx", "scripts/viewer.js", "runtime/ort-wasm-simd-threaded.wasm"} <= files.keys()
    assert json.loads(files["settings.json"])["source"]["name"] == "you/served"
    assert not repo.variables
    assert was_gradio.keys() == files.keys() - INITIAL | {"notes.txt"}


# ---------------------------------------------------------------------------------------------------------- fit, cards


def fit_options(folder: Path) -> list[str]:
    """A command that trains for a step on made-up slices, and publishes what it has."""
    data = write_data_set(folder / "slices", count=6)
    persons = write_persons(folder / "persons.csv", [f"p{number}" for number in range(6)])
    return [
        *("fit", "--data_dir", str(data), "--persons", str(persons), "--fold", "0", "--num_folds", "2"),
        *("--output_dir", str(folder / "run"), "--architecture", "resnet34", "--config", json.dumps(TINY)),
        *("--image_size", "32", "--max_steps", "1", "--dataloader_num_workers", "0", "--disable_tqdm", "true"),
        *("--push_to_hub", "true", "--hub_model_id", FITTED, "--hub_private_repo", "true", "--hub_revision", "v2"),
    ]


def test_fit_publishes_with_our_card_and_nothing_of_the_trainers(hub, ended):
    assert ended["fit"]["code"] == 0, ended["fit"]["complained"]
    repo = hub.repos["model", FITTED]
    assert "verified" in ended["fit"]["said"] and repo.private
    assert repo.files("main").keys() == INITIAL and commits(hub, "model", FITTED) == 1
    files = repo.files("v2")
    assert "README.md" in files and "training_args.bin" not in files
    assert "has not been evaluated" in files["README.md"].decode()
    recipe = json.loads(files["training.json"])["recipe"]
    assert not [name for name in recipe if "hub" in name]


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--hub_model_id", "you/x"], "run `hf auth login`"), ([], "--push_to_hub needs --hub_model_id you/name")],
)
def test_fit_says_before_it_starts_that_it_cannot_publish(options, message, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    command = ["fit", "--data_dir", "nowhere", "--fold", "0", "--output_dir", str(tmp_path / "run")]
    assert main([*command, "--push_to_hub", "true", *options]) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_card_of_the_shipped_model_names_where_it_is_published():
    text = (ROOT / "model_card.md").read_text(encoding="utf-8")
    card = complete_model_card(text, None, "me/mine", "v3")
    assert "YOU/" not in card and "model-index" not in card


def test_figures_of_a_fold_stand_for_weights_trained_on_everybody(trained, tmp_path):
    for name in ("config.json", "model.safetensors", "preprocessor_config.json"):
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    evaluation = json.loads((trained / "evaluation.json").read_text())
    stands_for = {"weights_sha256": "of the fold's model", "stands_for": evaluation["weights_sha256"]}
    (tmp_path / "evaluation.json").write_text(json.dumps(evaluation | stands_for | {"seen_in_training": False}))
    stage_model(tmp_path, tmp_path / "staged", "you/name", "main")
    card = (tmp_path / "staged" / "README.md").read_text()
    assert "the model itself was trained on all folds" in card and "model-index" in card


def test_requests_are_not_printed():
    """Whatever the client is called in this version of huggingface_hub."""
    main(["--help"])
    client = type(get_session()).__module__.partition(".")[0]
    assert client.startswith("httpx") and not logging.getLogger(client).isEnabledFor(logging.INFO)


def test_a_model_of_too_many_classes_is_not_published(tmp_path, capsys):
    model = UNetForSemanticSegmentation(tiny_config(num_labels=9))
    save_model(model, UNetImageProcessor(), tmp_path)
    assert main(["publish", "model", str(tmp_path), "--repo_id", "you/several", "--dry_run"]) == 1
    out, error = capsys.readouterr()
    assert "8 classes" in error and len(error.splitlines()) == 1 and not out


# Links, and what a name stands for


@pytest.fixture
def untrained(tmp_path) -> Path:
    """A model folder with curves, and a file beside it that is nobody's business."""
    (tmp_path / "key").write_text("secret")
    save_model(UNetForSemanticSegmentation(tiny_config()), UNetImageProcessor(), tmp_path / "run")
    (tmp_path / "run" / "curves.csv").write_text("epoch\n")
    return tmp_path / "run"


@pytest.mark.parametrize("name", ["README.md", "curves.csv", "training.json", "evaluation.json", "config.json"])
@pytest.mark.parametrize("target", ["../key", "{}/key"])
def test_a_link_that_leaves_the_folder_is_refused(name, target, untrained, capsys):
    (untrained / name).unlink(missing_ok=True)
    (untrained / name).symlink_to(target.format(untrained.parent))
    assert main(["publish", "model", str(untrained), "--repo_id", "you/linked", "--dry_run"]) == 1
    out, error = capsys.readouterr()
    assert f"{untrained / name} is a link to {untrained.parent / 'key'}, which is not in {untrained}" in error
    assert not out and "secret" not in error and len(error.strip().splitlines()) == 1


def test_a_dry_run_shows_what_is_behind_each_name(untrained, capsys):
    (untrained / "curves.csv").rename(untrained / "curves-2.csv")
    (untrained / "curves.csv").symlink_to("curves-2.csv")
    link = untrained.with_name("link")
    link.symlink_to(untrained)
    assert main(["publish", "model", str(link), "--repo_id", "you/linked", "--dry_run"]) == 0
    said = capsys.readouterr().out
    assert f"            6  curves.csv  ← {untrained / 'curves-2.csv'}\n" in said
    assert f"  model.safetensors  ← {untrained / 'model.safetensors'}\n" in said
    assert "  README.md  ← written for this upload\n" in said and "  modeling_unet.py  ← written for this" in said


def test_a_picture_of_a_data_set_is_no_link_to_elsewhere(tmp_path):
    raw = write_data_set(tmp_path / "raw", count=5)
    persons = write_persons(tmp_path / "persons.csv", list("abcde"))
    assert main(["prepare", str(raw), "--persons", str(persons), "--out", str(tmp_path / "slices")]) == 0
    first, *_ = (tmp_path / "slices" / "metadata.jsonl").read_text().splitlines()
    picture = tmp_path / "slices" / json.loads(first)["image_file_name"]
    picture.rename(tmp_path / "elsewhere.png")
    picture.symlink_to(tmp_path / "elsewhere.png")
    with pytest.raises(ValueError, match=f"{picture.name} is a link to .*elsewhere.png, which is not in"):
        stage_dataset(tmp_path / "slices", tmp_path / "staged", "you/slices")


# The cards of weights


def staged_card(folder: Path, tmp_path: Path, record: dict | None = None, **options) -> ModelCard:
    """Of a folder's weights as they would be published, with another record beside them."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("config.json", "model.safetensors", "preprocessor_config.json", "evaluation.json"):
        (copy / name).write_bytes((folder / name).read_bytes())
    write_json(copy / "training.json", record or json.loads((folder / "training.json").read_text()))
    stage_model(copy, tmp_path / "staged", "you/name", "main", **options)
    return ModelCard((tmp_path / "staged" / "README.md").read_text())


def test_a_licence_is_set_by_the_owner_alone(trained, tmp_path, caplog):
    card = staged_card(trained, tmp_path)
    assert card.data.license is None and "**No licence of the weights is given**" in card.text
    assert "The card names no licence; give --license" in caplog.text
    caplog.clear()
    (tmp_path / "again").mkdir()
    card = staged_card(trained, tmp_path / "again", license="cc-by-nc-4.0")
    assert card.data.license == "cc-by-nc-4.0" and "Licence of the weights: `cc-by-nc-4.0`" in card.text
    assert "licence" not in caplog.text


@pytest.mark.parametrize(("init_from", "base_model"), [("me/first", None), ("first", "me/first"), ("first", None)])
def test_the_card_of_a_fine_tuned_model_names_its_base_and_that_ones_data(init_from, base_model, trained, tmp_path):
    own = json.loads((trained / "training.json").read_text())
    public = [row["mask_sha256"][:8] for row in read_manifest().values() if row["mask_sha256"]][:5]
    base = {**own, "training_slices": 2609, "training_persons": 172, "fold": None}
    record = {
        **own,
        "recipe": {**own["recipe"], "init_from": init_from},
        "init_from_sha256": "0123456789abcdef",
        "started_from": {name: value for name, value in base.items() if name not in ("trained_on", "looks")},
        "trained_on": " ".join([*own["trained_on"].split(), *public]),
    }
    card = staged_card(trained, tmp_path, record, base_model=base_model)
    known = init_from == "me/first" or base_model
    assert card.data.base_model == ("me/first" if known else None)
    shown = "[me/first](https://huggingface.co/me/first)" if known else "a model called `first`"
    assert f"Fine-tuned from {shown} (SHA-256 of its weights 0123456789ab…)" in card.text
    assert "trained on 2,609 slices of 172 persons; nobody was held out." in card.text
    assert "5 are from Jun Cheng, *brain tumor dataset*" in card.text and "CC BY 4.0" in card.text


def test_a_model_that_was_not_fine_tuned_has_no_base(trained, tmp_path):
    card = staged_card(trained, tmp_path)
    assert card.data.base_model is None
    assert "Fine-tuned" not in card.text and "Jun Cheng" not in card.text


@pytest.mark.parametrize(("fold", "name"), [("all persons", "all persons"), ("test", "the test split"), (0, "fold 0")])
def test_the_card_says_which_slices_were_scored(fold, name, trained):
    evaluation = {**json.loads((trained / "evaluation.json").read_text()), "fold": fold}
    assert f"On {name}, 3 slices of 3 persons" in describe_scored(evaluation)


def test_the_figure_that_is_ranked_is_that_of_slices_with_tumour(trained):
    evaluation = json.loads((trained / "evaluation.json").read_text())
    mixed = {**evaluation, "all": {**evaluation["all"], "slices": 9, "slice_dice": 0.99}}
    card = ModelCard(complete_model_card("---\n---\n", mixed, "you/name", "main"))
    results = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert results["slice_dice"] == pytest.approx(evaluation["with_tumor"]["slice_dice"], abs=1e-4)


@pytest.mark.parametrize(
    ("seen", "sentence"),
    [(True, "The model was trained on these persons"), (None, "trained on these persons is not known")],
)
def test_figures_that_say_nothing_about_new_people_are_not_ranked(trained, tmp_path, seen, sentence):
    for name in ("config.json", "model.safetensors", "preprocessor_config.json"):
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    evaluation = json.loads((trained / "evaluation.json").read_text()) | {"seen_in_training": seen}
    (tmp_path / "evaluation.json").write_text(json.dumps(evaluation))
    stage_model(tmp_path, tmp_path / "staged", "you/name", "main")
    card = (tmp_path / "staged" / "README.md").read_text()
    assert sentence in card and "model-index" not in card
