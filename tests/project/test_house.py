"""The repository itself: its metadata agrees, its imports point one way, its files fit."""

import ast
import functools
import os
import re
import subprocess
import sys
import tomllib
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterator
from graphlib import TopologicalSorter
from importlib import import_module
from importlib.metadata import packages_distributions
from pathlib import Path

import fresh
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from surroundings import BROWSERS, ROOT, SLOW_FIXTURES, missing


MIB = 1024 * 1024

MAX_FILE_BYTES = 16 * MIB
MAX_TREE_BYTES = 30 * MIB
PICKLE_SUFFIXES = {".bin", ".ckpt", ".joblib", ".pickle", ".pkl", ".pt", ".pth"}

CODE = ("app.py", "benchmarks", "docs", "modeling_unet", "space", "tests", "train")
SUPPORTED_PYTHONS = ("3.11", "3.12")
GONE_IN_PYTHON_3_12 = {"asynchat", "asyncore", "distutils", "imp", "smtpd"}

# Needed without an import statement of ours.
USED_BY_APP_UNIMPORTED = {
    "safetensors",  # the format that from_pretrained reads
}
USED_BY_PAGE_UNIMPORTED = {
    "mcp",  # Gradio's tools for models stand on it
}
# What the package can do without, and the app has.
OPTIONAL = {"nibabel", "pydicom", "python-gdcm"}
LOOKED_FOR = {"highdicom", "onnxscript", "pillow-heif", "python-gdcm"}  # by name, before they are imported
STOOD_IN_FOR = {"pillow-heif"}  # tests put a module of their own in its place
USED_BY_DEV_UNIMPORTED = {
    "accelerate",  # transformers.Trainer stands on it
    "ipykernel",  # what a notebook runs in
    "mypy",  # a command
    "onnxscript",  # torch.onnx.export stands on it
    "parameterized",  # transformers' own tests stand on it
    "pytest-xdist",  # pytest -n 2
    "ray",  # an extra of modeling_unet
    "ruff",  # a command
    "scipy",  # monai.metrics stands on it
}

# Rooms of `train`, from the top floor down: what stands in one may import what stands below it, and nothing above.
FLOORS = ("commands", "hub", "scoring", "fitting", "data")
MAX_FILES_IN_A_ROOM = 12

OF_SLICES_AND_VOLUMES = ("__main__", "channels", "prediction", "sources", "web")

# These modules travel to the Hub alone, so they may import nothing that transformers does not bring.
TRAVELLING = ("configuration_unet", "modeling_unet", "image_processing_unet")
TRAVELLING_MAY_IMPORT = {"PIL", "huggingface_hub.dataclasses", "numpy", "torch", "transformers"}

# https://huggingface.co/docs/hub/spaces-config-reference
SPACE_COLORS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
SPACE_KEYS = {
    *("title", "emoji", "colorFrom", "colorTo", "sdk", "sdk_version", "python_version", "app_file", "license"),
    *("suggested_hardware", "short_description", "tags", "models", "datasets", "thumbnail", "pinned", "fullWidth"),
    *("header", "preload_from_hub", "startup_duration_timeout", "disable_embedding", "custom_headers"),
}
MAX_SHORT_DESCRIPTION = 60


def front_matter() -> dict:
    """The YAML block that opens README.md and configures the Space."""
    return yaml.safe_load((ROOT / "README.md").read_text(encoding="utf-8").split("---\n")[1])


def pyproject() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def citation() -> dict:
    return yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))


def pins(name: str) -> dict[str, str]:
    """Distribution → version of one requirements file, which may hold exact pins only."""
    pinned = {}
    for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
        line = line.partition("#")[0].strip()
        if line and not line.startswith("-r "):
            requirement = Requirement(line)
            (clause,) = requirement.specifier
            assert clause.operator == "==", f"{name}: {line} is not an exact pin"
            assert not clause.version.endswith(".*"), f"{name}: {line} is not an exact pin"
            pinned[canonicalize_name(requirement.name)] = clause.version
    return pinned


def ranges() -> list[Requirement]:
    project, groups = pyproject()["project"], pyproject()["dependency-groups"]
    lists = [project["dependencies"], *project["optional-dependencies"].values(), *groups.values()]
    return [Requirement(text) for texts in lists for text in texts]


