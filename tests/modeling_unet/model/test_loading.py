"""Loading by id and from a folder, and the round trip: what was loaded, tuned and saved loads where its source is gone.

`HF_ENDPOINT` is read when a client is imported, so whatever talks to the loopback Hub does so in a process of its own.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import fresh
import pytest
import torch
from hub import Hub
from safetensors.torch import load_file
from served import save_tiny_model, serve
from surroundings import ROOT
from torch.testing import assert_close
from transformers import AutoModelForSemanticSegmentation, pipeline

from modeling_unet import TumorSegmenter, UNetConfig, UNetForSemanticSegmentation, UNetModel


EXAMPLE = ROOT / "examples" / "images" / "glioma-axial-726.png"
REPO_ID = "you/tiny"
CODE = {"configuration_unet.py", "image_processing_unet.py", "modeling_unet.py"}
AUTO_MAP = {
    "AutoConfig": "configuration_unet.UNetConfig",
    "AutoModel": "modeling_unet.UNetModel",
    "AutoModelForSemanticSegmentation": "modeling_unet.UNetForSemanticSegmentation",
}

WITHOUT_THE_PACKAGE = """
import sys
from pathlib import Path

sys.modules["modeling_unet"] = None

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForSemanticSegmentation
from transformers.dynamic_module_utils import get_class_from_dynamic_module

pixel_values = torch.linspace(-1, 1, 32 * 32).view(1, 1, 32, 32)

def logits(model):
    with torch.inference_mode():
        return model.eval()(pixel_values).logits
"""

TUNE = f"""{WITHOUT_THE_PACKAGE}
for source, out in zip(sys.argv[1::2], map(Path, sys.argv[2::2])):
    model = AutoModelForSemanticSegmentation.from_pretrained(source, trust_remote_code=True).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(pixel_values, labels=(pixel_values[:, 0] > 0).long()).loss.backward()
    optimizer.step()
    model.save_pretrained(out / "model")
    AutoImageProcessor.from_pretrained(source, trust_remote_code=True).save_pretrained(out / "model")
    save_file({{"logits": logits(model)}}, out / "logits.safetensors")
    AutoModel.from_pretrained(source, trust_remote_code=True).save_pretrained(out / "bare")
    AutoConfig.from_pretrained(source, trust_remote_code=True).save_pretrained(out / "config")
    # The class by itself, without the Auto class that would register it.
    by_name = get_class_from_dynamic_module("modeling_unet.UNetForSemanticSegmentation", source)
    by_name.from_pretrained(source).save_pretrained(out / "by_name")
"""

LOAD_AGAIN = f"""{WITHOUT_THE_PACKAGE}
for out in map(Path, sys.argv[1:]):
    AutoConfig.from_pretrained(out / "config", trust_remote_code=True)
    processor = AutoImageProcessor.from_pretrained(out / "model", trust_remote_code=True)
    assert processor.size["longest_edge"] == 32
    for folder in ("model", "bare", "by_name"):
        AutoModel.from_pretrained(out / folder, trust_remote_code=True)
        model = AutoModelForSemanticSegmentation.from_pretrained(out / folder, trust_remote_code=True)
        if folder == "model":
            save_file({{"logits": logits(model)}}, out / "logits_again.safetensors")
"""

LOAD_BY_ID = """
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import pipeline

from modeling_unet import TumorSegmenter, UNetForSemanticSegmentation
from modeling_unet.provenance import origin

