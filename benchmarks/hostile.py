"""Hostile files against every door of the project, with time and memory: python -m benchmarks.hostile [--files 500]

Each file (tests/hostile.py) is read in a process of its own, so that a crash, a hang or a leak is one file's and is
counted; the exit code is 1 if there is any. Seconds are the processor's, at all doors together; peak memory is that of
the whole process, PyTorch included.
"""

import argparse
import multiprocessing
import resource
import sys
import tempfile
import time
import warnings
from pathlib import Path


sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from hostile import KINDS, knock, write_hostile_file


MAX_SECONDS = 10
MAX_WAIT = 90  # on a busy machine
MAX_MIB = 1536


def read(path: Path, answers):
    """In the child: knock at every door, and send what happened."""
    warnings.simplefilter("ignore")
    start = time.process_time()
    try:
        refusals = knock(path)
        problem = ""
    except BaseException as error:
        refusals, problem = [], f"{type(error).__name__}: {error}"
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    answers.send((refusals, problem, time.process_time() - start, peak_mib))


def try_file(path: Path) -> tuple[list[str], str, float, float]:
    """(what each door said, what went wrong, seconds, peak in MiB)."""
    # A fork has everything imported already.
    context = multiprocessing.get_context("fork")
    answers, ours = context.Pipe(duplex=False)
    child = context.Process(target=read, args=(path, ours))
    child.start()
    ours.close()
    if not answers.poll(MAX_WAIT):
        child.kill()
        return [], "hang", MAX_WAIT, 0
    try:
        refusals, problem, seconds, peak_mib = answers.recv()
    except EOFError:
        child.join()
        return [], f"crash, exit code {child.exitcode}", 0, 0
    child.join()
    if not problem and seconds > MAX_SECONDS:
        problem = "slow"
    if not problem and peak_mib > MAX_MIB:
        problem = "memory"
    return refusals, problem, seconds, peak_mib


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=500, help="number of files (%(default)s)")
    parser.add_argument("--first", type=int, default=0, help="seed of the first (%(default)s)")
    args = parser.parse_args()
    problems, let_in, slowest, largest = 0, 0, (0.0, ""), (0.0, "")
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(args.first, args.first + args.files):
            path = write_hostile_file(Path(folder), seed)
            refusals, problem, seconds, peak_mib = try_file(path)
            title = f"{seed} {KINDS[seed % len(KINDS)].__name__} {path.name!r}"
            if problem:
                print(f"{title}: {problem} ({seconds:.1f} s, {peak_mib:.0f} MiB)", flush=True)
            problems += bool(problem)
            let_in += "" in refusals
            slowest, largest = max(slowest, (seconds, title)), max(largest, (peak_mib, title))
            path.unlink()
    print(f"files: {args.files}, let in by a door: {let_in}, problems: {problems}")
    print(f"slowest: {slowest[0]:.1f} s, {slowest[1]}; most memory: {largest[0]:.0f} MiB, {largest[1]}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
