"""Hostile files against every door of the project, with time and memory.

    python -m benchmarks.hostile                                 the amplifiers, and 500 files of all kinds
    python -m benchmarks.hostile --mutations 6000 --seed 7       damaged files of twelve formats, others with every seed

Each file (tests/hostile.py) is read in a process of its own, so that a crash, a hang or a leak is one file's and is
counted; the exit code is 1 if there is any. Seconds are the processor's, at the slowest door; peak memory is that of
the whole process, PyTorch included.
"""

import argparse
import multiprocessing
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np


sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from hostile import AMPLIFIERS, KINDS, Answer, Made, hostile_file, knock, mutated, write_file


# Run with -m, this module is the main one too, and the processes that read files know it by both names.
warnings.filterwarnings("ignore", "'benchmarks.hostile' found in sys.modules", RuntimeWarning)

MAX_SECONDS = 10
MAX_WAIT = 90  # on a busy machine
MAX_MIB = 1536


class Result(NamedTuple):
    """What happened to one file.

    Attributes:
        answers: of the doors; none where there is a problem.
        problem: what went wrong; empty if nothing did.
        seconds: of the processor, at the slowest door.
        peak_mib: most memory of the process.
    """

    answers: list[Answer]
    problem: str
    seconds: float
    peak_mib: float


def read(path: Path, results):
    """In the child process: read the file by every door, and send what happened."""
    warnings.simplefilter("ignore")
    start = time.process_time()
    try:
        answers = knock(path)
        problem, seconds = "", max(answer.seconds for answer in answers)
    except BaseException as error:
        answers, problem, seconds = [], f"{type(error).__name__}: {error}", time.process_time() - start
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    results.send((answers, problem, seconds, peak_mib))


def try_file(path: Path) -> Result:
    """Read a file in a process of its own."""
    # A process that has only imported everything is forked: children start at once, with little memory.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.hostile"])
    results, ours = context.Pipe(duplex=False)
    child = context.Process(target=read, args=(path, ours))
    child.start()
    ours.close()
    if not results.poll(MAX_WAIT):
        child.kill()
        return Result([], "hang", MAX_WAIT, 0)
    try:
        result = Result(*results.recv())
    except EOFError:
        child.join()
        return Result([], f"crash, exit code {child.exitcode}", 0, 0)
    child.join()
    if not result.problem and result.seconds > MAX_SECONDS:
        return result._replace(problem="slow")
    if not result.problem and result.peak_mib > MAX_MIB:
        return result._replace(problem="memory")
    return result


def files(args: argparse.Namespace) -> Iterator[tuple[str, Made]]:
    """The title of every file that is asked for, and the file."""
    if not args.mutations:
        yield from ((f"amplifier {name}", (name, make())) for name, make in AMPLIFIERS.items())
        for seed in range(args.seed, args.seed + args.files):
            yield f"{seed} {KINDS[seed % len(KINDS)].__name__}", hostile_file(seed)
    for number in range(args.mutations):
        yield f"mutation {number}", mutated(np.random.default_rng((args.seed, number)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=500, help="number of files of all kinds (%(default)s)")
    parser.add_argument("--mutations", type=int, default=0, help="this many damaged files instead (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="other files for every number (%(default)s)")
    args = parser.parse_args()
    count, problems, let_in, slowest, largest = 0, 0, 0, (0.0, ""), (0.0, "")
    with tempfile.TemporaryDirectory() as folder:
        for title, made in files(args):
            path = write_file(Path(folder), made)
            result = try_file(path)
            title = f"{title} {path.name!r}"
            if result.problem:
                print(f"{title}: {result.problem} ({result.seconds:.1f} s, {result.peak_mib:.0f} MiB)", flush=True)
            count += 1
            problems += bool(result.problem)
            let_in += any(not answer.sentence for answer in result.answers)
            slowest, largest = max(slowest, (result.seconds, title)), max(largest, (result.peak_mib, title))
            path.unlink()
    print(f"files: {count}, let in by a door: {let_in}, problems: {problems}")
    print(f"slowest: {slowest[0]:.1f} s, {slowest[1]}; most memory: {largest[0]:.0f} MiB, {largest[1]}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
