"""In a process of its own: what the allocator is told stays so."""

import platform
import subprocess
import sys

import pytest

_FREE = """
import ctypes
from pathlib import Path
from shared import allocator

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

if {settled}:
    allocator.settle()
libc = ctypes.CDLL("libc.so.6")
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
libc.free(libc.malloc(30 << 20))  # from now on, as it is, blocks of up to 30 MB come from the arena
before = resident()
block = libc.malloc(20 << 20)
libc.malloc(64 << 10)  # lies behind the block and keeps the arena from shrinking
libc.memset(block, 1, 20 << 20)
libc.free(block)
print(resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library's allocator is left alone")
@pytest.mark.parametrize(("settled", "goes_back"), [(False, False), (True, True)])
def test_a_large_block_goes_back_to_the_system_when_it_is_freed(settled, goes_back):
    command = [sys.executable, "-c", _FREE.format(settled=settled)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)

    kept = int(said.stdout)

    assert kept <= 5 << 20 if goes_back else kept >= 15 << 20
