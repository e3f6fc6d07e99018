"""Where triton keeps compiled kernels."""

from __future__ import annotations

import triton


def cache_folder() -> str:
    """Folder of compiled kernels: what ``TRITON_CACHE_DIR`` says, or triton's own in the home directory."""
    return triton.knobs.cache.dir
