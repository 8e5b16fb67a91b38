"""How long the page takes: python -m benchmarks.page [--visits 10] [--out FILE.json]

    python app.py ←─ Chromium ─ a fresh visit, until the controls answer; a click, until an example's overlay is seen

Server and browser run on this machine, which has to have nothing else to do. It needs Chromium on the PATH.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from playwright.sync_api import Browser, sync_playwright

from modeling_unet.provenance import SHIPPED_MODEL
from train.files import write_json

from .measuring import EXAMPLES, describe_machine, print_table, serve


BROWSERS = ("chromium", "chromium-browser", "google-chrome")
EXAMPLE = 4  # one that is not shown on arrival
# The controls answer: the scripts of the page run, and a key moves the slider and the overlay with it.
ANSWERS = """
() => {
    const input = document.querySelector('#opacity input[type=number]');
    if (!input || !document.querySelector('#examples button') || !document.querySelector('#glass .scale')) return false;
    input.value = 0.3;
    input.dispatchEvent(new Event('input', {bubbles: true}));
    return document.documentElement.style.getPropertyValue('--tumor-opacity') === '0.3';
}
"""
# Its slice is on the stage, and so is its overlay: the next frame shows them.
SHOWN = """
name => document.querySelector('#anatomy .slice')?.dataset.shown === name
    && Boolean(document.querySelector('#layers .fill'))
    && new Promise(seen => requestAnimationFrame(() => requestAnimationFrame(() => seen(true))))
"""


def visit(browser: Browser, url: str) -> tuple[dict[str, float], list[int]]:
    """Seconds of one visit, with an empty cache, and the bytes of all answers until the controls answer."""
    page = browser.new_page(viewport={"width": 1366, "height": 768})
    sizes: list[int] = []
    network = page.context.new_cdp_session(page)
    network.send("Network.enable")
    network.on("Network.loadingFinished", lambda event: sizes.append(int(event["encodedDataLength"])))
    try:
        start = time.perf_counter()
        page.goto(url, wait_until="commit")
        page.wait_for_function(ANSWERS, polling=20)
        answers = time.perf_counter() - start
        loaded = [size for size in sizes if size]  # pictures in the page itself come as answers of no bytes
        start = time.perf_counter()
        page.locator("#examples button").nth(EXAMPLE).click()
        page.wait_for_function(SHOWN, arg=EXAMPLES[EXAMPLE].stem, polling="raf")
        return {"interactive": answers, "first overlay": time.perf_counter() - start}, loaded
    finally:
        page.close()


def find_browser() -> str:
    """Path of an installed Chromium.

    Raises:
        FileNotFoundError: there is none.
    """
    for name in BROWSERS:
        if path := shutil.which(name):
            return path
    raise FileNotFoundError(f"none of {', '.join(BROWSERS)} is on the PATH; install one of them.")


def main(arguments: list[str] | None = None) -> dict:
    """Start the app, visit it, print the table and return what `--out` writes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.page", allow_abbrev=False)
    add = parser.add_argument
    add("--model", type=Path, default=SHIPPED_MODEL, help="model folder (the shipped one)")
    add("--visits", type=int, default=10, help="one after another, each in a fresh browser (%(default)s)")
    add("--out", type=Path, metavar="FILE.json", help="write the figures")
    options = parser.parse_args(arguments)
    program, visits = find_browser(), []
    with tempfile.TemporaryDirectory() as home, serve(options.model) as (url, _), sync_playwright() as playwright:
        for _ in range(options.visits + 1):
            arguments_of_browser = ["--no-sandbox", "--disable-background-networking", "--disable-gpu"]
            browser = playwright.chromium.launch(executable_path=program, args=arguments_of_browser, env={"HOME": home})
            visits.append(visit(browser, url))
            browser.close()
    kept = visits[1:]  # the first fills the server's caches
    seconds = {name: [one[name] for one, _ in kept] for name in kept[0][0]}
    rows = {
        name: {
            "median_s": round(statistics.median(values), 3),
            "p95_s": round(float(np.percentile(values, 95)), 3),
        }
        for name, values in seconds.items()
    }
    print_table("page", rows)
    requests = statistics.median(len(loaded) for _, loaded in kept)
    size = statistics.median(sum(loaded) for _, loaded in kept)
    print(f"loaded until the controls answer: {size / 1000:,.0f} kB in {requests:.0f} requests")
    report = {
        "machine": describe_machine(),
        "visits": options.visits,
        "page": rows,
        "loaded": {"requests": requests, "bytes": size},
    }
    if options.out:
        write_json(options.out, report)
    return report


if __name__ == "__main__":
    main()
