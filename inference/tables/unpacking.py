"""What an uploaded Parquet file takes in memory, found out by a process that may not have more than that.

Five megabytes of Parquet can hold a terabyte: one text of a gigabyte that compresses well, named by each of a million
rows. Nothing in the file tells so for certain, and the first row read may be one too many. So another process reads it
first, whose memory the system limits (Linux does; elsewhere what is read is counted all the same, but only afterwards).
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
SECONDS = 60  # for a few megabytes; a file may also be made to be slow
# Of a file that a visitor of the page or of the dashboard uploads.
MAX_UPLOAD_COLUMNS = 500
MAX_UPLOAD_BYTES = 200_000_000  # bytes in memory
TOO_LARGE, DAMAGED = 3, 4  # exit codes


def columns_in(name: str, content: bytes, most: int, remedy: str) -> int:
    """The number of columns of a Parquet file that is read in no more memory than this.

    Args:
        name: what the file is called in errors.
        most: bytes of its cells as they are when they are read.
        remedy: what to do with a larger one.

    Raises:
        InputError: it is larger, or cannot be read.
    """
    # Arrow's own allocator sets address space aside that it does not use, and each thread has its own.
    settings = {"ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"}
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    try:
        done = subprocess.run(
            [sys.executable, "-m", "inference.tables.unpacking", str(most)],
            input=content,
            capture_output=True,
            check=False,
            timeout=SECONDS,
            env=os.environ | settings | {"PYTHONPATH": paths},
        )
    except subprocess.TimeoutExpired:
        raise InputError(f"{name} takes more than {SECONDS} s to read. {remedy}") from None
    said = done.stdout.decode(errors="replace").strip()
    if done.returncode == DAMAGED:
        raise InputError(f"{name} cannot be read as Parquet: {said}. Mend or re-export it.")
    if done.returncode != 0:  # or it was ended in the midst, for it wanted more memory than there is
        raise InputError(f"{name} unpacks to more than {most / 1e6:.0f} MB. {remedy}")
    return int(said)


def main() -> int:
    """What the other process does: the columns of the file in its input on its output, and an exit code."""
    import pyarrow
    from pyarrow.parquet import ParquetFile

    pyarrow.set_cpu_count(1)
    content, most = sys.stdin.buffer.read(), int(sys.argv[1])
    _limit(3 * most)  # a batch, its pages and what they are unpacked from are there at the same time
    held = 0
    try:
        with ParquetFile(io.BytesIO(content), pre_buffer=False) as file:
            for batch in file.iter_batches(ROWS, use_threads=False):
                held += sum(map(unpacked, batch.columns))
                if held > most:
                    return TOO_LARGE
            print(len(file.schema_arrow))
    except MemoryError:
        return TOO_LARGE
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        said = str(error).strip().partition("\n")[0].rstrip(".")
        if "alloc" in said:  # C++ says std::bad_alloc, and in places that is no MemoryError
            return TOO_LARGE
        print(said)
        return DAMAGED
    return 0


def unpacked(array: Any) -> int:
    """Bytes of a pyarrow array whose cells are all written out; of small ones as many as a reference to them has."""
    from pyarrow import types

    kind = array.type
    if hasattr(array, "storage"):  # of a type that an extension defines
        return unpacked(array.storage)
    if types.is_dictionary(kind):
        return unpacked(array.dictionary_decode())
    if types.is_string_view(kind) or types.is_binary_view(kind):  # many cells may look at the same letters
        return unpacked(array.cast("large_string" if types.is_string_view(kind) else "large_binary"))
    if types.is_struct(kind):
        return 8 * len(array) + sum(map(unpacked, array.flatten()))
    if types.is_map(kind):  # which cannot be flattened
        start, stop = array.offsets[0].as_py(), array.offsets[len(array)].as_py()
        children = (array.keys, array.items)
        return 8 * len(array) + sum(unpacked(child.slice(start, stop - start)) for child in children)
    if types.is_nested(kind):
        return 8 * len(array) + unpacked(array.flatten())
    return max(int(array.nbytes), 8 * len(array))


def _limit(more: int) -> None:
    """Let this process have so many bytes more than it has, where the system can."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * os.sysconf("SC_PAGE_SIZE") + more
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


if __name__ == "__main__":
    sys.exit(main())
