"""The page before anybody looks at it, and its endpoints: a client, and a tiny random network behind them."""

import asyncio
import base64
import csv
import functools
import io
import json
import os
import re
import subprocess
import sys
import time
import zipfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TypeVar

import httpx
import nibabel as nib
import numpy as np
import phantoms
import pytest
from gradio.route_utils import MultiPartException
from gradio.server_messages import ProcessCompletedMessage
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from mcp import ClientSession
from mcp.client.streamable_http import streamablehttp_client
from pages import (
    BAD_FILES,
    CountedNetwork,
    encoded,
    free_port,
    load,
    save_model,
    saved,
    served,
    slice_of,
    until,
    zipped,
)
from PIL import Image
from surroundings import ROOT

import app
from modeling_unet import TumorSegmenter, provenance, read_mask
from modeling_unet.image_processing_unet import COLOURED
from modeling_unet.segmentation import Segmentation
from space import forgetting, memory, requests
from space.events import Server
from space.forgetting import NAMELESS, size_of
from space.network import Network, Origin
from space.reading import segment_files
from space.requests import MAX_BODY_BYTES, NO_FUNCTION, ShortBodies
from space.sweeping import own_folder, start_sweeping
from space.views import EXAMPLES
from train.data.folds import read_manifest
from train.data.slices import mask_hash


T = TypeVar("T")

# Who asks without a client of Gradio. A new one for every request would read the certificates anew.
HTTP = httpx.Client(timeout=60, verify=False)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def network(model_dir) -> CountedNetwork:
    return load(model_dir)


@pytest.fixture(scope="module")
def url(network) -> Iterator[str]:
    with served(app.build_app(network)) as url:
        yield url


@pytest.fixture(scope="module")
def client(url, tmp_path_factory) -> Client:
    return Client(url, verbose=False, download_files=tmp_path_factory.mktemp("downloads"))


@pytest.fixture
def runs(network) -> list:
    network.runs.clear()
    return network.runs


# ------------------------------------------------------------------------------------------------------- before serving


def test_the_model_comes_from_model_id(model_dir):
    network = app.load_network(str(model_dir))
    assert network.origin.name == model_dir.name
    assert re.fullmatch("[0-9a-f]{12}", network.origin.revision)
    network.warm_up()


def test_weights_in_several_files_are_a_model_too(network, tmp_path):
    network.segmenter.model.save_pretrained(tmp_path, max_shard_size="1KB")
    network.segmenter.image_processor.save_pretrained(tmp_path)
    assert not (tmp_path / "model.safetensors").exists()
    assert re.fullmatch("[0-9a-f]{12}", app.load_network(str(tmp_path)).origin.revision)


@pytest.mark.parametrize("model_id", [None, "no/such/folder"])
def test_a_missing_model_is_one_sentence(model_id, tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "SHIPPED_MODEL", tmp_path / "weights")
    monkeypatch.delenv("MODEL_ID", raising=False)
    if model_id:
        monkeypatch.setenv("MODEL_ID", str(tmp_path / model_id))
    with pytest.raises(SystemExit) as stop:
        app.main()
    assert str(stop.value).startswith("error: ")
    assert str(tmp_path) in str(stop.value)
    assert "\n" not in str(stop.value)


class TestMemory:
    @pytest.fixture
    def calls(self, monkeypatch) -> list[tuple]:
        """What the C library is told, until it has been told to trim."""
        calls = []

        def malloc_trim(kept: int):
            calls.append(("malloc_trim", kept))
            sys.exit()  # of the thread

        library = SimpleNamespace(mallopt=lambda *option: calls.append(("mallopt", *option)), malloc_trim=malloc_trim)
        monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: library)
        monkeypatch.setattr(memory, "TRIM_SECONDS", 0)
        return calls

    @pytest.fixture(autouse=True)
    def environment(self, monkeypatch) -> dict[str, str]:
        environment = {}
        monkeypatch.setattr(memory, "os", SimpleNamespace(environ=environment))
        return environment

    def test_glibc_shares_heaps_between_threads_and_gives_back_what_is_free(self, calls, monkeypatch):
        monkeypatch.setattr(memory.platform, "libc_ver", lambda: ("glibc", "2.36"))
        memory.hold_memory_down()
        until(lambda: len(calls) == 2)
        assert calls == [("mallopt", -8, 2), ("malloc_trim", 0)]

    @pytest.mark.slow
    def test_as_many_files_may_be_open_as_the_system_allows(self):
        program = (
            "import resource as r; from space.memory import open_more_files; _, most = r.getrlimit(r.RLIMIT_NOFILE); "
            "r.setrlimit(r.RLIMIT_NOFILE, (64, most)); open_more_files(); "
            "assert r.getrlimit(r.RLIMIT_NOFILE) == (most, most)"
        )
        subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)

    def test_others_are_left_alone(self, calls, monkeypatch):
        monkeypatch.setattr(memory.platform, "libc_ver", lambda: ("", ""))
        memory.hold_memory_down()
        assert calls == []

    def test_nobody_has_to_find_out_how_matplotlib_draws(self, calls, environment):
        memory.hold_memory_down()
        assert environment == {"MPLBACKEND": "agg"}

    def test_who_runs_the_page_may_say_otherwise(self, calls, environment):
        environment["MPLBACKEND"] = "svg"
        memory.hold_memory_down()
        assert environment == {"MPLBACKEND": "svg"}