def submitted_files() -> list[Path]:
    """Every file that Git tracks or would add."""
    if not (ROOT / ".git").exists():
        missing("needs a Git clone")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [path for name in listing.split("\0") if name and (path := ROOT / name).is_file()]


def sources(*places: str) -> list[Path]:
    """The Python files at and under the named files and folders, as far as they exist."""
    found = []
    for place in places:
        path = ROOT / place
        found += [path] if path.is_file() else sorted(path.rglob("*.py"))
    return found


@functools.cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path), feature_version=(3, 11))


def _is_optional(node: ast.AST) -> bool:
    """Whether `node` is a `try` that goes on without what it fails to import."""
    if not isinstance(node, ast.Try):
        return False
    caught = {ast.unparse(handler.type) for handler in node.handlers if handler.type}
    reraised = any(isinstance(inner, ast.Raise) for handler in node.handlers for inner in ast.walk(handler))
    return bool(caught & {"ImportError", "ModuleNotFoundError"}) and not reraised


def _import_nodes(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif not _is_optional(child):
            yield from _import_nodes(child)


@functools.cache
def imported_modules(path: Path) -> set[str]:
    """Dotted names of the modules that `path` cannot do without, relative imports left out."""
    modules = set()
    for node in _import_nodes(parse(path)):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif node.level == 0:
            modules.add(node.module)
    return modules


def roots(modules: set[str]) -> set[str]:
    return {module.partition(".")[0] for module in modules}


def third_party(paths: list[Path]) -> dict[str, str]:
    """Distribution → one of the files that import it."""
    first_party = {Path(place).stem for place in CODE} | {path.stem for path in sources("tests")}
    owners = packages_distributions()
    found = {}
    for path in paths:
        for root in roots(imported_modules(path)) - first_party - sys.stdlib_module_names:
            for owner in owners.get(root, [root]):
                found.setdefault(canonicalize_name(owner), str(path.relative_to(ROOT)))
    return found


# The Space


def test_front_matter_is_what_a_space_accepts():
    matter = front_matter()
    assert set(matter) <= SPACE_KEYS
    assert matter["sdk"] == "gradio"
    assert {matter["colorFrom"], matter["colorTo"]} <= SPACE_COLORS
    assert 0 < len(matter["short_description"]) <= MAX_SHORT_DESCRIPTION
    assert (ROOT / matter["app_file"]).is_file()


def test_sdk_version_is_the_gradio_pin():
    assert front_matter()["sdk_version"] == pins("requirements.txt")["gradio"]


def test_python_version_is_a_string():
    version = front_matter()["python_version"]
    assert isinstance(version, str), f"quote python_version, or YAML reads the number {version!r}"
    assert version == SUPPORTED_PYTHONS[0]


def test_license_is_named_the_same_everywhere():
    assert pyproject()["project"]["license"] == citation()["license"] == "Apache-2.0"
    assert front_matter()["license"] == "apache-2.0"
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text


# Habits


def test_version_is_the_same_everywhere():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## \[(.+?)\]", changelog, re.MULTILINE)[0] == pyproject()["project"]["version"]
    assert citation()["version"] == pyproject()["project"]["version"]


def test_citation_has_what_its_format_requires():
    # https://citation-file-format.github.io, version 1.2.0
    assert {"authors", "cff-version", "message", "title"} <= citation().keys()
    assert all({"authors", "title", "type"} <= reference.keys() for reference in citation()["references"])
    assert "10.6084/m9.figshare.1512427" in {reference["doi"] for reference in citation()["references"]}


def test_the_workflow_runs_what_everybody_runs():
    (job,) = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == ["bash .ci/run"]
    assert {"python-version": SUPPORTED_PYTHONS[0]}.items() <= job["steps"][1]["with"].items()


def test_the_run_takes_every_browser_that_the_tests_take():
    assert f"for name in {' '.join(BROWSERS)};" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_the_run_gets_the_program_that_runs_networks_in_a_browser():
    from modeling_unet.web import RUNTIME, TARBALL

    run = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert f"npm pack {RUNTIME})" in run and f'ONNXRUNTIME_WEB="$work/{TARBALL}"' in run


def test_the_run_gets_what_looks_for_barriers_on_a_page():
    run, asked = (path.read_text(encoding="utf-8") for path in (ROOT / ".ci" / "run", ROOT / "tests" / "conftest.py"))
    (version,) = set(re.findall(r"npm pack axe-core@([\d.]+)", run + asked))
    assert f'AXE_CORE="$work/axe-core-{version}.tgz"' in run


def test_hooks_refuse_what_the_tests_refuse():
    configured = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    hooks = {hook["id"]: hook for repository in configured for hook in repository["hooks"]}
    assert hooks["large-files"]["entry"].endswith(f" --maxkb={MAX_FILE_BYTES // 1024}")
    assert all(re.search(hooks["pickles"]["files"], f"folder/weights{suffix}") for suffix in PICKLE_SUFFIXES)
    assert not re.search(hooks["pickles"]["files"], "weights/model.safetensors")


def test_the_command_is_the_module():
    from modeling_unet import __main__

    assert pyproject()["project"]["scripts"] == {__main__.SCRIPT: "modeling_unet.__main__:main"}


# Requirements


def test_supported_pythons_are_declared():
    allowed = SpecifierSet(pyproject()["project"]["requires-python"])
    assert all(allowed.contains(f"{version}.0") for version in SUPPORTED_PYTHONS)


def test_development_adds_to_the_app_requirements():
    assert "-r requirements.txt" in (ROOT / "requirements-dev.txt").read_text(encoding="utf-8").splitlines()
    assert not pins("requirements.txt").keys() & pins("requirements-dev.txt").keys()


def test_pins_satisfy_the_ranges():
    pinned = pins("requirements.txt") | pins("requirements-dev.txt")
    for requirement in ranges():
        if requirement.name in STOOD_IN_FOR:
            continue
        version = pinned[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement} excludes the pin {version}"


def test_minimum_transformers_is_the_one_in_pyproject():
    from modeling_unet import MINIMUM_TRANSFORMERS

    (requirement,) = (requirement for requirement in ranges() if requirement.name == "transformers")
    assert f">={MINIMUM_TRANSFORMERS}" in {str(clause) for clause in requirement.specifier}


def test_package_dependencies_are_what_it_imports():
    declared = {canonicalize_name(Requirement(text).name) for text in pyproject()["project"]["dependencies"]}
    assert declared == third_party(sources("modeling_unet")).keys() | USED_BY_APP_UNIMPORTED


@pytest.mark.parametrize(("name", "holed"), [("torch", "2.10.0"), ("pydicom", "3.0.1")])
def test_versions_with_published_holes_are_not_allowed(name, holed):
    found = [requirement for requirement in ranges() if canonicalize_name(requirement.name) == name]
    assert found and not any(holed in requirement.specifier for requirement in found)


def test_extras_are_what_the_package_can_use():
    """They come with a wheel that holds nothing else."""
    extras = pyproject()["project"]["optional-dependencies"].values()
    offered = {canonicalize_name(Requirement(text).name) for extra in extras for text in extra}
    owners, used = packages_distributions(), set()
    for path in sources("modeling_unet"):
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.Import):
                used |= {owner for alias in node.names for owner in owners.get(alias.name.partition(".")[0], [])}
    assert offered <= {canonicalize_name(name) for name in used} | LOOKED_FOR


