"""Many users at once: python -m benchmarks.load [--users 1 8 32] [--minutes 5] [--out FILE.json]

    python app.py ←─ /segment ─ each user sends slice after slice, and checks that each answer is about its slice

Server and users run on this machine. All slices differ in size, so that a wrong answer is noticed. The exit code is 1
if an answer was wrong.
"""

import argparse
import itertools
import random
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image
from transformers.utils import logging

from modeling_unet import TumorSegmenter, read_image, read_mask
from modeling_unet.provenance import SHIPPED_MODEL
from train.files import write_json

from .measuring import EXAMPLES, describe_machine, memory_mib, print_table, serve


SLICES_PER_USER = 4
# Requests that go through the network together round a little differently from one alone.
MAX_DIFFERING_SHARE = 0.005
PAUSE_S = 1.0  # of a user whom a full queue has turned away


@dataclass(frozen=True)
class Question:
    """A slice to send, and the mask that has to come back."""

    path: Path
    mask: np.ndarray

    def is_answered_by(self, measurements: dict, mask: np.ndarray) -> bool:
        size = measurements["height"], measurements["width"]
        if size != self.mask.shape or mask.shape != self.mask.shape:
            return False
        return np.mean(mask != self.mask) <= MAX_DIFFERING_SHARE


@dataclass
class Log:
    """What all users have seen."""

    seconds: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    refusals: Counter = field(default_factory=Counter)


def make_questions(segmenter: TumorSegmenter, users: int, folder: Path) -> list[list[Question]]:
    """For every user a few example slices, each cut to a size of its own."""
    examples = itertools.cycle(EXAMPLES)
    return [
        [make_question(segmenter, next(examples), (user, number), folder) for number in range(SLICES_PER_USER)]
        for user in range(users)
    ]


def make_question(segmenter: TumorSegmenter, example: Path, cut: tuple[int, int], folder: Path) -> Question:
    image = read_image(example)
    height, width = np.subtract(image.shape, cut)
    path = folder / f"{height}x{width}.png"
    Image.fromarray(image[:height, :width]).save(path)
    return Question(path, segmenter(path).mask)


def use(url: str, questions: list[Question], until: float, log: Log, lock: threading.Lock):
    """One user: ask, wait, check, ask again, until the time is over; once at least."""
    with tempfile.TemporaryDirectory() as downloads:
        client = Client(url, verbose=False, download_files=downloads)
        for number in itertools.count():
            if number and time.monotonic() >= until:
                return
            question = random.choice(questions)
            start = time.perf_counter()
            try:
                overlay, measurements, mask = client.predict(handle_file(question.path), api_name="/segment")
            except AppError as error:
                with lock:
                    log.refusals[str(error)] += 1
                time.sleep(PAUSE_S)
                continue
            seconds = time.perf_counter() - start
            with lock:
                log.seconds.append(seconds)
                if not question.is_answered_by(measurements, read_mask(mask)):
                    log.wrong.append(question.path.name)
            Path(overlay).unlink()
            Path(mask).unlink()


def measure(url: str, process_id: int, questions: list[list[Question]], minutes: float) -> tuple[dict, Log]:
    """Let as many users as there are lists of questions ask for some minutes; (the row of the table, the log)."""
    log, lock = Log(), threading.Lock()
    before_mib = memory_mib(process_id)
    start = time.monotonic()
    until = start + 60 * minutes
    with ThreadPoolExecutor(len(questions)) as users:
        for user in [users.submit(use, url, own, until, log, lock) for own in questions]:
            user.result()
    row = {
        "answers": len(log.seconds),
        "wrong": len(log.wrong),
        "refused": log.refusals.total(),
        "answers_per_s": round(len(log.seconds) / (time.monotonic() - start), 2),
        "p50_s": round(statistics.median(log.seconds), 3),
        "p95_s": round(float(np.percentile(log.seconds, 95)), 3),
        "mib_before": round(before_mib),
        "mib_after": round(memory_mib(process_id)),
        "mib_peak": round(memory_mib(process_id, "VmHWM")),
    }
    return row, log


def main(arguments: list[str] | None = None) -> dict:
    """Start the app, run one round for each number of users, print the table and return what `--out` writes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", allow_abbrev=False)
    add = parser.add_argument
    add("--model", type=Path, default=SHIPPED_MODEL, help="model folder (the shipped one)")
    add("--users", type=int, nargs="+", default=[1, 8, 32], help="at a time, one round for each number (%(default)s)")
    add("--minutes", type=float, default=5, help="of every round (%(default)s)")
    add("--out", type=Path, metavar="FILE.json", help="write the figures")
    options = parser.parse_args(arguments)
    logging.disable_progress_bar()
    rows, refusals = {}, Counter()
    with tempfile.TemporaryDirectory() as folder:
        questions = make_questions(TumorSegmenter.from_pretrained(options.model), max(options.users), Path(folder))
        with serve(options.model) as (url, process_id):
            use(url, questions[0], time.monotonic() + 1, Log(), threading.Lock())  # the first answers fill caches
            for users in options.users:
                rows[f"{users} users"], log = measure(url, process_id, questions[:users], options.minutes)
                refusals += log.refusals
    print_table("load", rows)
    for sentence, count in refusals.items():
        print(f"refused {count} times: {sentence}")
    report = {"machine": describe_machine(), "minutes": options.minutes, "load": rows, "refusals": dict(refusals)}
    if options.out:
        write_json(options.out, report)
    return report


if __name__ == "__main__":
    sys.exit(any(row["wrong"] for row in main()["load"].values()))
