"""What a step of a training has freed serves the next one."""

import platform
from types import SimpleNamespace

import fresh
import pytest
from surroundings import missing

from train.fitting import memory


PAGE_FAULTS = """
import resource, torch
from train.fitting.memory import keep_freed_memory
{}
faults = []
for _ in range(40):
    torch.ones(1 << 24)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(faults[-1] - faults[10])
"""


@pytest.mark.slow
def test_freed_memory_comes_without_page_faults():
    if platform.libc_ver()[0] != "glibc":
        missing("needs glibc: the options are its own")
    default, kept = (int(fresh.alone().run(PAGE_FAULTS.format(call)).stdout) for call in ("", "keep_freed_memory()"))
    assert kept < default / 10


@pytest.mark.parametrize(("libc", "told"), [("glibc", 3), ("", 0)])
def test_only_glibc_is_told(libc, told, monkeypatch):
    calls = []
    monkeypatch.setattr(memory.platform, "libc_ver", lambda: (libc, "2.36"))
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: SimpleNamespace(mallopt=lambda *option: calls.append(option)))
    memory.keep_freed_memory()
    assert len(calls) == told