def test_on_zero_gpu_only_arrays_pass(model_dir, monkeypatch):
    decorated = []

    class Spaces:
        @staticmethod
        def GPU(function):  # noqa: N802 - the name that `spaces` gives it
            decorated.append(function)
            return function

    monkeypatch.setattr(app, "spaces", Spaces)
    app.load_network(str(model_dir))
    (run,) = decorated
    (segmentation,) = run([slice_of(24, 20)], "auto")
    assert isinstance(segmentation, Segmentation)
    assert {type(segmentation.image), type(segmentation.probability)} == {np.ndarray}


def test_a_gpu_that_fails_gives_way_to_the_cpu_and_says_so(model_dir):
    class Broken(TumorSegmenter):
        device = property(lambda self: type("Device", (), {"type": "cuda"}))

        def batch(self, *arguments, **options):
            raise RuntimeError("CUDA error: out of memory")

    segmenter = TumorSegmenter.from_pretrained(model_dir, device="cpu")
    network = Network(Broken(segmenter.model, segmenter.image_processor, "cpu"), Origin("tiny-unet"))
    assert network.place == "CUDA"
    (segmentation,) = network([slice_of(24, 20)])
    np.testing.assert_allclose(segmentation.probability, segmenter(slice_of(24, 20)).probability, atol=0.02)
    assert network.place == "CPU, as the CUDA device failed"


def test_examples_are_of_persons_that_no_model_trains_on():
    manifest = read_manifest()
    attribution = (ROOT / "examples" / "ATTRIBUTION.md").read_text(encoding="utf-8")
    assert len(EXAMPLES) == 9
    for path in EXAMPLES:
        tumor_type, plane, number = path.stem.split("-")
        row = manifest[number]
        mask = read_mask(ROOT / "examples" / "masks" / path.name)
        assert (row["tumor_type"], row["plane"], row["split"]) == (tumor_type, plane, "example")
        assert row["mask_sha256"] == mask_hash(mask)
        with Image.open(path) as image:
            assert (image.mode, image.size) == ("L", mask.shape[::-1])
        assert f"| `{path.name}` | {number} | {row['person_id']} |" in attribution


