"""A page with a tiny network, served once for each file of tests, and visited anew by each test."""

from collections.abc import Iterator

import pytest
from pages import CountedNetwork, load, save_model, served
from playwright.sync_api import Page
from visits import new_tab, visit

import app


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> CountedNetwork:
    return load(save_model(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def url(network) -> Iterator[str]:
    with served(app.build_app(network)) as url:
        yield url


@pytest.fixture(scope="module")
def tab(browser, url) -> Iterator[Page]:
    """One for all visits of a file: it keeps the scripts of the page, which take longest to fetch and to compile."""
    tab = new_tab(browser)
    yield tab
    tab.close()


@pytest.fixture
def page(tab, url) -> Iterator[Page]:
    """A visit."""
    yield visit(tab, url)
    assert tab.errors == []
