"""Memory on a CPU: freed blocks stay with the process, a faster allocator is found where one is installed."""

import subprocess
import sys

import pytest

from pipeline.modeling import cpu

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="glibc, /proc and LD_PRELOAD")

PAGE_FAULTS = """
import torch
from pipeline.modeling import cpu
cpu.keep_freed_memory()
def faults():
    return int(open('/proc/self/stat').read().rsplit(')')[-1].split()[7])
for _ in range(20):
    torch.ones(2**22)
before = faults()
for _ in range(10):
    torch.ones(2**22)
print(faults() - before)
"""


@pytest.mark.integration
def test_freed_memory_is_kept_for_the_next_step() -> None:
    command = [sys.executable, "-c", PAGE_FAULTS]
    faults = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert faults < 1000  # of 4 KB pages; with memory given back each time it would be 40,000


def test_an_installed_allocator_is_named_unless_a_library_is_preloaded_already(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    monkeypatch.setattr(cpu.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(cpu.ctypes.util, "find_library", lambda name: f"lib{name}.so" if name == "tcmalloc" else None)
    assert cpu.allocator_environment() == {"LD_PRELOAD": "libtcmalloc.so"}
    monkeypatch.setenv("LD_PRELOAD", "libother.so")
    assert cpu.allocator_environment() == {}


def test_a_gpu_needs_no_other_allocator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    monkeypatch.setattr(cpu.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(cpu.ctypes.util, "find_library", lambda name: f"lib{name}.so")
    assert cpu.allocator_environment() == {}