@pytest.mark.slow
def test_it_runs_as_a_space_does(model_dir, tmp_path):
    """At the port that the environment names, and without writing where it stands."""
    port = free_port()
    home, temporary = tmp_path / "home", tmp_path / "temporary"
    home.mkdir()
    environment = {"GRADIO_SERVER_PORT": str(port), "GRADIO_TEMP_DIR": str(temporary), "MODEL_ID": str(model_dir)}
    environment |= {"PYTHONDONTWRITEBYTECODE": "1", "HOME": str(home)}
    command = [sys.executable, str(ROOT / "app.py")]
    with subprocess.Popen(
        command, cwd=home, env=os.environ | environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            answer = _answer(f"http://127.0.0.1:{port}/config", process)
        finally:
            process.terminate()
    assert answer.json()["title"] == "Brain Tumor U-Net"
    assert list(temporary.glob("brain-tumor-unet/*"))
    assert not list(home.iterdir())


def _answer(url: str, process: subprocess.Popen, seconds: float = 300) -> httpx.Response:
    end = time.monotonic() + seconds
    with httpx.Client() as client:
        while time.monotonic() < end and process.poll() is None:
            try:
                return client.get(url)
            except httpx.TransportError:
                time.sleep(0.2)
    raise AssertionError(f"the page did not come up, exit code {process.poll()}")


# --------------------------------------------------------------------------------------------------------- one slice


@pytest.mark.parametrize(("height", "width", "dtype"), [(40, 56, np.uint8), (33, 17, np.uint16)])
def test_segment_answers_as_the_package_does(client, network, tmp_path, height, width, dtype):
    path = saved(tmp_path / "slice.png", slice_of(height, width, dtype))
    overlay, measurements, mask = client.predict(handle_file(path), api_name="/segment")
    expected = network.segmenter(path)
    warnings = {"warnings": list(expected.warnings)}
    assert measurements == json.loads(json.dumps(expected.to_dict() | warnings))
    with Image.open(mask) as picture:
        assert picture.mode == "L"
        np.testing.assert_array_equal(picture, expected.mask * np.uint8(255))
    with Image.open(overlay) as picture:
        np.testing.assert_array_equal(picture.convert("RGB"), expected.overlay())


def test_answers_to_the_same_slice_are_files_of_their_own(client, tmp_path):
    image = handle_file(saved(tmp_path / "slice.png", slice_of(40, 50)))
    raw = Client(client.src, verbose=False, download_files=False)
    first, second = (raw.predict(image, api_name="/segment") for _ in range(2))
    for one, other in ((first[0], second[0]), (first[2], second[2])):
        assert one["path"] != other["path"]


def test_segment_hides_small_pieces_where_it_is_asked_to(client, network, tmp_path):
    path = saved(tmp_path / "slice.png", slice_of(60, 60))
    expected = network.segmenter(path).cut(min_area_px=12)
    assert (expected.mask & ~expected.lesion_mask).any(), "this test needs a slice with specks"
    _, measurements, mask = client.predict(handle_file(path), min_area_px=12, api_name="/segment")
    with Image.open(mask) as picture:
        np.testing.assert_array_equal(np.asarray(picture) > 0, expected.lesion_mask)
    assert measurements["area_px"] == expected.lesion_mask.sum()
    assert len(measurements["lesions"]) == len(expected.lesions)
    assert measurements["highest_probability"] == expected.highest_probability


def test_segment_takes_a_spacing_and_a_threshold(client, tmp_path):
    path = saved(tmp_path / "slice.tif", slice_of(40, 50))
    _, measurements, _ = client.predict(handle_file(path), spacing=0.5, threshold=0.05, api_name="/segment")
    assert measurements["area_px"] == 40 * 50
    assert measurements["area_mm2"] == 40 * 50 * 0.25
    assert measurements["lesions"][0]["longest_diameter_mm"] == pytest.approx(np.hypot(20, 25))


def test_the_endpoints_are_two_and_say_what_they_are(client):
    endpoints = client.view_api(return_format="dict")["named_endpoints"]
    parameters = {
        name: [parameter["parameter_name"] for parameter in endpoint["parameters"]]
        for name, endpoint in endpoints.items()
    }
    rest = ["spacing", "threshold", "min_area_px"]
    assert parameters == {"/segment": ["image", *rest], "/segment_batch": ["files", *rest]}
    assert all("Not a medical device" in endpoint["description"] for endpoint in endpoints.values())


def test_the_api_page_describes_every_parameter_and_shows_our_own_files(url):
    endpoints = HTTP.get(f"{url}gradio_api/info").json()["named_endpoints"]
    for endpoint in endpoints.values():
        for parameter in endpoint["parameters"]:
            described = parameter["python_type"]["description"]
            assert len(described) > 40 and described.endswith("."), parameter["parameter_name"]
        example = endpoint["parameters"][0]["example_input"]
        (file,) = example if isinstance(example, list) else [example]
        assert (ROOT / file["path"]).is_file()
    assert "gradio-app" not in json.dumps([endpoint["parameters"] for endpoint in endpoints.values()])


def test_rules_for_some_screens_reach_the_page():
    """Gradio puts its own container before each of them; with another one before it, it would hold for nothing."""
    rules = re.findall(r"@media[^{]*\{(.*?)\n\}", (ROOT / "space" / "page.css").read_text(encoding="utf-8"), re.DOTALL)
    assert len(rules) > 4 and not [one for one in rules if ".gradio-container" in one]


def test_a_link_to_the_page_shows_what_it_is(url):
    answered = HTTP.get(url, headers={"x-forwarded-proto": "https", "x-forwarded-host": "pictures.test"})
    head = answered.text.partition("window.gradio_config")[0]
    tags = dict(re.findall(r'<meta (?:property|name)="([^"]+)" content="([^"]*)" ?/>', head))
    assert (tags["og:title"], tags["og:image"]) == ("Brain Tumor U-Net", "https://pictures.test/preview.png")
    assert "tumour" in tags["og:description"] == tags["description"]
    assert "Gradio" not in head and "gradio-app" not in head
    assert answered.headers["content-encoding"] == "gzip"
    assert int(answered.headers["content-length"]) == answered.num_bytes_downloaded < len(answered.content) / 1.3
    asked = {"x-forwarded-proto": "https", "x-forwarded-host": "pictures.test", "accept-encoding": "br, gzip;q=0"}
    plain = HTTP.get(url, headers=asked)
    assert plain.text == answered.text and "content-encoding" not in plain.headers
    assert int(plain.headers["content-length"]) == len(plain.content)
    with Image.open(io.BytesIO(HTTP.get(f"{url}preview.png").content)) as picture:
        assert picture.width > 600


# ----------------------------------------------------------------------------------------------------------- for models


def by_protocol(url: str, talk: Callable[[ClientSession], Awaitable[T]]) -> T:
    """What a client of the Model Context Protocol hears."""

    async def connect() -> T:
        async with (
            streamablehttp_client(f"{url}gradio_api/mcp/") as (read, write, _),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            return await talk(session)

    return asyncio.run(connect())


def as_text(path: Path) -> str:
    return f"data:application/octet-stream;base64,{base64.b64encode(path.read_bytes()).decode()}"


def test_models_find_two_tools_and_what_each_parameter_means(url):
    tools = {tool.name: tool for tool in by_protocol(url, ClientSession.list_tools).tools}
    assert tools.keys() == {"segment", "segment_batch"}
    for name, tool in tools.items():
        assert "Not a medical device" in tool.description and "base64" in tool.description
        assert tool.description.endswith("."), "cut"
        for parameter in tool.inputSchema["properties"].values():
            assert len(parameter["description"]) > 40 and parameter["description"].endswith("."), f"{name}: cut"
    assert tools["segment"].inputSchema["required"] == ["image"]
    assert tools["segment"].inputSchema["properties"]["image"]["type"] == "string"
    assert tools["segment_batch"].inputSchema["properties"]["files"]["items"] == {"type": "string"}


def test_a_model_sends_a_slice_as_text_and_gets_the_overlay_as_a_picture(url, network, tmp_path):
    path = saved(tmp_path / "slice.png", slice_of(40, 56))
    arguments = {"image": as_text(path), "spacing": 0.5}
    overlay, _, measurements, mask, _ = by_protocol(
        url, lambda session: session.call_tool("segment", arguments)
    ).content
    expected = network.segmenter(path).cut(spacing=(0.5, 0.5))
    for picture, pixels in ((overlay, expected.overlay()), (mask, expected.mask * np.uint8(255))):
        assert (picture.type, picture.mimeType) == ("image", "image/png")
        np.testing.assert_array_equal(Image.open(io.BytesIO(base64.b64decode(picture.data))), pixels)
    assert json.loads(measurements.text)["area_mm2"] == expected.area_mm2


def test_a_model_names_files_that_were_uploaded(url, network, tmp_path):
    paths = [saved(tmp_path / f"{name}.png", slice_of(30, 40, seed=seed)) for seed, name in enumerate("ab")]
    sent = HTTP.post(f"{url}gradio_api/upload", files=[("files", path.open("rb")) for path in paths]).json()
    arguments = {"files": [f"{url}gradio_api/file={path}" for path in sent]}
    answer = by_protocol(url, lambda session: session.call_tool("segment_batch", arguments))
    archive, rows, volume = (part.text for part in answer.content)
    assert [row["area_px"] for row in json.loads(rows)] == [network.segmenter(path).area_px for path in paths]
    assert "a_mask.png" in zipfile.ZipFile(io.BytesIO(HTTP.get(archive).content)).namelist()
    assert json.loads(volume) is None


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        ("http://127.0.0.1:9/slice.png", "is neither"),
        ("/etc/passwd", "is neither"),
        ("http://127.0.0.1:9/gradio_api/file=/etc/passwd", "passwd: the file was not uploaded"),
        ("data:image/png;base64,AAAA", "not an image"),
    ],
)
def test_what_a_model_must_not_send_is_refused_in_one_sentence(url, runs, image, reason):
    answer = by_protocol(url, lambda session: session.call_tool("segment", {"image": image}))
    assert answer.isError and reason in answer.content[0].text and "Traceback" not in answer.content[0].text
    assert runs == []


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_are_refused_in_one_sentence(client, runs, tmp_path, name):
    content, reason = BAD_FILES[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(AppError) as refusal:
        client.predict(handle_file(tmp_path / name), api_name="/segment")
    message = str(refusal.value)
    assert name in message
    assert reason in message
    assert "\n" not in message
    assert "Traceback" not in message
    assert not runs


def test_the_page_keeps_no_giants(client, tmp_path):
    path = saved(tmp_path / "long.png", slice_of(4100, 60))
    _, measurements, mask = client.predict(handle_file(path), spacing=0.5, api_name="/segment")
    assert (measurements["height"], measurements["width"], measurements["spacing"]) == (2050, 30, [1, 1])
    sentence = "The picture of 60 × 4100 pixels was scaled down to 30 × 2050, and so is the mask."
    assert sentence in measurements["warnings"]
    with Image.open(mask) as picture:
        assert picture.size == (30, 2050)


def test_the_endpoints_name_what_they_read():
    for kind in ("PNG", "JPEG 2000", "AVIF", ".npy", "NIfTI", "DICOM", "NRRD", "/segment_batch"):
        assert kind in Server.segment.__doc__
    for kind in ("ZIP", "tar", "several pages", "volume"):
        assert kind in Server.segment_batch.__doc__


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"threshold": 1.5}, "threshold is 1.5"),
        ({"spacing": -1}, "spacing is -1 mm; a pixel may have 0.01 to 100 mm"),
        ({"spacing": 1e200}, r"spacing is 1e\+200 mm; a pixel may have 0.01 to 100 mm"),
        ({"spacing": 5e-324}, "spacing is .* mm; a pixel may have 0.01 to 100 mm"),
        ({"min_area_px": -1}, "min_area_px is -1"),
        ({"min_area_px": 2**63}, "min_area_px is no number that can be used"),
    ],
)
def test_bad_numbers_are_refused_in_one_sentence(client, runs, tmp_path, arguments, reason):
    path = saved(tmp_path / "slice.png", slice_of(20, 20))
    with pytest.raises(AppError, match=reason):
        client.predict(handle_file(path), **arguments, api_name="/segment")
    assert not runs


