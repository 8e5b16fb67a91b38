"""A page with a tiny network, served once for each file of tests, and opened anew for each test."""

from collections.abc import Iterator

import pytest
from pages import CountedNetwork, load, save_model, served
from playwright.sync_api import Page
from visits import opened

import app


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> CountedNetwork:
    return load(save_model(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def url(network) -> Iterator[str]:
    with served(app.build_app(network)) as url:
        yield url


@pytest.fixture
def page(browser, url) -> Iterator[Page]:
    page = opened(browser, url)
    yield page
    assert page.errors == []
    page.close()
