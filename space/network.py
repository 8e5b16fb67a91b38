"""The network: it runs on the GPU if there is one, and on the CPU after its first failure there.

visitors ─ Network() ─→ those who wait ─ together, up to BATCH_SIZE slices ─→ TumorSegmenter ─→ each their own
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import islice
from threading import Lock

import numpy as np

from modeling_unet.segmentation import Segmentation
from modeling_unet.segmenter import TumorSegmenter


BATCH_SIZE = 16
WARM_UP_SIDE = 256


@dataclass(frozen=True)
class Origin:
    """Whose weights they are.

    Attributes:
        name: id on the Hub, or name of the folder.
        revision: commit, or hash of the weights and settings.
    """

    name: str
    revision: str | None = None


class Network:
    """Slices in, segmentations out, for several threads at a time; requests that wait share the next batch.

    Attributes:
        origin: whose weights it has.
        place: where it runs, as the page says it.
    """

    def __init__(self, segmenter: TumorSegmenter, origin: Origin, on_gpu: Callable[[Callable], Callable] | None = None):
        """Take a segmenter over; `on_gpu` is the decorator of ZeroGPU, where that is what lends the GPU."""
        self.origin = origin
        self.place = segmenter.device.type.upper()
        self._segmenter = segmenter
        # On ZeroGPU it runs in a process of its own, so nothing but NumPy arrays, and what holds them, goes in and out.
        self._run = on_gpu(self._segment) if on_gpu else self._segment
        self._waiting: deque[tuple[list, str, Future]] = deque()
        self._turn = Lock()

    @property
    def class_names(self) -> tuple[str, ...]:
        """What the model calls the kinds of tumour that it tells apart."""
        return self._segmenter.class_names

    def warm_up(self):
        """Run once, so that the first visitor does not wait for kernels to be chosen and compiled."""
        self([np.eye(WARM_UP_SIDE, dtype=np.uint8)])

    def __call__(self, images: list, framing: str = "auto") -> list[Segmentation]:
        """Segment slices as `read_picture` gives them, or arrays; those of a volume with the framing "none".

        Raises:
            RuntimeError: it cannot run on the CPU either.
        """
        answer: Future[list[Segmentation]] = Future()
        self._waiting.append((images, framing, answer))
        with self._turn:
            # Another thread may have answered it in one batch with its own request.
            while not answer.done():
                self._answer_those_who_wait()
        return answer.result()

    def batch(
        self, images: Iterable[np.ndarray], batch_size: int = BATCH_SIZE, *, framing: str = "auto"
    ) -> Iterator[Segmentation]:
        """As `TumorSegmenter.batch`: slices of a volume, `batch_size` at a time, others between them."""
        images = iter(images)
        while some := list(islice(images, batch_size)):
            yield from self(some, framing)

    def _answer_those_who_wait(self):
        """Run the oldest requests, as many as fit into a batch; a larger one runs alone."""
        requests = [self._waiting.popleft()]
        framing, room = requests[0][1], BATCH_SIZE - len(requests[0][0])
        while self._waiting and self._waiting[0][1] == framing and len(self._waiting[0][0]) <= room:
            requests.append(self._waiting.popleft())
            room -= len(requests[-1][0])
        try:
            segmentations = iter(self._run_anywhere([image for images, *_ in requests for image in images], framing))
        except Exception as error:
            for *_, answer in requests:
                answer.set_exception(error)
        else:
            for images, _, answer in requests:
                answer.set_result([next(segmentations) for _ in images])

    def _run_anywhere(self, images: list, framing: str) -> list[Segmentation]:
        try:
            return self._run(images, framing)
        except RuntimeError:  # torch's own, such as OutOfMemoryError, are kinds of it
            if self._segmenter.device.type == "cpu":
                raise
        broken = self._segmenter
        self._segmenter = TumorSegmenter(
            broken.model.float(),
            broken.image_processor,
            "cpu",
            "auto",
            broken.quality,
            familiarity=broken.familiarity,
        )
        self._run = self._segment
        self.place = f"CPU, as the {self.place} device failed"
        return self._run(images, framing)

    def _segment(self, images: list, framing: str) -> list[Segmentation]:
        return list(self._segmenter.batch(images, batch_size=BATCH_SIZE, framing=framing))