def ask(url: str, function: int, data: list, event: object = None, page: str = "visitor"):
    """Make a request that no page would make."""
    request = {"data": data, "fn_index": function, "session_hash": page, "event_data": event}
    HTTP.post(f"{url}gradio_api/queue/join", json=request).raise_for_status()


def answer(url: str, function: int, data: list, event: object = None, page: str = "visitor") -> dict:
    ask(url, function, data, event, page)
    return hear(url, page)


def hear(url: str, page: str) -> dict:
    """What the queue says at the end of a request."""
    with HTTP.stream("GET", f"{url}gradio_api/queue/data?session_hash={page}") as stream:
        (line,) = (line for line in stream.iter_lines() if '"process_completed"' in line)
    return json.loads(line.removeprefix("data:"))["output"]


@functools.cache
def function(url: str, name: str) -> int:
    """The number of a function that the page alone calls."""
    (number,) = (one["id"] for one in HTTP.get(f"{url}config").json()["dependencies"] if one["api_name"] == name)
    return number


@pytest.mark.slow
def test_parameters_of_another_type_are_refused_in_one_sentence(url, runs, capfd):
    files = (None, True, 5, "x", [], [None], {}, {"path": 5}, [True], [{"path": None}], [{"path": "x" * 5000}])
    for function in HTTP.get(f"{url}config").json()["dependencies"]:
        is_public = function["api_visibility"] == "public"
        values = (*files, 10**400) if is_public else ("x",)
        asked = [(value, None) for value in values]
        if function["backend_fn"] and not is_public:
            asked += [(0.5, "index"), (0.5, {"index": 99})]
        # All at once, as each waits for the queue.
        for number, (value, event) in enumerate(asked):
            ask(url, function["id"], [value] * len(function["inputs"]), event, f"visitor {number}")
        for number, (value, event) in enumerate(asked):
            said = hear(url, f"visitor {number}")
            # Of a visitor without a slice there is nothing to change.
            assert said.get("error", "nothing to do"), (function["api_name"], value, event)
            assert "\n" not in said.get("error", "") and len(said.get("error", "")) < 300
    assert not runs
    assert "Traceback" not in capfd.readouterr().err