def test_requirements_are_what_the_app_and_the_evaluation_import():
    needed = third_party(
        sources("app.py", "space", "modeling_unet", "train/data/slices.py", "train/scoring/evaluation.py")
    )
    unimported = USED_BY_APP_UNIMPORTED | USED_BY_PAGE_UNIMPORTED | OPTIONAL
    assert pins("requirements.txt").keys() == needed.keys() | unimported


@pytest.mark.slow
def test_development_requirements_are_what_the_rest_imports():
    needed = third_party(sources("train", "tests", "benchmarks", "docs"))
    app, development = pins("requirements.txt").keys(), pins("requirements-dev.txt").keys()
    undeclared = {name: path for name, path in needed.items() if name not in app | development}
    assert not undeclared
    assert not development - needed.keys() - USED_BY_DEV_UNIMPORTED, "listed, but nothing imports it"


# Imports


def test_the_model_package_imports_neither_training_nor_app():
    for path in sources("modeling_unet"):
        assert not roots(imported_modules(path)) & {"app", "gradio", "space", "tests", "train"}, path.name


def test_the_app_does_not_import_training():
    for path in sources("app.py", "space"):
        assert not roots(imported_modules(path)) & {"tests", "train"}


@functools.cache
def first_party_imports(path: Path) -> set[str]:
    """Dotted names of our own modules that `path` imports, relative imports included."""
    package, found = path.relative_to(ROOT).parent.parts, set()
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*above, *filter(None, [node.module])))
            found |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.parametrize("package", ["benchmarks", "modeling_unet", "space", "train"])