repo_id, picture, out = sys.argv[1:]
heads = {
    revision: UNetForSemanticSegmentation.from_pretrained(repo_id, revision=revision).head.weight.data
    for revision in ("v1", "v2", "main")
}
segmenter = TumorSegmenter.from_pretrained(repo_id, device="cpu", revision="v1")
pipe = pipeline("image-segmentation", model=repo_id, revision="v1", trust_remote_code=True)
heads |= {"segmenter": segmenter.model.head.weight.data, "pipeline": pipe.model.head.weight.data}
assert pipe(picture)
print(*origin(repo_id, "v1"))
save_file({name: head.contiguous() for name, head in heads.items()}, out)
"""


def run(program: str, *arguments, home: Path, **environment: str) -> subprocess.CompletedProcess:
    """Run a program in an empty folder; offline, unless its environment says otherwise."""
    (home / "desk").mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"HF_HOME": str(home / "huggingface"), "HF_HUB_OFFLINE": "1"} | environment
    return fresh.alone().run(program, *arguments, cwd=home / "desk", environment=environment)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def tuned(tmp_path_factory) -> dict[str, Path]:
    """What a process without the package saved, by what it had loaded, after another process loaded that again."""
    place = tmp_path_factory.mktemp("round_trip")
    source = save_tiny_model(place / "source")
    tuned = {"id": place / "from_id", "folder": place / "from_folder"}
    with Hub() as hub:
        serve(hub, REPO_ID, source, "v1")
        environment = hub.environment | {"HF_HOME": str(place / "home" / "huggingface")}
        first = run(TUNE, REPO_ID, tuned["id"], source, tuned["folder"], home=place / "home", **environment)
    assert first.returncode == 0, first.stderr
    shutil.rmtree(source)
    shutil.rmtree(place / "home")
    second = run(LOAD_AGAIN, *tuned.values(), home=place / "other_home")
    assert second.returncode == 0, second.stderr
    return tuned


def auto_map(folder: Path, name: str = "config.json") -> dict[str, str]:
    return json.loads((folder / name).read_text())["auto_map"]


@pytest.mark.parametrize("source", ["id", "folder"])
class TestRoundTrip:
    def test_the_code_came_along(self, tuned, source):
        assert {path.name for path in (tuned[source] / "model").glob("*.py")} == CODE

    @pytest.mark.parametrize("kind", ["model", "bare", "by_name"])
    def test_nothing_points_back_at_the_source(self, tuned, source, kind):
        assert auto_map(tuned[source] / kind) == AUTO_MAP

    def test_the_processor_brings_its_own_code(self, tuned, source):
        expected = {"AutoImageProcessor": "image_processing_unet.UNetImageProcessor"}
        assert auto_map(tuned[source] / "model", "preprocessor_config.json") == expected

    def test_a_fresh_process_gets_the_tuned_logits(self, tuned, source):
        before = load_file(tuned[source] / "logits.safetensors")
        again = load_file(tuned[source] / "logits_again.safetensors")
        assert_close(again, before, rtol=0, atol=0)


@pytest.mark.parametrize("ours", [UNetModel, UNetForSemanticSegmentation])
def test_a_saved_model_names_its_own_code_whatever_its_config_said(tmp_path, folder, ours):
    """Some repositories hold weights only, and a config that names the code of another one."""
    model = ours.from_pretrained(folder)
    model.config.auto_map = {name: f"someone/else--{reference}" for name, reference in AUTO_MAP.items()}
    model.save_pretrained(tmp_path)
    assert auto_map(tmp_path) == AUTO_MAP


@pytest.fixture(scope="module")
def loaded(tmp_path_factory) -> SimpleNamespace:
    """What two processes with the package loaded by id: the first from the Hub, the second offline.

    Holds `stored`, the head of every revision's file; `heads`, one mapping of loaded heads per process; `commits`, by
    revision; `origins`, printed by each process; and `requests`, those of the second.
    """
    place = tmp_path_factory.mktemp("by_id")
    folders = {"v1": save_tiny_model(place / "v1", seed=1), "v2": save_tiny_model(place / "v2", seed=2)}
    stored = {tag: load_file(folder / "model.safetensors")["head.weight"] for tag, folder in folders.items()}
    heads, origins = [], []
    with Hub() as hub:
        commits = {tag: serve(hub, REPO_ID, folder, tag) for tag, folder in folders.items()}
        environment = hub.environment | {"HF_HOME": str(place / "huggingface"), "PYTHONPATH": str(ROOT)}
        for offline in ("0", "1"):
            hub.requests.clear()
            out = place / f"heads_{offline}.safetensors"
            ran = run(LOAD_BY_ID, REPO_ID, EXAMPLE, out, home=place, **environment | {"HF_HUB_OFFLINE": offline})
            assert ran.returncode == 0, ran.stderr
            heads.append(load_file(out))
            origins.append(ran.stdout.split())
        requests = list(hub.requests)
    return SimpleNamespace(stored=stored, heads=heads, commits=commits, origins=origins, requests=requests)


class TestById:
    def test_every_revision_has_its_own_weights(self, loaded):
        assert not torch.equal(loaded.stored["v1"], loaded.stored["v2"])
        expected = {"v1": "v1", "v2": "v2", "main": "v2", "segmenter": "v1", "pipeline": "v1"}
        assert_close(loaded.heads[0], {way: loaded.stored[tag].float() for way, tag in expected.items()})

    def test_after_the_first_download_the_network_is_not_asked(self, loaded):
        assert_close(loaded.heads[1], loaded.heads[0])
        assert loaded.requests == []

    def test_an_export_names_the_commit_of_a_revision(self, loaded):
        assert loaded.origins == [[REPO_ID, loaded.commits["v1"]]] * 2


class TestFolder:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("auto", [UNetForSemanticSegmentation, AutoModelForSemanticSegmentation])
    def test_dtype(self, folder, auto, dtype):
        model = auto.from_pretrained(folder, dtype=dtype)
        assert {parameter.dtype for parameter in model.parameters()} == {dtype}
        with torch.inference_mode():
            logits = model(torch.zeros(1, 1, 32, 32, dtype=dtype)).logits
        assert logits.dtype == dtype and logits.isfinite().all()

    def test_device_map(self, folder):
        model = UNetForSemanticSegmentation.from_pretrained(folder, device_map="cpu")
        assert_close(model.state_dict(), UNetForSemanticSegmentation.from_pretrained(folder).state_dict())

    def test_pipeline_with_options(self, folder):
        pipe = pipeline("image-segmentation", model=str(folder), trust_remote_code=True, device="cpu")
        assert {segment["mask"].size for segment in pipe(str(EXAMPLE))} == {(512, 512)}


class TestFormatVersion:
    @pytest.fixture
    def altered(self, folder, tmp_path):
        def altered(**changes) -> Path:
            copy = shutil.copytree(folder, tmp_path / "model")
            config = json.loads((copy / "config.json").read_text()) | changes
            (copy / "config.json").write_text(
                json.dumps({key: value for key, value in config.items() if value is not None})
            )
            return copy

        return altered

    def test_a_saved_config_has_it(self, folder):
        assert json.loads((folder / "config.json").read_text())["format_version"] == 1

    def test_weights_from_before_there_were_versions_load(self, altered):
        assert UNetForSemanticSegmentation.from_pretrained(altered(format_version=None)).config.format_version == 1

    def test_newer_weights_are_refused_before_anything_else_of_theirs_is_read(self, altered):
        newer = altered(format_version=5, block_type="not invented yet")
        with pytest.raises(OSError, match=r"`format_version` is 5; .* up to 4: upgrade the package"):
            TumorSegmenter.from_pretrained(newer)
        with pytest.raises(Exception, match="upgrade the package"):
            AutoModelForSemanticSegmentation.from_pretrained(newer)

    @pytest.mark.parametrize("version", [0, "1", True])
    def test_what_is_no_version_is_refused(self, version):
        with pytest.raises(Exception, match="format_version"):
            UNetConfig(format_version=version)

    def test_older_code_would_misread_weights_with_a_presence_logit(self):
        config = UNetConfig()
        assert config.to_dict()["format_version"] == 1
        config.presence_logit = 1.5
        assert config.to_dict()["format_version"] == 2
        config.presence_cells = 5
        assert config.to_dict()["format_version"] == 4
        config.presence_logit = None
        assert config.to_dict()["format_version"] == 1

    def test_the_shipped_config_loads(self, shipped_weights):
        assert UNetConfig.from_pretrained(shipped_weights).format_version == 4
