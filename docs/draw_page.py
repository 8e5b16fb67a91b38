"""Take the README's picture of the page: python docs/draw_page.py docs/page.png

It needs Chromium. The page shows an example, a slice with a glioma, in the light colours.
"""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import app


EXAMPLE = "Glioma sagittal, slice 842"
SIZE = {"width": 1280, "height": 960}
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def main(output: str) -> None:
    browser_path = next(path for name in BROWSERS if (path := shutil.which(name)))
    network = app.load_network()
    network.warm_up()
    served = app.build_app(network)
    _, url, _ = served.launch(**app.LAUNCH_OPTIONS, server_name="127.0.0.1", prevent_thread_lock=True, quiet=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport=SIZE, color_scheme="light")
        page.goto(url)
        page.get_by_role("button", name=EXAMPLE).click()
        page.get_by_text("Tumour found").wait_for()
        page.evaluate("window.scrollTo(0, 0)")
        page.wait_for_timeout(4000)  # until the pictures have faded in
        page.screenshot(path=output)
        browser.close()
    served.close(verbose=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
