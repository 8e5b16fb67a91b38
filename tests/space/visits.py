"""Visits to the page in a browser."""

from pathlib import Path

from playwright.sync_api import Browser, Locator, Page, expect

from space.views import EXAMPLES, describe


# Two cores and a cold browser: no test asserts how long something takes.
PATIENCE_MS = 90_000
WIDTH, HEIGHT = 1280, 900
# What a visit may ask for otherwise: `emulate_media` keeps what it is not told.
MEDIA = {"media": "screen", "color_scheme": "light", "reduced_motion": "no-preference"}

# The head of an error is Gradio's own: a button inside a button.
VIOLATIONS = """
async () => {
    const said = ({target, any}) => `${target} ${any.map(check => check.message)}`;
    const {violations} = await axe.run({exclude: ['.toast-header']});
    return violations.map(({id, nodes}) => `${id}: ${nodes.map(said).join(' | ')}`);
}
"""
# A colour on its way to another one has a contrast of its own.
UNTIL_STILL = """
() => Promise.allSettled(
    document.getAnimations().filter(one => one instanceof CSSTransition).map(one => one.finished))
"""

expect.set_options(timeout=PATIENCE_MS)


def new_tab(browser: Browser, width: int = WIDTH, **options) -> Page:
    """A tab with a history of its own, which notes in `requests` and `errors` what happens in it."""
    page = browser.new_page(viewport={"width": width, "height": HEIGHT}, **options)
    page.set_default_timeout(PATIENCE_MS)
    page.requests, page.errors = [], []
    page.on("request", lambda request: page.requests.append(request.url))
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    return page


def visit(page: Page, url: str, width: int = WIDTH, **media: str) -> Page:
    """Come to the page in a tab in which nothing is left of an earlier visit."""
    page.unroute_all()
    page.set_viewport_size({"width": width, "height": HEIGHT})
    page.emulate_media(**MEDIA | media)
    page.mouse.move(0, 0)
    page.requests, page.errors = [], []
    come(page, url)
    return page


def leave(page: Page):
    """Otherwise a server that ends waits for those who look at its page."""
    page.goto("about:blank")


def opened(browser: Browser, url: str, width: int = WIDTH, **options) -> Page:
    """The page in a tab of its own: for other visitors, and for other devices."""
    page = new_tab(browser, width, **options)
    come(page, url)
    return page


def come(page: Page, url: str):
    """Returns when the controls are there, once the scripts of the page run."""
    page.goto(url)
    expect(page.locator("#opacity input[type=range]")).to_be_visible()
    expect(page.locator("#examples button")).to_have_count(len(EXAMPLES))
    expect(page.locator("#upload input")).to_have_count(2)
    expect(page.locator("#glass .scale")).to_be_visible()


def asked(page: Page) -> list[str]:
    """What the page has requested from any server."""
    return [request for request in page.requests if not request.startswith(("data:", "blob:"))]


def choose_example(page: Page, index: int = 4):
    """One that is not shown on arrival."""
    page.locator("#examples button").nth(index).click()
    expect(page.locator("#stage .caption")).to_contain_text(describe(EXAMPLES[index]))
    expect(page.locator("#layers .fill")).to_be_visible()


def drop(page: Page, *paths: Path):
    """Returns when the files are sent, and the page asks for what is in them."""
    with page.expect_request("**/queue/join*"):
        page.set_input_files("#upload input[type=file]", paths)


def style_of(locator: Locator, name: str) -> str:
    return locator.evaluate("(element, name) => getComputedStyle(element)[name]", name)


def barriers(page: Page) -> list[str]:
    """What axe-core, which has to be on the page, finds there."""
    page.evaluate(UNTIL_STILL)
    return page.evaluate(VIOLATIONS)