def test_no_module_imports_itself_by_way_of_others(package):
    paths = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in sources(package)}
    graph = {name: first_party_imports(path) & (paths.keys() - {name}) for name, path in paths.items()}
    TopologicalSorter(graph).prepare()  # raises a CycleError that names them


def test_rooms_import_only_what_stands_below_them():
    for path in sources("train"):
        room = next((name for name in path.relative_to(ROOT).parts[1:-1] if name in FLOORS), None)
        if path.name == "__main__.py":
            continue
        below = FLOORS[FLOORS.index(room) :] if room else ()
        used = {module.split(".")[1] for module in first_party_imports(path) if module.startswith("train.")}
        assert used & {*FLOORS} <= {*below}, path.relative_to(ROOT)


def test_modules_of_slices_do_not_know_of_volumes():
    for path in (path for path in (ROOT / "modeling_unet").glob("*.py") if path.stem not in OF_SLICES_AND_VOLUMES):
        assert not {module for module in first_party_imports(path) if module.startswith("modeling_unet.volumes")}


@pytest.mark.parametrize("house", [*(f"train/{floor}" for floor in FLOORS), "modeling_unet/volumes", "space", "tests"])
def test_a_room_holds_a_dozen_files_at_most(house):
    rooms = Counter(path.parent for path in sources(house) if path.name != "__init__.py")
    assert not {str(room): files for room, files in rooms.items() if files > MAX_FILES_IN_A_ROOM}


def relative_imports(path: Path) -> set[str]:
    """Sibling modules that `path` imports, `""` for the package itself (`from . import …`)."""
    return {node.module or "" for node in ast.walk(parse(path)) if isinstance(node, ast.ImportFrom) and node.level}


def travelling_sources() -> list[Path]:
    """The modules for `trust_remote_code`, with every sibling that they import."""
    package, waiting, found = ROOT / "modeling_unet", list(TRAVELLING), {}
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = package / f"{name}.py"
            waiting += relative_imports(found[name])
    return list(found.values())


def test_travelling_modules_import_only_what_transformers_brings():
    for path in travelling_sources():
        allowed = tuple(TRAVELLING_MAY_IMPORT | sys.stdlib_module_names)
        for module in imported_modules(path):
            assert module in allowed or module.startswith(tuple(f"{name}." for name in allowed)), (
                f"{path.name}: {module}"
            )


def test_transformers_finds_the_siblings_of_travelling_modules():
    """Its scanner reads lines, docstrings included, and overlooks `from . import sibling`."""
    for path in travelling_sources():
        text = path.read_text(encoding="utf-8")
        scanned = {*re.findall(r"^\s*from\s+\.(\S+)\s+import", text, re.MULTILINE)}
        assert scanned == relative_imports(path), path.name


# Files


def test_submitted_files_fit():
    sizes = {path: path.stat().st_size for path in submitted_files()}
    too_large = {str(path.relative_to(ROOT)): size for path, size in sizes.items() if size > MAX_FILE_BYTES}
    assert not too_large
    assert sum(sizes.values()) < MAX_TREE_BYTES


def test_no_pickle_is_submitted():
    assert not [str(path.relative_to(ROOT)) for path in submitted_files() if path.suffix.lower() in PICKLE_SUFFIXES]


def test_files_need_no_lfs():
    assert not [path for path in submitted_files() if path.name == ".gitattributes"]


