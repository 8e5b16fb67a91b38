"""No barriers on the page, by axe-core, whatever is on it; and nothing of it jumps."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import phantoms
import pytest
from playwright.sync_api import Page, expect
from visits import barriers, choose_example, drop, visit


def arrival(page: Page, folder: Path):
    expect(page.locator("#report .verdict")).to_be_visible()


def an_example(page: Page, folder: Path):
    choose_example(page)


def a_volume(page: Page, folder: Path):
    (folder / "head.nii.gz").write_bytes(phantoms.nifti(phantoms.noise(32, 24, 9), np.diag([-0.5, 0.5, 4, 1])))
    drop(page, folder / "head.nii.gz")
    expect(page.locator("#overview .profile")).to_be_visible()


def an_error(page: Page, folder: Path):
    (folder / "text.png").write_text("no picture")
    drop(page, folder / "text.png")
    expect(page.get_by_test_id("toast-body")).to_contain_text("text.png")


def nothing(page: Page, folder: Path):
    page.locator("#stage .caption .clear").click()
    expect(page.locator("#report")).to_contain_text("No slice yet")


def the_brush(page: Page, folder: Path):
    page.keyboard.press("b")
    expect(page.locator("#stage.painting")).to_be_visible()
    page.keyboard.press("Space")
    expect(page.locator("#layers [data-corrected]")).to_be_attached()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_barriers(tab, url, axe, tmp_path, scheme):
    page = visit(tab, url, color_scheme=scheme, reduced_motion="reduce")
    page.evaluate(axe)
    found = {}
    states: tuple[Callable[[Page, Path], None], ...] = (arrival, an_example, the_brush, a_volume, an_error, nothing)
    for state in states:
        state(page, tmp_path)
        found[state.__name__] = barriers(page)
    assert not {state: violations for state, violations in found.items() if violations}
    assert page.errors == []
