"""Fresh processes at the price of one: a process that has imported what takes long forks itself for every program.

    fresh.alone().run(program, "argument", cwd=folder, environment=os.environ | hub.environment)

A program finds what `python -c` would give it, except that something has been imported. That must be nothing that a
test is about, and nothing that reads what tests set: the first import of `huggingface_hub` reads `HF_HOME` and
`HF_ENDPOINT`.
"""

import functools
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path

from surroundings import ROOT


# What transformers imports of other packages: most of the time that a process takes to start.
PYTORCH = "import scipy.optimize, torch, torch._dynamo, torch.distributed.tensor"
OURS = "import modeling_unet.__main__, train.__main__, train.commands.fit"

SERVER = """
import gc, json, os, signal, sys

gc.freeze()  # what is imported stays
while line := sys.stdin.readline():
    order = json.loads(line)
    process = os.fork()
    if not process:
        break
    print(process, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
else:
    sys.exit()

gc.enable()
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
os.environ.clear()
os.environ.update(order["environment"])
os.chdir(order["cwd"])
for number, path in enumerate(order["streams"]):
    os.dup2(os.open(path, os.O_RDWR), number)
sys.argv = ["-c", *order["arguments"]]
sys.path[1:1] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
exec(compile(order["program"], "<string>", "exec"), {"__name__": "__main__"})
"""

# What torchrun does, with workers that are forked too.
TORCHRUN = """
import sys
from importlib import import_module
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

where = {"run_id": "tests", "rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0"}
config = LaunchConfig(1, 1, nproc_per_node=2, max_restarts=0, start_method="fork", **where)
codes = elastic_launch(config, import_module(sys.argv[1]).main)(sys.argv[2:])
sys.exit(max(codes.values()))
"""


class Starter:
    """Starts one program at a time.

    Args:
        preload: statement that imports what every program finds imported.
        environment: of that import; every program has its own.
    """

    def __init__(self, preload: str, environment: Mapping[str, str]):
        self._folder = tempfile.TemporaryDirectory()  # holds no code, and the streams of the program
        self._server = subprocess.Popen(
            [sys.executable, "-c", f"import gc; gc.disable()\n{preload}\n{SERVER}"],
            cwd=self._folder.name,
            env={**environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,  # or `select` would not know of a line that has been read
            start_new_session=True,
        )
        weakref.finalize(self, self._server.communicate)  # its input ends, and with it the process

    def start(
        self, program: str, *arguments: object, cwd: Path = ROOT, environment: Mapping = os.environ, entered: str = ""
    ) -> int:
        """Start a program that reads `entered`, and return its process id; `wait` has to come next."""
        streams = {name: Path(self._folder.name, name) for name in ("in", "out", "error")}
        for name, path in streams.items():
            path.write_text(entered if name == "in" else "")
        order = {
            "program": program,
            "arguments": [*map(str, arguments)],
            "cwd": str(cwd),
            "environment": {**environment},
            "streams": [*map(str, streams.values())],
        }
        self._server.stdin.write(json.dumps(order).encode() + b"\n")
        return int(self._server.stdout.readline())

    def wait(self, timeout: float) -> subprocess.CompletedProcess:
        """How the program ended. The starter ends too if that takes more than `timeout` seconds."""
        if not select.select([self._server.stdout], [], [], timeout)[0]:
            os.killpg(self._server.pid, signal.SIGKILL)
            raise subprocess.TimeoutExpired("a fresh process", timeout)
        code = int(self._server.stdout.readline())
        said, complained = (Path(self._folder.name, name).read_text() for name in ("out", "error"))
        return subprocess.CompletedProcess([], code, said, complained)

    def run(self, program: str, *arguments: object, timeout: float = 300, **options) -> subprocess.CompletedProcess:
        """Start a program, with the options of `start`, and wait for its end."""
        self.start(program, *arguments, **options)
        return self.wait(timeout)


@functools.cache
def alone() -> Starter:
    """For programs with an environment of their own, which find PyTorch imported."""
    return Starter(PYTORCH, os.environ)


@functools.cache
def ours() -> Starter:
    """For our own commands in the environment of the tests: they find themselves imported."""
    return Starter(OURS, os.environ | {"PYTHONPATH": str(ROOT)})


def torchrun(module: str, *arguments: object, **options) -> subprocess.CompletedProcess:
    """Run `main` of a module in two processes that torchrun's agent starts; the exit code is the higher one."""
    return ours().run(TORCHRUN, module, *arguments, **options)
