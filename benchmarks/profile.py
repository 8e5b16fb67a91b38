"""Where the time goes, of one slice and of a training step.

    python -m benchmarks.profile [--rounds 50]                    one slice: read, prepare, network, …
    python -m benchmarks.profile --data_dir DATA [fit's options]  a step of training: waiting for data, computing

Run it with -m: as a script, its folder would come first and hide the standard library's module of the same name.
"""

import argparse
import io
import statistics
import tempfile
import time
from pathlib import Path
from unittest import mock

import torch
from transformers.utils import logging

from modeling_unet import Segmentation, TumorSegmenter, read_image
from modeling_unet.overlay import to_display
from modeling_unet.provenance import SHIPPED_MODEL
from train.files import write_json
from train.fitting import run, trainer
from train.fitting.options import parse_fit

from .measuring import EXAMPLES, WARM_UP_ROUNDS, describe_machine, print_table


NETWORK = "network"
STEPS = 30
# Meanwhile workers start, kernels are chosen and caches fill.
WARM_UP_STEPS = 5


class Stopwatch:
    """Seconds of each stage, of many passes.

    Attributes:
        seconds: stage → what it took, one entry per pass.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.seconds: dict[str, list[float]] = {}
        self.lap()

    def lap(self, stage: str | None = None):
        """End a stage, and begin the next one; time that belongs to none ends without a name."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        if stage is not None:
            self.seconds.setdefault(stage, []).append(now - self.since)
        self.since = now

    def table(self, skip: int) -> dict[str, dict[str, float]]:
        """Stage → median in ms and share of the sum, without the first passes."""
        medians = {stage: statistics.median(values[skip:]) for stage, values in self.seconds.items()}
        total = sum(medians.values())
        return {
            stage: {"median_ms": round(1000 * seconds, 2), "percent": round(100 * seconds / total, 1)}
            for stage, seconds in medians.items()
        }


# ----------------------------------------------------------------------------------------------------------- one slice


@torch.inference_mode()
def segment_in_stages(segmenter: TumorSegmenter, content: bytes, watch: Stopwatch) -> Segmentation:
    """What `TumorSegmenter` does with one file, stage by stage."""
    processor, network = segmenter.image_processor, segmenter.network
    watch.lap()
    image = read_image(io.BytesIO(content))
    watch.lap("read and decode")
    pixel_values = processor([image], return_tensors="pt")["pixel_values"]
    pixel_values = pixel_values.to(segmenter.device, network.dtype, memory_format=torch.channels_last)
    watch.lap("prepare")
    outputs = network(pixel_values)
    watch.lap(NETWORK)
    (probability,) = processor.post_process_probability(outputs, target_sizes=[image.shape[:2]])
    probability = probability.cpu().numpy()
    watch.lap("enlarge to the slice's size")
    display = to_display(image)
    watch.lap("display")
    return Segmentation(display, probability)


def profile_slice(segmenter: TumorSegmenter, rounds: int) -> dict:
    watch = Stopwatch(segmenter.device)
    files = [path.read_bytes() for path in EXAMPLES]
    for number in range(WARM_UP_ROUNDS + rounds):
        segment_in_stages(segmenter, files[number % len(files)], watch)
    return watch.table(skip=WARM_UP_ROUNDS)


# ------------------------------------------------------------------------------------------------------------ training


def profile_training(options: list[str], steps: int) -> dict:
    """Train for a few steps on all persons, so that no validation comes in between, and throw the result away.

    On a GPU each stage waits for the device to finish, so that the figure for the data is rather too high.
    """
    watch = None

    class TimedTrainer(trainer.SegmentationTrainer):
        def get_batch_samples(self, *args, **kwargs):
            nonlocal watch
            if watch is None:
                watch = Stopwatch(self.args.device)
            else:
                watch.lap("computing")
            batches = super().get_batch_samples(*args, **kwargs)
            watch.lap("waiting for data")
            return batches

    with tempfile.TemporaryDirectory() as folder, mock.patch.object(run, "SegmentationTrainer", TimedTrainer):
        fixed = ["--output_dir", folder, "--all_persons", "true", "--max_steps", str(WARM_UP_STEPS + steps)]
        quiet = ["--save_strategy", "no", "--logging_strategy", "no", "--report_to", "none"]
        run.fit(parse_fit([*options, *fixed, *quiet]))
    return watch.table(skip=WARM_UP_STEPS)


# ---------------------------------------------------------------------------------------------------------------- main


def main(arguments: list[str] | None = None) -> dict:
    """Profile one slice or, given `--data_dir`, the training; print the table and return what `--out` writes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile", allow_abbrev=False)
    add = parser.add_argument
    add("--model", type=Path, default=SHIPPED_MODEL, help="model folder (the shipped one)")
    add("--device", default="auto", help="auto, cuda, mps or cpu")
    add("--optimize", default="auto", help="auto or none, as of TumorSegmenter")
    add("--threads", type=int, default=2, help="threads of the CPU (%(default)s)")
    add("--rounds", type=int, default=50, help="slices to segment (%(default)s)")
    add("--data_dir", help="profile the training on this data set instead")
    add("--steps", type=int, default=STEPS, help="of the training (%(default)s)")
    add("--out", type=Path, metavar="FILE.json", help="write the figures")
    options, of_fit = parser.parse_known_args(arguments)
    if of_fit and options.data_dir is None:
        parser.error(f"{of_fit[0]} is no option of the profile of a slice")

    logging.disable_progress_bar()
    torch.set_num_threads(options.threads)
    report = {"machine": describe_machine()}
    if options.data_dir is None:
        segmenter = TumorSegmenter.from_pretrained(options.model, device=options.device, optimize=options.optimize)
        rows = report["one slice"] = profile_slice(segmenter, options.rounds)
        print_table("one slice", rows)
        report["percent_outside_the_network"] = round(100 - rows[NETWORK]["percent"], 1)
        print(f"outside the network: {report['percent_outside_the_network']} %")
    else:
        rows = report["training step"] = profile_training(["--data_dir", options.data_dir, *of_fit], options.steps)
        print_table("training step", rows)
    if options.out:
        write_json(options.out, report)
    return report


if __name__ == "__main__":
    main()