def test_functions_that_there_are_not_are_not_found(url, capfd):
    for route in ("queue/join", "run/segment", "run/nothing"):
        for function in (99, -1, 10**30):
            request = {"data": [], "fn_index": function, "session_hash": "visitor"}
            answered = HTTP.post(f"{url}gradio_api/{route}", json=request)
            assert (answered.status_code, answered.json()["detail"]) == (404, NO_FUNCTION)
    assert HTTP.post(f"{url}gradio_api/call/nothing", json={"data": []}).json()["detail"] == NO_FUNCTION
    assert "Traceback" not in capfd.readouterr().err


def json_of(length: int) -> bytes:
    """The kind that is dearest to parse."""
    start, end = b'{"session_hash": "visitor", "fn_index": 0, "data": [[]', b"]}"
    return (start + b",[]" * length)[: length - len(end)] + end


@pytest.mark.parametrize(
    "route", ["queue/join", "run/segment", "call/segment", "component_server", "cancel", "process_recording", "nothing"]
)
@pytest.mark.parametrize("says_its_length", [True, False])
def test_long_bodies_are_refused_before_they_are_parsed(url, route, says_its_length):
    body = json_of(MAX_BODY_BYTES + 1)
    content = body if says_its_length else iter([body[:1000], body[1000:]])
    headers = {"content-type": "application/json"}
    answered = HTTP.post(f"{url}gradio_api/{route}", content=content, headers=headers)
    assert (answered.status_code, answered.json()["detail"]) == (
        413,
        "The request is too long; at most 1,048,576 bytes are accepted.",
    )


def test_bodies_that_name_as_many_files_as_the_page_takes_are_heard(url):
    path = f"/tmp/gradio/brain-tumor-unet/tmp12345678/{'0' * 64}/a_slice_of_a_series_1234.dcm"
    file = {"path": path, "orig_name": "a_slice_of_a_series_1234.dcm", "meta": {"_type": "gradio.FileData"}}
    answered = HTTP.post(f"{url}gradio_api/call/segment_batch", json={"data": [[file] * 4000, 0, 0.5, 0]})
    assert answered.status_code == 200
    assert HTTP.get(f"{url}gradio_api/call/segment_batch/{answered.json()['event_id']}").status_code == 200


def received(body: bytes, path: str, chunk: int = 1000) -> tuple[bytes | None, list[dict]]:
    """What an app behind `ShortBodies` reads of a body, None if it is not asked; and what is answered."""
    messages = [
        {"type": "http.request", "body": body[at : at + chunk], "more_body": True} for at in range(0, len(body), chunk)
    ]
    messages.append({"type": "http.request"})
    read, sent = None, []

    async def receive() -> dict:
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def send(message: dict):
        sent.append(message)

    async def reader(scope, receive, send):
        nonlocal read
        message = await receive()
        read = message.get("body", b"")
        while message.get("more_body"):
            message = await receive()
            read += message.get("body", b"")
        assert (await receive())["type"] == "http.disconnect"

    asyncio.run(ShortBodies(reader)({"type": "http", "path": path, "root_path": ""}, receive, send))
    assert not messages, "the body was left unread"
    return read, sent


@pytest.mark.parametrize("path", ["/gradio_api/queue/join", "/gradio_api/upload", "/"])
@pytest.mark.parametrize("length", [0, 1, 10_500])
def test_bodies_that_are_short_enough_arrive_whole(path, length, monkeypatch):
    monkeypatch.setattr(requests, "MAX_BODY_BYTES", 10_500)
    body = bytes(length)
    assert received(body, path) == (body, [])


@pytest.mark.parametrize(
    "path", ["/gradio_api/queue/join", "/gradio_api/upload/other", "/gradio_api/run//gradio_api/upload"]
)
def test_bodies_are_long_by_what_arrives(path, monkeypatch):
    monkeypatch.setattr(requests, "MAX_BODY_BYTES", 10_500)
    read, (start, _) = received(bytes(10_501), path)
    assert (read, start["status"]) == (None, 413)


def test_an_upload_may_be_as_long_as_a_file_and_no_longer(monkeypatch):
    monkeypatch.setattr(requests, "MAX_BODY_BYTES", 10)
    monkeypatch.setattr(requests, "MAX_UPLOAD_BYTES", 10_500)
    assert received(bytes(10_500), "/gradio_api/upload") == (bytes(10_500), [])
    with pytest.raises(MultiPartException, match="maximum allowed size"):
        received(bytes(10_501), "/gradio_api/upload")


