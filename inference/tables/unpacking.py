"""Measure, in a process with limited memory, what an uploaded Parquet file takes when it is read.

Five megabytes of Parquet can hold a terabyte: one text of a gigabyte that compresses well, named by each of a million
rows. Nothing in the file says so reliably, and reading the first row may already be too much. So another process reads
the file first, with memory that the system limits (on Linux; elsewhere it is only counted, and only afterwards).
"""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from inference.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
ROWS = 64  # read at a time
TIMEOUT_S = 60  # for a few megabytes; a file can also be made to be slow
MAX_UPLOAD_BYTES = 200_000_000  # of an uploaded file in memory
TOO_LARGE, DAMAGED = 3, 4  # exit codes


def check_unpacked(name: str, content: bytes, max_bytes: int, remedy: str) -> None:
    """Raise InputError if the cells of a Parquet file take more memory than this, or cannot be read.

    Args:
        name: of the file, for errors.
        max_bytes: of the cells as they are in memory.
        remedy: what to do with a larger file.
    """
    # Arrow's own allocator reserves address space that it does not use, and so does each thread.
    settings = {"ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"}
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    try:
        done = subprocess.run(
            [sys.executable, "-m", "inference.tables.unpacking", str(max_bytes)],
            input=content,
            capture_output=True,
            check=False,
            timeout=TIMEOUT_S,
            env=os.environ | settings | {"PYTHONPATH": paths},
        )
    except subprocess.TimeoutExpired:
        raise InputError(f"{name} takes more than {TIMEOUT_S} s to read. {remedy}") from None
    if done.returncode == DAMAGED:
        message = done.stdout.decode(errors="replace").strip()
        raise InputError(f"{name} cannot be read as Parquet: {message}. Fix the file or export it again.")
    if done.returncode != 0:  # or the system ended it, because it needed more memory
        raise InputError(f"{name} unpacks to more than {max_bytes / 1e6:.0f} MB. {remedy}")


def main() -> int:
    """Read the file on standard input within the limit, and return an exit code."""
    import pyarrow
    from pyarrow.parquet import ParquetFile

    pyarrow.set_cpu_count(1)
    content, max_bytes = sys.stdin.buffer.read(), int(sys.argv[1])
    _limit_memory(3 * max_bytes)  # a batch, its pages and their packed form are in memory at the same time
    size_bytes = 0
    try:
        with ParquetFile(io.BytesIO(content), pre_buffer=False) as file:
            for batch in file.iter_batches(ROWS, use_threads=False):
                size_bytes += sum(map(unpacked, batch.columns))
                if size_bytes > max_bytes:
                    return TOO_LARGE
    except MemoryError:
        return TOO_LARGE
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        message = str(error).strip().partition("\n")[0].rstrip(".")
        if "alloc" in message:  # std::bad_alloc, which pyarrow does not always raise as a MemoryError
            return TOO_LARGE
        sys.stdout.buffer.write(message.encode(errors="replace"))
        return DAMAGED
    return 0


def unpacked(array: Any) -> int:
    """Return the bytes of a pyarrow array with every cell written out, at least those of a reference each."""
    from pyarrow import types

    kind = array.type
    if hasattr(array, "storage"):  # of a type that an extension defines
        return unpacked(array.storage)
    if types.is_dictionary(kind):
        return unpacked(array.dictionary_decode())
    if types.is_string_view(kind) or types.is_binary_view(kind):  # many cells may share the same letters
        return unpacked(array.cast("large_string" if types.is_string_view(kind) else "large_binary"))
    if types.is_struct(kind):
        return 8 * len(array) + sum(map(unpacked, array.flatten()))
    if types.is_map(kind):  # which cannot be flattened
        start, stop = array.offsets[0].as_py(), array.offsets[len(array)].as_py()
        return 8 * len(array) + sum(unpacked(child.slice(start, stop - start)) for child in (array.keys, array.items))
    if types.is_nested(kind):
        return 8 * len(array) + unpacked(array.flatten())
    return max(int(array.nbytes), 8 * len(array))


def _limit_memory(more_bytes: int) -> None:
    """Limit this process to its present memory and so many bytes more, if the system can."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        max_bytes = pages * os.sysconf("SC_PAGE_SIZE") + more_bytes
        resource.setrlimit(resource.RLIMIT_AS, (max_bytes, max_bytes))


if __name__ == "__main__":
    sys.exit(main())
