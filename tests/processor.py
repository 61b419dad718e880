"""What processors can that the tests run on."""

import shutil
from pathlib import Path

import pytest

_CPUINFO = Path("/proc/cpuinfo")
_NEEDED = {"avx512f", "avx512bw", "avx512vl", "avx512_vnni"}

able = _CPUINFO.exists() and set(_CPUINFO.read_text().split()) >= _NEEDED
"""Whether the processor can run the native code."""
on_able_processors = pytest.mark.skipif(
    not (able and shutil.which("gcc")), reason="this processor lacks AVX-512 VNNI, or there is no gcc"
)