def test_a_form_that_is_too_long_is_refused(url, monkeypatch):
    monkeypatch.setattr(requests, "MAX_UPLOAD_BYTES", 100_000)
    # What is no file Gradio would keep in memory, however long it is.
    answered = HTTP.post(f"{url}gradio_api/upload", files={"field": (None, bytes(200_000))})
    assert answered.status_code == 413
    assert "Files exceeded maximum allowed size" in answered.text


@pytest.mark.parametrize("route", ["run", "api"])
@pytest.mark.parametrize("endpoint", ["segment", "segment_batch"])
def test_nobody_passes_by_those_who_wait(url, runs, route, endpoint):
    answered = HTTP.post(f"{url}gradio_api/{route}/{endpoint}", json={"data": [None, 0, 0.5, 0]})
    assert answered.status_code == 404
    assert "join the queue" in answered.json()["detail"]
    assert not runs


@pytest.mark.parametrize("letter", ["n", "ę"])
def test_a_slice_whose_name_is_longer_than_a_file_system_takes_is_segmented(url, runs, tmp_path, capfd, letter):
    content = saved(tmp_path / "slice.png", slice_of(20, 20)).read_bytes()
    sent = HTTP.post(f"{url}gradio_api/upload", files={"files": (f"{letter * 300}.png", content)})
    file = {"path": sent.json()[0], "meta": {"_type": "gradio.FileData"}}
    said = answer(url, function(url, "segment"), [file, None, 0.5, 0])
    assert "data" in said and not said.get("error"), said
    assert len(runs) == 1
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("api_name", ["/segment", "/segment_batch"])
def test_no_file_is_refused_in_one_sentence(client, api_name):
    with pytest.raises(AppError, match="no file was given"):
        client.predict(None, api_name=api_name)


