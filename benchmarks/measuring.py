"""What the benchmarks share.

Contestants take turns, so that other work on the machine slows all of them equally. The app is asked in a process of
its own, as `python app.py` starts it.
"""

import os
import platform
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch


ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted((ROOT / "examples" / "images").glob("*.png"))
WARM_UP_ROUNDS = 2
PATIENCE_S = 300
PAUSE_S = 0.05


def take_turns(tasks: dict[str, Callable[[int], object]], rounds: int) -> dict[str, list[float]]:
    """Run every task once per round, after warm-up, and return the seconds of each run; a task is told the round."""
    seconds = {name: [] for name in tasks}
    for number in range(-WARM_UP_ROUNDS, rounds):
        for name, task in tasks.items():
            start = time.perf_counter()
            task(number)
            if number >= 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def summarize(seconds: dict[str, list[float]], slices: int = 1) -> dict[str, dict[str, float]]:
    """Median and 95th percentile in ms, slices per second, and how many times as long as the first it takes."""
    first = statistics.median(next(iter(seconds.values())))
    return {
        name: {
            "median_ms": round(1000 * statistics.median(values), 3),
            "p95_ms": round(1000 * float(np.percentile(values, 95)), 3),
            "slices_per_s": round(slices / statistics.median(values), 2),
            "times_the_first": round(statistics.median(values) / first, 2),
        }
        for name, values in seconds.items()
    }


def print_table(title: str, rows: dict[str, dict]):
    """Rows of one set of columns, named on the left."""
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    left = max(map(len, rows))
    widths = {column: max(len(column), 9) for column in columns}
    print(f"\n{title}\n{'':{left}}  " + "  ".join(f"{column:>{widths[column]}}" for column in columns))
    for name, row in rows.items():
        print(f"{name:{left}}  " + "  ".join(f"{row.get(column, ''):>{widths[column]}}" for column in columns))


def describe_machine() -> dict:
    """The hardware and software that the figures are of."""
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "instructions": sorted(
            name for name in ("avx2", "avx512_f", "avx512_bf16", "amx_bf16") if capabilities.get(name)
        ),
        "onednn_max_cpu_isa": os.environ.get("ONEDNN_MAX_CPU_ISA"),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "load_at_start": round(os.getloadavg()[0], 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def memory_mib(process_id: int, what: str = "VmRSS") -> float:
    """MiB of a process: "VmRSS", what it holds now, of that "RssAnon" or in "RssFile" files; "VmHWM", the most ever."""
    status = Path(f"/proc/{process_id}/status").read_text(encoding="utf-8")
    (kib,) = (line.split()[1] for line in status.splitlines() if line.startswith(f"{what}:"))
    return int(kib) / 1024


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


# --------------------------------------------------------------------------------------------------------- the app


@contextmanager
def serve(model: Path) -> Iterator[tuple[str, int]]:
    """Start the app on a free port of this machine, and yield its address, once it answers, and its process id."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {"MODEL_ID": str(model), "GRADIO_SERVER_NAME": "127.0.0.1", "GRADIO_SERVER_PORT": str(port)}
    app = subprocess.Popen(
        [sys.executable, "app.py"], cwd=ROOT, env={**os.environ, **settings}, stdout=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(url, app)
        yield url, app.pid
    finally:
        app.terminate()
        app.wait(timeout=PATIENCE_S)


def wait_for(url: str, app: subprocess.Popen):
    """Return once the page is served, or raise RuntimeError if the app ends or needs too long."""
    import httpx  # here, as the next one: whatever is imported counts to the memory that others are measured by

    deadline = time.monotonic() + PATIENCE_S
    with httpx.Client() as client:  # the certificates of a new one take longer than an answer
        while app.poll() is None and time.monotonic() < deadline:
            try:
                return client.get(url).raise_for_status()
            except httpx.HTTPError:
                time.sleep(PAUSE_S)
    raise RuntimeError(f"the app did not answer at {url}; its exit code is {app.poll()}")


def first_answer_seconds(model: Path) -> float:
    """From the start of the app to its answer about one slice."""
    from gradio_client import Client, handle_file

    start = time.perf_counter()
    with serve(model) as (url, _):
        Client(url, verbose=False).predict(handle_file(EXAMPLES[0]), api_name="/segment")
        return time.perf_counter() - start
