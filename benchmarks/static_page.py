"""How long the page without a server takes: python -m benchmarks.static_page FOLDER [--rounds 5] [--out FILE.json]

    FOLDER of `python -m modeling_unet export --web FOLDER` ─→ Chromium, with one thread, then with those of the machine

Seconds of a slice from its bytes to its probabilities, what the page's process holds at most, and what a first visit
loads. It needs Chromium on the PATH, and a machine that has nothing else to do.
"""

import argparse
import functools
import statistics
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
from playwright.sync_api import Browser, sync_playwright

from modeling_unet.image_processing_unet import MIB
from train.files import write_json
from train.hub.cards import ISOLATED

from .measuring import EXAMPLES, describe_machine, memory_mib, print_table
from .page import find_browser


PATIENCE_MS = 300_000
# The worker that the page itself uses, for examples one after another.
OPEN = """
async names => {
    const {Network} = await import(new URL('network.js', location));
    const network = new Network(() => {}), given = await (await fetch('settings.json')).json();
    const {threads} = await network.ask('start', {given}), seconds = [];
    for (const name of names) {
        const bytes = await (await fetch(`examples/images/${name}.png`)).arrayBuffer();
        seconds.push((await network.ask('open', {bytes, name, title: name})).seconds);
    }
    return {threads, seconds};
}
"""


class Handler(SimpleHTTPRequestHandler):
    """What `python -m http.server` does, with threads for the page if they are wanted, and without a word."""

    def __init__(self, *arguments, isolated: bool, **options):
        self.isolated = isolated
        super().__init__(*arguments, **options)

    def end_headers(self):
        if self.isolated:
            for name, value in ISOLATED.items():
                self.send_header(name, value)
        super().end_headers()

    def log_message(self, *_):
        pass


@contextmanager
def serve_folder(folder: Path, isolated: bool) -> Iterator[str]:
    """Address of a folder on a free port of this machine."""
    handler = functools.partial(Handler, directory=folder, isolated=isolated)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def measure(browser: Browser, url: str, rounds: int) -> dict:
    """One row: threads, seconds of a slice, and MiB that the page's process held at most.

    "most_mib" counts the files of Chromium that it has mapped, which all its processes share; "own_mib" does without.
    """
    context = browser.new_context(service_workers="block")
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.goto(f"{url}settings.json")  # of the same origin, and without a network of its own
    names = [path.stem for path in EXAMPLES] * (rounds + 1)
    found = page.evaluate(OPEN, names)
    processes = browser.new_browser_cdp_session().send("SystemInfo.getProcessInfo")["processInfo"]
    renderers = [process["id"] for process in processes if process["type"] == "renderer"]
    held, renderer = max((memory_mib(renderer, "VmHWM"), renderer) for renderer in renderers)
    shared = memory_mib(renderer, "RssFile")
    context.close()
    seconds = found["seconds"][len(EXAMPLES) :]  # the first round is to warm up
    return {
        "threads": found["threads"],
        "median_s": round(statistics.median(seconds), 3),
        "p95_s": round(float(np.percentile(seconds, 95)), 3),
        "most_mib": round(held),
        "own_mib": round(held - shared),
    }


def main(arguments: list[str] | None = None) -> dict:
    """Print the table and return what `--out` writes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.static_page", allow_abbrev=False)
    add = parser.add_argument
    add("folder", type=Path, help="of the page, as `export --web` writes it")
    add("--rounds", type=int, default=5, help="times that every example is opened (%(default)s)")
    add("--out", type=Path, metavar="FILE.json", help="write the figures")
    options = parser.parse_args(arguments)
    program, rows = find_browser(), {}
    with sync_playwright() as playwright:
        for name, isolated in {"one thread": False, "threads": True}.items():
            browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
            with serve_folder(options.folder, isolated) as url:
                rows[name] = measure(browser, url, options.rounds)
            browser.close()
    print_table("slice", rows)
    sizes = {path.name: path.stat().st_size for path in options.folder.rglob("*") if path.is_file()}
    loaded = {name: round(size / MIB, 2) for name, size in sizes.items() if name.endswith((".onnx", ".wasm"))}
    print(
        f"\nfolder {sum(sizes.values()) / MIB:.1f} MiB; "
        + ", ".join(f"{name} {size} MiB" for name, size in loaded.items())
    )
    report = {"machine": describe_machine(), "rounds": options.rounds, "slice": rows, "mib": loaded}
    if options.out:
        write_json(options.out, report)
    return report


if __name__ == "__main__":
    main()