@pytest.mark.parametrize("path", sources(*CODE), ids=lambda path: str(path.relative_to(ROOT)))
def test_sources_compile_on_every_supported_python(path: Path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what 3.11 deprecates, 3.12 complains about aloud
        compile(parse(path), str(path), "exec")
    assert not roots(imported_modules(path)) & GONE_IN_PYTHON_3_12


def test_fixtures_that_make_a_test_slow_are_there():
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources("tests"))
    assert not [name for name in SLOW_FIXTURES if f"\ndef {name}(" not in text]


@pytest.mark.slow
def test_wheel_holds_the_model_package_alone(tmp_path: Path):
    tree = tmp_path / "tree"  # setuptools leaves its build folders beside pyproject.toml
    templates = sorted((ROOT / "modeling_unet").glob("*.html"))
    for path in (*(ROOT / name for name in ("pyproject.toml", "README.md", "LICENSE")), *sources(*CODE), *templates):
        copy = tree / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "."]
    built = subprocess.run(command, cwd=tree, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (wheel,) = tree.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert templates
    assert names == {path.relative_to(ROOT).as_posix() for path in (*sources("modeling_unet"), *templates)}


@pytest.mark.parametrize(("module", "package"), [("yaml", "pyyaml"), ("datasets", "datasets")])
def test_a_missing_package_is_named_with_what_to_type(module, package, monkeypatch, capsys):
    from train import __main__
    from train.__main__ import main

    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(__main__, "import_module", lambda *_: import_module(module))
    assert main(["fit"]) == 1
    assert capsys.readouterr().err == f"error: this needs the package {package}; run: pip install {package}\n"


def test_nothing_to_type_asks_the_index_for_this_package():
    """It is not there; whoever wants an extra of it installs what the extra holds, or works in a clone."""
    advised = re.compile(r"brain-tumor-unet\[|pip install \S*brain-tumor-unet")
    for path in (*sources(*CODE), *ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")):
        if path != Path(__file__).resolve():
            assert not advised.search(path.read_text(encoding="utf-8")), path.name


def unfinished_message(node: ast.AST) -> str | None:
    """What a `raise` says, if that is no sentence: one ends in a full stop, a command to type or another message."""
    if not (isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args):
        return None
    message, written = node.exc.args[0], ast.unparse(node.exc)
    if "pip install" in written or written.startswith("TypeError"):  # whose words are Python's own
        return None
    last = message.values[-1] if isinstance(message, ast.JoinedStr) else message
    if isinstance(last, ast.Constant) and isinstance(last.value, str):
        return None if last.value.endswith(".") else written
    return None if last is message or re.search(r"error|problem|reason|command", ast.unparse(last)) else written


@pytest.mark.parametrize("place", ["app.py", "modeling_unet", "space", "train"])
def test_messages_of_errors_are_sentences(place):
    found = {str(path): [*filter(None, map(unfinished_message, ast.walk(parse(path))))] for path in sources(place)}
    assert not {path: messages for path, messages in found.items() if messages}


TORCHVISION_OF_ANOTHER_TORCH = """raise RuntimeError("operator torchvision::nms does not exist")"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "program",
    ["import modeling_unet", "from runpy import run_module; run_module('modeling_unet', run_name='__main__')"],
)
def test_a_torchvision_of_another_torch_is_named_in_one_sentence(program, tmp_path: Path):
    """transformers imports it where it is installed, and would fail with a word about AutoImageProcessor."""
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(TORCHVISION_OF_ANOTHER_TORCH)
    metadata = tmp_path / "torchvision-0.1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: torchvision\nVersion: 0.1.0\n")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    process = fresh.alone().run(program, "predict", "--help", environment=environment)
    last_line = process.stderr.strip().splitlines()[-1]
    assert last_line.startswith("ImportError: the installed torchvision does not fit torch 2.")
    assert "(operator torchvision::nms does not exist); run: pip uninstall torchvision" in last_line


@pytest.mark.slow
def test_an_older_transformers_is_refused_in_one_sentence():
    from modeling_unet import MINIMUM_TRANSFORMERS

    program = "import transformers; transformers.__version__ = '5.0.0'; import modeling_unet"
    last_line = fresh.alone().run(program).stderr.strip().splitlines()[-1]
    assert last_line.startswith(
        f"ImportError: brain-tumor-unet needs transformers >= {MINIMUM_TRANSFORMERS} and found 5.0.0"
    )
