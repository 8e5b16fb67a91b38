"""The page that needs no server: a folder in which the network runs in the browser of whoever opens it.

    model ─ to_whole_onnx ─→ model.onnx ┐
    web/, space/, examples/ ────────────┼─→ folder ─ python -m http.server ─→ http://127.0.0.1:8000
    onnxruntime-web of npm ─ runtime/ ──┘

Where `index.html` says `<!-- space/parts/NAME.html -->`, that part of the Space's page comes in.

Everything that is decided in Python, such as thresholds, sentences and colours, goes along as `settings.json`: the
JavaScript in web/ repeats none of it. Only a clone has these files; the installed package does not.
"""

import hashlib
import json
import re
import subprocess
import tarfile
import tempfile
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np

from . import framing, segmentation
from .export import describe
from .familiarity import UNFAMILIAR
from .files import write_atomically
from .image_processing_unet import COLOURED, MAX_FILE_BYTES, MAX_MILLION_PIXELS, MIN_SIDE
from .overlay import COLORMAP, DEFAULT_ALPHA
from .segmenter import TumorSegmenter, check_one_channel, check_one_class
from .volumes import heads, lesions, nifti, planes, segmenting
from .volumes.dicom import protocol
from .whole_graph import to_whole_onnx


ROOT = Path(__file__).resolve().parents[1]
PAGE = "web"
SCRIPTS = ("page", "look", "files", "choices", "viewer", "planes", "volume", "packing", "brush")
# Name in the folder → pattern in a clone.
SOURCES = {
    "": (f"{PAGE}/*", "space/page.css", "LICENSE"),
    "volumes": (f"{PAGE}/volumes/*.js",),
    "vendor": ("space/vendor/niivue-*",),
    "scripts": tuple(f"space/scripts/{name}.js" for name in SCRIPTS),
    "examples": ("examples/ATTRIBUTION.md",),
    "examples/images": ("examples/images/*.png",),
    "examples/masks": ("examples/masks/*.png",),
    "runtime": (f"{PAGE}/runtime/*",),
}
PAGE_FILE, MODEL_FILE, SETTINGS_FILE, FILES_FILE = "index.html", "model.onnx", "settings.json", "files.js"

PART = re.compile(rb"<!-- (space/parts/\w+\.html) -->")