@pytest.mark.slow
def test_files_of_visitors_are_served_from_a_folder_of_their_own_and_go(network, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    image = handle_file(saved(tmp_path / "slice.png", slice_of(40, 50)))
    with own_folder() as folder:
        page = app.build_app(network)
        with served(page) as url:
            overlay, *_ = Client(url, verbose=False, download_files=tmp_path / "answers").predict(
                image, api_name="/segment"
            )
            assert Path(overlay).stat().st_size
            assert {path.name for path in folder.rglob("*.png")} == {"slice.png", "overlay.png", "mask.png"}
            assert any(page.temp_file_sets)
            start_sweeping(folder, -1, page.forget)
            until(lambda: not folder.exists() and not any(page.temp_file_sets))
            _, measurements, _ = Client(url, verbose=False, download_files=False).predict(image, api_name="/segment")
            assert measurements["width"] == 50
    assert not any(folder.iterdir())


@pytest.mark.slow
def test_a_crowd_without_studies_takes_none_away(network, monkeypatch):
    # Which would otherwise forget so many.
    monkeypatch.setitem(app.LAUNCH_OPTIONS, "state_session_capacity", 3)
    with served(app.build_app(network)) as url:
        measure, example = function(url, "measure"), function(url, "show_example")
        answer(url, example, [0.5, 0, 0], {"index": 0, "moment": 1}, page="patient")
        for number in range(10):
            answer(url, measure, [{"moment": 1}, 0.5, 0, 0], page=f"crowd {number}")
        assert "px" in answer(url, measure, [{"moment": 2}, 0.5, 0, 0], page="patient")["data"][2]


@pytest.mark.slow
def test_gradio_keeps_nothing_of_what_it_has_shown(network):
    page = app.build_app(network)
    with served(page) as url:
        shown = answer(url, function(url, "show_example"), [0.5, 0, 0], {"index": 0, "moment": 1})["data"]
        assert "data:image/png" in shown[0]
        assert page._queue.events_recorded and not page._queue.event_analytics
        holder = page.app.state_holder
        assert not holder.session_data
        (scrubber,) = (key for key, block in page.blocks.items() if block.elem_id == "scrubber")
        for state in (holder.as_built, holder["visitor"]):
            assert shown[0] not in str(state.config_values)
            assert state[scrubber] is page.blocks[scrubber]


@pytest.mark.slow
class TestUnreadAnswers:
    """Whoever asks need not fetch the answer, which holds pictures."""

    @pytest.fixture
    def page(self, network) -> Iterator[app.Page]:
        page = app.build_app(network)
        with served(page) as page.url:
            yield page

    @staticmethod
    def choose(page: app.Page, name: str):
        """Have a page ask for an example, and let the answer lie."""
        ask(page.url, function(page.url, "show_example"), [0.5, 0, 0], {"index": 0, "moment": 1}, name)
        until(lambda: not page._queue.event_ids_to_events)

    def test_only_some_are_kept_and_the_newest_first(self, page, monkeypatch):
        self.choose(page, "first")
        size = page._queue.unread["first"]
        assert size > 100_000
        monkeypatch.setattr(forgetting, "MAX_UNREAD_BYTES", int(3.5 * size))
        for name in ("second", "third", "fourth", "fifth"):
            self.choose(page, name)
        assert kept(page) == {"first": 0, "second": 0, "third": 1, "fourth": 1, "fifth": 1}
        assert sum(page._queue.unread.values()) <= 3.5 * size

    def test_of_one_page_too(self, page, monkeypatch):
        self.choose(page, "one")
        size = page._queue.unread["one"]
        monkeypatch.setattr(forgetting, "MAX_UNREAD_BYTES", int(2.5 * size))
        for _ in range(3):
            self.choose(page, "one")
        assert kept(page)["one"] == 2
        # Somebody who comes now has nothing to fear.
        assert answer(page.url, function(page.url, "show_example"), [0.5, 0, 0], {"index": 0, "moment": 1}, "new")[
            "data"
        ]

    def test_they_are_forgotten_with_their_pages_unless_the_page_waits(self, page, network, monkeypatch):
        pending = page._queue.pending_messages_per_session
        monkeypatch.setattr(forgetting, "UNREAD_SECONDS", 0.1)
        network.gate.clear()
        # Not the one that is shown on arrival, for which the network has run.
        ask(page.url, function(page.url, "show_example"), [0.5, 0, 0], {"index": 1, "moment": 1}, "waits")
        ask(page.url, function(page.url, "measure"), [{"moment": 1}, 0.5, 0, 0], page="lies")
        until(lambda: "lies" not in pending)
        assert [*pending] == [*page._queue.pending_event_ids_session] == ["waits"]
        network.gate.set()
        until(lambda: not pending and not page._queue.pending_event_ids_session)

    def test_a_page_that_has_asked_meanwhile_is_not_forgotten_yet(self, page, monkeypatch):
        async def forget():
            page._queue._forget("asks")

        self.choose(page, "asks")
        asyncio.run(forget())
        assert "asks" in page._queue.pending_messages_per_session
        monkeypatch.setattr(forgetting, "UNREAD_SECONDS", 0)
        asyncio.run(forget())
        assert "asks" not in page._queue.pending_messages_per_session

    def test_pages_have_short_names(self, page):
        request = {
            "data": [{"moment": 1}, 0.5, 0, 0],
            "fn_index": function(page.url, "measure"),
            "session_hash": "x" * 101,
        }
        refused = HTTP.post(f"{page.url}gradio_api/queue/join", json=request)
        assert (refused.status_code, refused.json()["detail"]) == (400, NAMELESS)
        assert not page._queue.pending_messages_per_session


def kept(page: app.Page) -> dict[str, int]:
    """Page → number of answers that wait for it."""
    return {
        name: sum(isinstance(message, ProcessCompletedMessage) for message in messages._queue)
        for name, messages in page._queue.pending_messages_per_session.items()
    }


def test_the_size_of_an_answer_is_that_of_its_text():
    assert size_of({"data": ["abc", 1, None, {"value": ("de", 2.5)}]}) == 4 + 3 + 8 + 8 + 5 + 2 + 8


def test_nobody_sees_what_others_ask(url):
    for path in ("monitoring", "monitoring/summary"):
        assert HTTP.get(f"{url}{path}").status_code in (403, 404)
        assert HTTP.get(f"{url}gradio_api/{path}").status_code in (403, 404)


def test_no_file_of_the_project_is_served(url):
    for path in ("app.py", "README.md", "space/events.py", "examples/ATTRIBUTION.md"):
        assert HTTP.get(f"{url}gradio_api/file={ROOT / path}").status_code in (403, 404)


@pytest.mark.parametrize("endpoint", ["segment", "segment_batch"])
@pytest.mark.parametrize("meta", [{}, {"meta": {"_type": "gradio.FileData"}}])
def test_files_of_the_server_are_no_input(url, runs, meta, endpoint):
    """Gradio checks the path of a file only where the request says that it is one (`meta`)."""
    file = {"path": str(EXAMPLES[0]), **meta}
    data = [file if endpoint == "segment" else [file], 0, 0.5, 10]
    event = HTTP.post(f"{url}gradio_api/call/{endpoint}", json={"data": data}).json()["event_id"]
    answer = HTTP.get(f"{url}gradio_api/call/{endpoint}/{event}").text
    assert "event: error" in answer
    assert str(ROOT) not in answer.replace(str(EXAMPLES[0]), "")
    assert not runs


# --------------------------------------------------------------------------------------------------------- many slices


@pytest.fixture
def archive(tmp_path) -> Path:
    """Two slices, one of them again under its name in another folder, and a text."""
    files = {f"{name}.png": encoded(slice_of(40, 30, seed=seed)) for seed, name in enumerate(["a", "b", "other/a"])}
    return zipped(tmp_path / "slices.zip", {"notes.txt": b"not a slice", **files})


def test_segment_batch_gives_what_segment_gives(client, archive, runs, tmp_path):
    packed, measurements, volume = client.predict([handle_file(archive)], spacing=0.5, api_name="/segment_batch")
    assert runs == [3] and volume is None
    assert [row["slice"] for row in measurements] == ["notes.txt", "a.png", "b.png", "other/a.png"]
    assert measurements[0].keys() == {"slice", "error"}
    assert "notes.txt: the file is not an image" in measurements[0]["error"]
    with zipfile.ZipFile(packed) as results:
        names = ["a", "b", "other/a"]
        expected = {f"{name}_{kind}.png" for name in names for kind in ("mask", "overlay")}
        assert set(results.namelist()) == {*expected, "summary.csv"}
        table = list(csv.DictReader(io.StringIO(results.read("summary.csv").decode())))
        path = tmp_path / "b.png"
        path.write_bytes(encoded(slice_of(40, 30, seed=1)))
        _, single, mask = client.predict(handle_file(path), spacing=0.5, api_name="/segment")
        assert measurements[2] == {"slice": "b.png", **single}
        with Image.open(mask) as picture, Image.open(io.BytesIO(results.read("b_mask.png"))) as packed_picture:
            np.testing.assert_array_equal(picture, packed_picture)
    assert [row["slice"] for row in table] == [row["slice"] for row in measurements]
    assert [row["area_px"] for row in table[1:]] == [str(row["area_px"]) for row in measurements[1:]]
    assert table[0]["error"] == measurements[0]["error"]


def test_segment_batch_refuses_what_holds_no_slice(client, runs, tmp_path):
    path = zipped(tmp_path / "texts.zip", {"a.txt": b"a", "b.txt": b"b"})
    with pytest.raises(AppError, match=r"a\.txt: the file is not an image"):
        client.predict([handle_file(path)], api_name="/segment_batch")
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("zeros.png", bytes(20_000_000))
    with pytest.raises(AppError, match=r"bomb\.zip: it grows .* times"):
        client.predict([handle_file(bomb)], api_name="/segment_batch")
    assert not runs


def test_segment_batch_takes_a_volume(client, tmp_path):
    voxels = np.random.default_rng(0).integers(0, 255, (32, 24, 3), dtype=np.int16)
    nib.save(nib.Nifti1Image(voxels, np.diag([-0.5, 0.5, 4, 1])), tmp_path / "head.nii.gz")
    path, measurements, volume = client.predict([handle_file(tmp_path / "head.nii.gz")], api_name="/segment_batch")
    mask = nib.load(path)
    assert Path(path).name == "head_mask.nii.gz"
    assert mask.shape == (32, 24, 3)
    assert [row["area_px"] for row in measurements] == np.asarray(mask.dataobj).sum(axis=(0, 1)).tolist()
    assert measurements[0]["spacing"] == [0.5, 0.5]
    assert volume["voxels"] == np.asarray(mask.dataobj).sum()
    assert volume["volume_ml"] == pytest.approx(volume["voxels"] * 0.001)
    assert sum(lesion["voxels"] for lesion in volume["lesions"]) <= volume["voxels"]
    assert volume["planes"] == ["sagittal", "coronal", "axial"] and volume["warnings"] == measurements[0]["warnings"]


def test_segment_takes_a_volume_of_one_slice_as_segment_batch_does(client, tmp_path):
    voxels = np.random.default_rng(0).integers(0, 255, (32, 24, 1), dtype=np.int16)
    (tmp_path / "slice.dcm").write_bytes(phantoms.dicom(voxels[..., 0].astype(np.uint16)))
    nib.save(nib.Nifti1Image(voxels, np.diag([-0.5, 0.5, 4, 1])), tmp_path / "slice.nii.gz")
    for name in ("slice.dcm", "slice.nii.gz"):
        _, measurements, mask = client.predict(handle_file(tmp_path / name), spacing=9, api_name="/segment")
        _, (row,), _ = client.predict([handle_file(tmp_path / name)], spacing=9, api_name="/segment_batch")
        for figure in ("area_px", "spacing", "warnings"):
            assert row[figure] == measurements[figure]
        assert measurements["spacing"] != [9, 9]
        with Image.open(mask) as picture:
            assert np.count_nonzero(picture) == measurements["area_px"]


def test_segment_names_the_function_that_takes_several_slices(client, runs, tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((32, 24, 3), np.int16), np.eye(4)), tmp_path / "head.nii.gz")
    zipped(tmp_path / "slices.zip", {"a.png": encoded(slice_of(20, 20))})
    for name in ("head.nii.gz", "slices.zip"):
        with pytest.raises(AppError, match=rf"{name}: .*/segment takes one.*/segment_batch"):
            client.predict(handle_file(tmp_path / name), api_name="/segment")
    assert not runs


