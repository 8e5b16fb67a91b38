"""How fast the segmenter is beside its peers, in one run: python -m benchmarks.compare [--out FILE.json]

    one slice     bytes of a PNG file → probability at the slice's own size
    16 slices     decoded arrays → probabilities at their own size
    network       one prepared slice of 128 … 1024 px, to see how the cost grows
    memory        peak of a process that does nothing else
    AVX2          the first two again, with oneDNN limited to AVX2, as on machines without bfloat16
    cold start    `python app.py` until its first answer (--cold_start)
    GPU           the network alone, the batch swept, beside what the device can do at best; and the masks that it
                  finds, beside those of the CPU in float32

The first row of a table is what the others are compared with; contestants.py says who they are. Memory is read from
/proc, as Linux has it.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers.utils import logging

from modeling_unet import TumorSegmenter, read_image
from modeling_unet.comparison import Overlap
from modeling_unet.provenance import SHIPPED_MODEL
from modeling_unet.segmenter import QUALITIES
from train.files import write_json

from .contestants import MAKERS, SIDE, Ours, Peer
from .measuring import (
    EXAMPLES,
    ROOT,
    describe_machine,
    first_answer_seconds,
    print_table,
    summarize,
    take_turns,
)


BATCH_SIZE = 16
SIZES = (128, 256, 512, 1024)
GPU_BATCHES = (1, 4, 16, 64, 256)
GPU_ROUNDS = 20
PEAK_SIDE = 8192  # of the square matrices that show what a GPU can do

MEMORY_PROGRAM = """
import os, sys
from pathlib import Path
from benchmarks.contestants import MAKERS
from benchmarks.measuring import EXAMPLES, memory_mib

rival = MAKERS[sys.argv[1]](Path(sys.argv[2]), "cpu")
for path in EXAMPLES:
    rival.from_file(path.read_bytes())
print(memory_mib(os.getpid(), "VmHWM"))
"""


# ------------------------------------------------------------------------------------------------------------ sections


def compare_one_slice(rivals: dict[str, Ours | Peer], rounds: int) -> dict:
    files = [path.read_bytes() for path in EXAMPLES]
    tasks = {
        name: lambda number, rival=rival: rival.from_file(files[number % len(files)]) for name, rival in rivals.items()
    }
    return summarize(take_turns(tasks, rounds))


def compare_batch(rivals: dict[str, Ours | Peer], rounds: int, batch_size: int) -> dict:
    images = [read_image(EXAMPLES[index % len(EXAMPLES)]) for index in range(batch_size)]
    tasks = {name: lambda _, rival=rival: rival.from_arrays(images) for name, rival in rivals.items()}
    return summarize(take_turns(tasks, rounds), slices=batch_size)


def compare_sizes(rivals: dict[str, Ours | Peer], rounds: int, sizes: list[int]) -> dict:
    """Rival → milliseconds of its network by side of the slice in px."""
    table = {name: {} for name in rivals}
    for side in sizes:
        tasks = {name: network_task(rival, 1, side) for name, rival in rivals.items()}
        for name, row in summarize(take_turns(tasks, rounds)).items():
            table[name][f"{side} px"] = row["median_ms"]
    return table


def network_task(rival: Ours | Peer, batch_size: int, side: int = SIDE, device: str = "cpu") -> Callable[[int], None]:
    pixel_values = prepared(rival, batch_size, side, device)

    @torch.inference_mode()
    def run(_):
        rival.network(pixel_values)
        if device != "cpu":
            torch.cuda.synchronize()

    return run


def prepared(rival: Ours | Peer, batch_size: int, side: int, device: str) -> Tensor:
    pixel_values = torch.randn(batch_size, 1, side, side)
    return pixel_values.to(device, rival.dtype, memory_format=rival.memory_format)


def peak_memory_mib(name: str, model: Path) -> int:
    """Of a process that makes one contestant and lets it segment every example."""
    command = [sys.executable, "-c", MEMORY_PROGRAM, name, str(model)]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return round(float(answer.stdout.split()[-1]))


def compare_on_avx2(options: argparse.Namespace) -> dict:
    """The sections about one slice and a batch, from a process whose oneDNN knows no more than AVX2."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "avx2.json")
        command = [sys.executable, "-m", "benchmarks.compare", "--only_slices", f"--out={out}"]
        command += [f"--{name}={getattr(options, name)}" for name in ("model", "threads", "rounds", "batch_size")]
        environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}
        subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, check=True)
        return json.loads(out.read_text())


# ----------------------------------------------------------------------------------------------------------------- GPU


def compare_on_gpu(rivals: dict[str, Ours | Peer], batch_sizes: tuple[int, ...] = GPU_BATCHES) -> dict:
    """Rival → slices per second of its network by batch size, and the share of what the device could do at best."""
    table = {name: {} for name in rivals}
    for batch_size in batch_sizes:
        tasks = {name: network_task(rival, batch_size, device="cuda") for name, rival in rivals.items()}
        for name, row in summarize(take_turns(tasks, GPU_ROUNDS), slices=batch_size).items():
            table[name][f"batch {batch_size}"] = row["slices_per_s"]
    for name, rival in rivals.items():
        best_s = shortest_seconds(rival, batch_sizes[-1])
        table[name]["roofline_share"] = round(best_s * table[name][f"batch {batch_sizes[-1]}"] / batch_sizes[-1], 3)
    return table


