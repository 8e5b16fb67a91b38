"""Prediction on all machines of a Ray cluster: `segment_files`, run by Ray Data.

    sources → tasks of a few batches → Ray's workers, each with a network of its own → outcomes, recorded here

Every machine needs this package and `ray[data]`, and has to see sources, model and results under the same paths. Ray is
optional: this module is imported only for `--ray`.
"""

import json
import logging
import os
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path

from .journal import Outcome, Source
from .prediction import Options, segment_files
from .segmenter import TumorSegmenter


os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read at Ray's import; else it sends usage statistics
try:
    import ray
    import ray.data
except ImportError:
    ray = None  # type: ignore[assignment] # `check_ray` comes first


# A worker reports once per task: small tasks keep the journal up to date, large ones keep the worker busy.
BATCHES_PER_TASK = 8


def check_ray():
    """Raise an ImportError that says what to install if Ray is missing."""
    if ray is None:
        raise ImportError('--ray needs the package ray; run: pip install "ray[data]"')


def segment_files_on_ray(
    sources: dict[str, Source],
    record: Callable[[Outcome], None],
    *,
    model: str | Path,
    revision: str | None,
    quality: str,
    framing: str,
    out: Path,
    options: Options,
    batch_size: int,
) -> Generator[Outcome, None, None]:
    """Segment sources on the cluster that `RAY_ADDRESS` names, or on this machine alone; see `segment_files`.

    There is one worker for each GPU of the cluster, or for each CPU where it has no GPU.

    Args:
        model, revision, quality, framing: as for `TumorSegmenter.from_pretrained`, which every worker calls.

    Returns:
        An iterator over one outcome per source, in the order in which they are done.
    """
    tasks = _tasks(sources, batch_size * BATCHES_PER_TASK)
    if not tasks:
        return
    # The workers' current folder is another one.
    out = out.resolve()
    model = Path(model).resolve() if Path(model).is_dir() else model
    ray.init(logging_level=logging.WARNING, log_to_driver=False)
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    ray.data.DataContext.get_current().enable_progress_bars = False
    cluster = ray.cluster_resources()
    kind = "GPU" if "GPU" in cluster else "CPU"

    class Worker:
        def __init__(self):
            segmenter = TumorSegmenter.from_pretrained(model, revision=revision, quality=quality, framing=framing)
            self.segment = partial(segment_files, segmenter=segmenter, out=out, options=options, batch_size=batch_size)

        def __call__(self, task: dict[str, str]) -> dict[str, list[str]]:
            sources = {place: Source.from_dict(source) for place, source in json.loads(task["sources"]).items()}
            return {"outcomes": [outcome.to_json() for outcome in self.segment(sources, record=lambda outcome: None)]}

    try:
        done = ray.data.from_items(tasks, override_num_blocks=len(tasks)).map(
            Worker,  # type: ignore[arg-type] # each actor makes one
            compute=ray.data.ActorPoolStrategy(size=min(len(tasks), int(cluster[kind]))),
            num_cpus=int(kind == "CPU"),
            num_gpus=int(kind == "GPU"),
        )
        for task in done.iter_rows():
            for outcome in map(Outcome.from_json, task["outcomes"]):
                record(outcome)
                yield outcome
    finally:
        ray.shutdown()


def _tasks(sources: dict[str, Source], size: int) -> list[dict[str, str]]:
    """Whole batches, as JSON, because Arrow cannot carry every file name."""
    items = [(place, source.to_dict()) for place, source in sources.items()]
    return [{"sources": json.dumps(dict(items[start : start + size]))} for start in range(0, len(items), size)]