def test_programs_read_the_warnings_of_the_page(client, network, tmp_path):
    colours = np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)
    path = saved(tmp_path / "colours.png", colours)
    _, measurements, _ = client.predict(handle_file(path), api_name="/segment")
    _, (row,), _ = client.predict([handle_file(path)], api_name="/segment_batch")
    assert COLOURED in measurements["warnings"]
    assert measurements["warnings"] == row["warnings"] == list(segment_files([path], network).warnings)


def test_the_next_request_is_read_while_the_network_runs(client, network, runs, tmp_path):
    slices = [handle_file(saved(tmp_path / f"{side}.png", slice_of(side, side))) for side in (20, 24)]
    network.gate.clear()
    jobs = [client.submit(image, api_name="/segment") for image in slices]
    until(lambda: runs and network._waiting)
    network.gate.set()
    assert [job.result(timeout=60)[1]["height"] for job in jobs] == [20, 24]


@pytest.mark.slow
def test_a_full_queue_is_said_clearly(network, tmp_path):
    page = app.build_app(network)
    page.queue(max_size=0)
    with served(page) as url:
        client = Client(url, verbose=False, download_files=tmp_path)
        with pytest.raises(Exception, match="Queue is full! Please try again"):
            client.predict(handle_file(saved(tmp_path / "slice.png", slice_of(20, 20))), api_name="/segment")