RUNTIME = "onnxruntime-web@1.30.0"
TARBALL = "onnxruntime-web-1.30.0.tgz"
# What the page loads of it: name → SHA-256.
RUNTIME_FILES = {
    "ort.wasm.bundle.min.mjs": "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
NPM_SECONDS = 600

MAX_SLICE_SIDE = 4096  # of what is kept of a larger one, as on the page of Python: memory grows with its square
MAX_VOXELS = 24_000_000  # of a volume; each takes about 15 bytes in the browser


def write_page(folder: Path, segmenter: TumorSegmenter, name: str, revision: str | None, runtime: Path | None) -> int:
    """Write the page for a model into a folder, which is made if it is missing.

    Args:
        folder: files of these names in it are replaced; others stay.
        segmenter: whose model the page runs.
        name, revision: what the model is called, and its commit, if it has one.
        runtime: what npm gave, the file `onnxruntime-web-1.30.0.tgz` or its unpacked folder; None asks npm.

    Returns:
        The size of all its files, in bytes.

    Raises:
        ImportError: `onnxscript` is not installed.
        ValueError: this is no clone, the runtime is another version, or the model has several classes or channels.
        OSError: npm is missing or failed, or a file cannot be written.
    """
    check_one_class(segmenter.class_names, "static pages")
    check_one_channel(segmenter.channel_names, "static pages")
    content = {file: source.read_bytes() for file, source in page_sources().items()} | runtime_files(runtime)
    content[PAGE_FILE] = PART.sub(lambda part: (ROOT / part[1].decode()).read_bytes(), content[PAGE_FILE])
    metadata = describe(segmenter.model, segmenter.image_processor, name, revision)
    content[MODEL_FILE] = to_whole_onnx(segmenter.model, segmenter.image_processor, segmenter.familiarity, metadata)
    content[SETTINGS_FILE] = json.dumps(_settings(content, name, revision), ensure_ascii=False).encode()
    content[FILES_FILE] = _list_for_service_worker(content)
    for file, written in content.items():
        write_atomically(folder / file, written)
    return sum(map(len, content.values()))


def page_sources() -> dict[str, Path]:
    """Name in the folder → the file of a clone that it is; a ValueError if this is none."""
    if not (ROOT / PAGE / PAGE_FILE).is_file():
        raise ValueError(f"the page comes with a clone of the project alone: there is no {ROOT / PAGE / PAGE_FILE}.")
    return {
        Path(folder, path.name).as_posix(): path
        for folder, patterns in SOURCES.items()
        for pattern in patterns
        for path in sorted(ROOT.glob(pattern))
        if path.is_file()
    }


def runtime_files(runtime: Path | None = None) -> dict[str, bytes]:
    """Name → content of what runs the network in a browser, from what npm gave; see `write_page`."""
    if runtime is None:
        with tempfile.TemporaryDirectory() as temporary:
            _ask_npm(Path(temporary))
            return runtime_files(Path(temporary, TARBALL))
    found = {}
    for name, digest in RUNTIME_FILES.items():
        content = _file_of_runtime(runtime, name)
        if hashlib.sha256(content).hexdigest() != digest:
            raise ValueError(f"{name} in {runtime} is not that of {RUNTIME}; allowed is this version alone.")
        found[f"runtime/{name}"] = content
    return found


def _ask_npm(folder: Path) -> None:
    command = ["npm", "pack", RUNTIME, "--silent"]
    try:
        subprocess.run(command, cwd=folder, capture_output=True, check=True, text=True, timeout=NPM_SECONDS)
    except FileNotFoundError as error:
        raise OSError(f"npm is not installed; install it, or name {TARBALL} with --runtime.") from error
    except subprocess.SubprocessError as error:
        reason = getattr(error, "stderr", None) or str(error)
        raise OSError(f"npm could not get {RUNTIME}: {' '.join(str(reason).split())}") from error


def _file_of_runtime(runtime: Path, name: str) -> bytes:
    try:
        if runtime.is_dir():
            return (runtime / "dist" / name).read_bytes()
        with tarfile.open(runtime) as archive:
            file = archive.extractfile(f"package/dist/{name}")
            assert file  # a file, no folder
            return file.read()
    except (AssertionError, KeyError, OSError, tarfile.TarError) as error:
        raise ValueError(
            f"{runtime} holds no {name}; allowed are {TARBALL}, as `npm pack {RUNTIME}` gets it, and its folder."
        ) from error


def _settings(content: dict[str, bytes], name: str, revision: str | None) -> dict:
    """What the JavaScript has to know."""
    levels = np.arange(256, dtype=np.uint8)[None]
    examples = sorted(Path(file).stem for file in content if file.startswith("examples/images/"))
    runtime = "runtime/ort-wasm-simd-threaded.wasm"
    return {
        "source": {"name": name, "revision": revision and revision[:12]},
        "model": {"name": MODEL_FILE, "bytes": len(content[MODEL_FILE])},
        "runtime": {"name": runtime, "bytes": len(content[runtime])},
        "threshold": segmentation.DEFAULT_THRESHOLD,
        "min_area_px": segmentation.MIN_LESION_AREA_PX,
        "alpha": DEFAULT_ALPHA,
        "unfamiliar": UNFAMILIAR,
        "limits": {
            "min_side": MIN_SIDE,
            "max_side": MAX_SLICE_SIDE,
            "max_million_pixels": MAX_MILLION_PIXELS,
            "max_file_bytes": MAX_FILE_BYTES,
            "min_spacing": segmentation.MIN_SPACING_MM,
            "max_spacing": segmentation.MAX_SPACING_MM,
        },
        "framing": _constants(framing),
        "volumes": {"max_voxels": MAX_VOXELS, "protocol": _protocol()} | _constants(heads, planes, segmenting, lesions),
        "sentences": {
            "unlike": segmentation.UNLIKE,
            "several_cut_out": segmentation.SEVERAL_CUT_OUT,
            "cut_out": segmentation.CUT_OUT,
            "inverted": segmentation.INVERTED,
            "coloured": COLOURED,
            "scaled_down": segmentation.SCALED_DOWN,
            "unlike_volume": segmenting.UNLIKE,
            "stripped": segmenting.STRIPPED,
            "alone": segmenting.ALONE,
            "filled": segmenting.FILLED,
            "unknown_sequence": nifti.UNKNOWN_SEQUENCE,
        },
        "colormap": cv2.applyColorMap(levels, COLORMAP)[0, :, ::-1].tolist(),
        "examples": examples,
    }


def _constants(*modules: ModuleType) -> dict:
    """Name → value of what modules call by capital letters."""
    return {name: value for module in modules for name, value in vars(module).items() if name.isupper()}


def _protocol() -> dict:
    """What tells by the tags of DICOM how a series was taken; JavaScript reads the patterns as Python does."""
    patterns = {name: value.pattern for name, value in _constants(protocol).items() if isinstance(value, re.Pattern)}
    return {
        "patterns": patterns,
        "knows": protocol.KNOWS,
        "max_repetition": protocol.MAX_T1_REPETITION_MS,
        "max_echo": protocol.MAX_T1_ECHO_MS,
    }


def _list_for_service_worker(content: dict[str, bytes]) -> bytes:
    """All files that the browser keeps, and a version that changes with any of them."""
    digest = hashlib.sha256()
    for name in sorted(content):
        digest.update(f"{name} {len(content[name])} ".encode() + content[name])
    names = ["./", *sorted(content)]
    return f"const VERSION = {digest.hexdigest()[:16]!r};\nconst FILES = {json.dumps(names)};\n".encode()
