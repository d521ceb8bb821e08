"""A lock on a run folder: one run writes to it at a time. It ends with the process that holds it.

The lock is one of the operating system's on the file `.lock` in the folder, not the file itself: one that a
killed process left behind does not matter. The file says who holds it, and is deleted at the end.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from specularip.errors import UserError

LOCK = ".lock"
PATIENCE = 0.5
"""Seconds to wait for a lock: another process may hold it for an instant to see whether it is free."""
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)
"""What file systems without locks answer."""
HELD = (errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK)


class InUse(UserError):
    """Another run holds the lock of the folder."""


if sys.platform == "win32":
    import msvcrt

    BEYOND = 2**20
    """Windows locks bytes, and nobody else can read those: one behind the end of the file."""

    def _lock(file: int) -> None:
        os.lseek(file, BEYOND, os.SEEK_SET)
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
else:

    def _lock(file: int) -> None:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def locked(folder: Path) -> Iterator[str]:
    """Hold the lock of `folder`, which is created if it is missing, and deleted if the block left it empty.

    Yields "", or a line for the user where the file system has no locks. Raises UserError if a run of another
    process, or of this one, holds the lock, or if the folder cannot be written to.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    path = folder / LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file, supported = _acquire(path)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror or error}, use another --out") from None
    try:
        yield "" if supported else f"{folder} is on a file system without locks: let no other run write to it"
    finally:
        if sys.platform == "win32":  # which deletes no open file
            os.close(file)
        with suppress(OSError):
            path.unlink()
        if sys.platform != "win32":
            os.close(file)
        with suppress(OSError):
            for created in missing:
                created.rmdir()


def check_unlocked(folder: Path) -> None:
    """Raise UserError if a run holds the lock of `folder`. Changes nothing."""
    try:
        file = os.open(folder / LOCK, os.O_RDWR)
    except OSError:
        return
    try:
        _lock(file)
    except OSError as error:
        if error.errno in HELD:
            raise _in_use(folder, file) from None
    finally:
        os.close(file)


def _acquire(path: Path) -> tuple[int, bool]:
    """The open file, and whether it is locked: False where there are no locks."""
    patience = time.monotonic() + PATIENCE
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(file)
        except OSError as error:
            if error.errno in NO_LOCKS:
                return file, False
            if error.errno not in HELD or time.monotonic() > patience:
                problem = _in_use(path.parent, file) if error.errno in HELD else error
                os.close(file)
                raise problem from None
        else:
            if _is_at(file, path):
                since = time.strftime("%H:%M:%S on %Y-%m-%d")
                with suppress(OSError):  # on a full disk it is locked all the same
                    os.ftruncate(file, 0)
                    os.lseek(file, 0, os.SEEK_SET)
                    os.write(file, f"process {os.getpid()} on {socket.gethostname()} since {since}".encode())
                return file, True
        os.close(file)  # held for now, or deleted by its last holder after it was opened here
        time.sleep(0.02)


def _is_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except OSError:
        return False


def _in_use(folder: Path, file: int) -> InUse:
    os.lseek(file, 0, os.SEEK_SET)
    holder = os.read(file, 500).decode(errors="replace").strip() or "another process"
    return InUse(f"a run is writing to {folder} ({holder}): wait for it, stop it, or use another --out")
