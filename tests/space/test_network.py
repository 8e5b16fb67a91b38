"""Many visitors, one network: who waits together is answered together, and everybody gets their own answer."""

from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest
from pages import PATIENCE_S, CountedNetwork, load, save_model, slice_of, until

from space.network import BATCH_SIZE


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def network(model_dir) -> CountedNetwork:
    return load(model_dir)


@pytest.fixture
def visitors():
    with ThreadPoolExecutor(2 * BATCH_SIZE) as threads:
        yield threads


def ask_while_busy(network: CountedNetwork, visitors: ThreadPoolExecutor, requests: list[list]) -> list[Future]:
    """Let the network wait at its gate with a slice of nobody's, until all requests stand in line, in their order."""
    network.gate.clear()
    first = visitors.submit(network, [slice_of(16, 16)])
    until(lambda: network.runs)
    answers = []
    for number, images in enumerate(requests, 1):
        answers.append(visitors.submit(network, images))
        until(lambda number=number: len(network._waiting) == number)
    network.gate.set()
    first.result(PATIENCE_S)
    return answers


def test_those_who_wait_are_answered_together_and_each_with_their_own(network, visitors):
    requests = [[slice_of(20 + index, 30 - index)] for index in range(6)]
    answers = ask_while_busy(network, visitors, requests)
    for (image,), answer in zip(requests, answers, strict=True):
        (segmentation,) = answer.result(PATIENCE_S)
        alone = network.segmenter(image)
        np.testing.assert_array_equal(segmentation.image, alone.image)
        np.testing.assert_allclose(segmentation.probability, alone.probability, atol=0.02)
    assert network.runs == [1, 6]


def test_a_batch_has_its_limit_and_who_is_larger_goes_alone(network, visitors):
    counts = [1, BATCH_SIZE - 1, 1, BATCH_SIZE + 4, 2]
    answers = ask_while_busy(network, visitors, [[slice_of(16, 16)] * count for count in counts])
    assert [len(answer.result(PATIENCE_S)) for answer in answers] == counts
    assert network.runs == [1, BATCH_SIZE, 1, BATCH_SIZE + 4, 2]


def test_a_failure_reaches_those_concerned_and_nobody_after_them(network, visitors, monkeypatch):
    def run(images, framing):
        network.runs.append(len(images))
        assert network.gate.wait(PATIENCE_S)
        if len(images) == 2:
            raise RuntimeError("out of memory")
        return network.segmenter.batch(images, framing=framing)

    monkeypatch.setattr(network, "_run", run)
    answers = ask_while_busy(network, visitors, [[slice_of(16, 16)], [slice_of(16, 16)]])
    for answer in answers:
        with pytest.raises(RuntimeError, match="out of memory"):
            answer.result(PATIENCE_S)
    assert len(network([slice_of(16, 16)])) == 1
