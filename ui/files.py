"""The server's own folder of temporary files: uploads, work in progress and results, with a size limit."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from gradio import routes

PREFIX = "triptych-server-"
LOCK = ".lock"
MAX_UPLOAD_MB = 5
MAX_AGE_S = 3600
MIN_AGE_S = 60  # an upload is kept at least so long
MAX_BYTES = 512_000_000
MIN_FILE_BYTES = 64_000  # every file counts at least so much, which limits their number too
SWEEP_S = 60


class TemporaryFiles:
    """A folder below the system's temporary folder that contains all temporary files of this process.

    Attributes:
        uploads: the uploads of visitors and the results they download.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.uploads = folder / "uploads"
        self.uploads.mkdir()

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def make_room(self) -> bool:
        """Delete the oldest uploads if necessary, but none of the last `MIN_AGE_S`; return whether another fits."""
        files = sorted(self._files(), key=lambda file: file[2])
        excess = sum(max(size, MIN_FILE_BYTES) for _, size, _ in files) - MAX_BYTES
        for path, size, modified in files:
            if excess < 0 or time.time() - modified < MIN_AGE_S:
                break
            if path.is_relative_to(self.uploads):
                path.unlink(missing_ok=True)
                excess -= max(size, MIN_FILE_BYTES)
        return excess < 0

    def find(self, path: str) -> Path | None:
        """Return the upload or result at this path, which came from a client; None if there is none."""
        if not path or "\0" in path:
            return None
        with contextlib.suppress(OSError, ValueError):
            real = Path(path).resolve(strict=True)
            if real.is_file() and real.is_relative_to(self.uploads):
                return real
        return None

    def sweep(self, now: float) -> None:
        """Delete the files that are too old at this time, and folders left empty."""
        for path, _, modified in self._files():
            if now - modified > MAX_AGE_S and path.name != LOCK:
                path.unlink(missing_ok=True)
        for folder, _, _ in os.walk(self.folder, topdown=False):
            with contextlib.suppress(OSError):  # not empty, or already deleted
                if Path(folder) not in (self.folder, self.uploads) and now - Path(folder).stat().st_mtime > MAX_AGE_S:
                    Path(folder).rmdir()

    def _files(self) -> Iterator[tuple[Path, int, float]]:
        """Yield path, size and modification time of each file."""
        for folder, _, names in os.walk(self.folder):
            for name in names:
                path = Path(folder) / name
                with contextlib.suppress(OSError):  # deleted just now
                    stat = path.lstat()
                    yield path, stat.st_size, stat.st_mtime


@contextmanager
def temporary_files() -> Iterator[TemporaryFiles]:
    """Own a folder of temporary files during the block, and make every library use it.

    Folders left by killed servers are deleted first.
    """
    _delete_abandoned()
    before, gradio, chosen = tempfile.tempdir, os.environ.get("GRADIO_TEMP_DIR"), routes.DEFAULT_TEMP_DIR
    folder = Path(tempfile.mkdtemp(prefix=PREFIX)).resolve()
    over = threading.Event()
    lock = FileLock(folder / LOCK)
    with lock:
        files = TemporaryFiles(folder)
        tempfile.tempdir = str(folder)
        os.environ["GRADIO_TEMP_DIR"] = str(files.uploads)
        # Every page makes a folder in this one, which was chosen at the import and may be another user's.
        routes.DEFAULT_TEMP_DIR = str(folder)

        def sweep() -> None:
            while not over.wait(SWEEP_S):
                files.sweep(time.time())

        sweeper = threading.Thread(target=sweep, name="sweeper", daemon=True)
        sweeper.start()
        try:
            yield files
        finally:
            over.set()
            sweeper.join()
            tempfile.tempdir, routes.DEFAULT_TEMP_DIR = before, chosen
            if gradio is None:
                del os.environ["GRADIO_TEMP_DIR"]
            else:
                os.environ["GRADIO_TEMP_DIR"] = gradio
            files.remove()


def _delete_abandoned() -> None:
    """Delete the folders of servers that no longer run, whose locks are free."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError, Timeout):
            if folder.is_symlink() or not _is_own(folder) or time.time() - folder.stat().st_mtime < 60:
                continue  # another user's, or being created
            with FileLock(folder / LOCK, timeout=0):
                shutil.rmtree(folder, ignore_errors=True)


def _is_own(folder: Path) -> bool:
    return not hasattr(os, "getuid") or folder.stat().st_uid == os.getuid()  # Windows has no such numbers
