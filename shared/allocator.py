"""The C library's memory allocator, told that this process holds tensors. Only glibc listens.

glibc raises the size from which it maps a block by itself (M_MMAP_THRESHOLD, mallopt(3)), up to 32 MB, as
soon as such a block was freed. Weights and caches then come and go inside its arenas, which keep what was
freed.
"""

import ctypes
from contextlib import suppress

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_MAPPED_FROM_BYTES = 4 << 20
"""What a pass of a model makes in between is smaller: mapping that anew each time would cost more than it
saves."""
_LEFT_FREE_BYTES = 16 << 20
"""What each pass of a model makes at the end of the heap, and frees. To give that back and to get it again,
page by page, took a tenth of the time of a pass with 16 conversations."""
_ARENAS = 2


def settle() -> None:
    """Let large blocks go back to the system once they are freed. To be called before threads begin."""
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(_M_TRIM_THRESHOLD, _LEFT_FREE_BYTES)
        mallopt(_M_MMAP_THRESHOLD, _MAPPED_FROM_BYTES)
        mallopt(_M_ARENA_MAX, _ARENAS)


def give_back() -> None:
    """Return what small blocks have left free."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