def compare_precision(model: Path) -> dict:
    """Quality and precision → how far the GPU's answers on the examples lie from those of the CPU in float32."""
    table = {}
    for quality in QUALITIES:
        exact = TumorSegmenter.from_pretrained(model, device="cpu", optimize="none", quality=quality)
        expected = [exact(path) for path in EXAMPLES]
        for optimize in ("none", "auto"):
            segmenter = TumorSegmenter.from_pretrained(model, device="cuda", optimize=optimize, quality=quality)
            found = [segmenter(path) for path in EXAMPLES]
            pairs = list(zip(found, expected, strict=True))
            times = take_turns(
                {"slice": lambda number, ours=segmenter: ours(EXAMPLES[number % len(EXAMPLES)])}, GPU_ROUNDS
            )
            table[f"{quality}, {str(segmenter.network.dtype).removeprefix('torch.')}"] = {
                "median_ms": summarize(times)["slice"]["median_ms"],
                "least_dice": round(min(Overlap.of(ours.mask, other.mask).dice for ours, other in pairs), 4),
                "largest_difference": max(
                    float(abs(ours.probability - other.probability).max()) for ours, other in pairs
                ),
            }
    return table


def shortest_seconds(rival: Ours | Peer, batch_size: int) -> float:
    """The roofline of one pass: its operations, or what its convolutions read and write, whichever is longer."""
    moved = 0

    def count(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor):
        nonlocal moved
        moved += arguments[0].nbytes + output.nbytes + module.weight.nbytes

    convolutions = [module for module in rival.network.modules() if isinstance(module, nn.Conv2d | nn.ConvTranspose2d)]
    hooks = [module.register_forward_hook(count) for module in convolutions]
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        rival.network(prepared(rival, batch_size, SIDE, "cuda"))
    for hook in hooks:
        hook.remove()
    flops_per_s, bytes_per_s = peaks(rival.dtype)
    return max(counter.get_total_flops() / flops_per_s, moved / bytes_per_s)


def peaks(dtype: torch.dtype) -> tuple[float, float]:
    """(operations per second in a large matrix product, bytes per second read and written in a copy), measured."""
    torch.set_float32_matmul_precision("high")  # TF32, in which convolutions of float32 are done by default
    matrix = torch.randn(PEAK_SIDE, PEAK_SIDE, device="cuda", dtype=dtype)
    copy = torch.empty_like(matrix)

    def seconds_of(work: Callable[[], object]) -> float:
        def run(_):
            work()
            torch.cuda.synchronize()

        return min(take_turns({"peak": run}, GPU_ROUNDS)["peak"])

    return 2 * PEAK_SIDE**3 / seconds_of(lambda: matrix @ matrix), 2 * matrix.nbytes / seconds_of(
        lambda: copy.copy_(matrix)
    )


# ---------------------------------------------------------------------------------------------------------------- main


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", allow_abbrev=False)
    add = parser.add_argument
    add("--model", type=Path, default=SHIPPED_MODEL, help="model folder (the shipped one)")
    add("--threads", type=int, default=2, help="threads of the CPU (%(default)s)")
    add("--rounds", type=int, default=30, help="turns of every contestant; a tenth of them with batches (%(default)s)")
    add("--batch_size", type=int, default=BATCH_SIZE, help="slices of a batch (%(default)s)")
    add("--sizes", type=int, nargs="*", default=SIZES, help="sides of the slices, in px (%(default)s)")
    add("--only_slices", action="store_true", help="nothing but one slice and a batch")
    add("--cold_start", action="store_true", help="start the app as well and wait for its first answer")
    add("--out", type=Path, metavar="FILE.json", help="write all figures")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> dict:
    """Run all sections, print their tables, and return what `--out` writes."""
    options = parse(arguments)
    logging.disable_progress_bar()
    torch.set_num_threads(options.threads)
    report = {"machine": describe_machine()}
    print(json.dumps(report["machine"], indent=2))

    def add(title: str, rows: dict):
        report[title] = rows
        print_table(title, rows)

    rivals = {name: make(options.model, "cpu") for name, make in MAKERS.items()}
    few = max(options.rounds // 10, 1)
    add("one slice", compare_one_slice(rivals, options.rounds))
    add(f"{options.batch_size} slices", compare_batch(rivals, few, options.batch_size))
    if not options.only_slices:
        add("network, ms", compare_sizes(rivals, few, options.sizes))
        add("memory", {name: {"peak_mib": peak_memory_mib(name, options.model)} for name in MAKERS})
        for title, rows in compare_on_avx2(options).items():
            if title != "machine":
                add(f"AVX2: {title}", rows)
        if torch.cuda.is_available():
            on_gpu = {name: make(options.model, "cuda") for name, make in MAKERS.items()}
            add("GPU, slices/s", compare_on_gpu(on_gpu))
            add("GPU, beside the CPU in float32", compare_precision(options.model))
        else:
            print("\nGPU: there is none on this machine")
    if options.cold_start:
        add("cold start", {"python app.py": {"seconds": round(first_answer_seconds(options.model), 1)}})
    if options.out:
        write_json(options.out, report)
    return report


if __name__ == "__main__":
    main()
