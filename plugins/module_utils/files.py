"""Files that are complete or absent, even after a kill or a power cut."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path


def beside(path: Path) -> Path:
    """Return where a file is written before it is moved into place.

    One fixed name, so that a killed run leaves at most this one behind.
    """
    return path.with_name(f".{path.name}.mlflow-ansible")


def write(path: Path, text: str | bytes, mode: int, owner: int = -1, group: int = -1) -> None:
    """Write a file. At no time can anyone read it who may not read the result.

    Args:
        mode: Its permissions, whatever the umask.
        owner, group: Numeric ids; -1 for those of this process.
    """
    data = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
    new = beside(path)
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        os.fchown(descriptor, owner, group)
        os.fchmod(descriptor, mode)
        stream.write(data)
        stream.flush()
        os.fsync(descriptor)
    new.replace(path)
    sync(path.parent)


def read(path: Path) -> str | None:
    """Return the text of a file as `write` takes it, whatever its bytes; None if it is missing."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return path.read_bytes().decode("utf-8", "surrogateescape")
    return None


def remove(path: Path) -> None:
    """Remove a file, a link or a folder with its contents, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Return once a file, or a folder's entries, are on disk and safe from a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def copy_tree(source: Path, target: Path) -> None:
    """Copy a folder with modes and owners. No file becomes more readable in between."""
    status = source.lstat()
    if stat.S_ISLNK(status.st_mode):
        target.symlink_to(os.readlink(source))
        os.lchown(target, status.st_uid, status.st_gid)
        return
    if stat.S_ISDIR(status.st_mode):
        target.mkdir(mode=0o700)
        for path in source.iterdir():
            copy_tree(path, target / path.name)
    else:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(source.read_bytes())
            stream.flush()
            os.fsync(descriptor)
    os.chown(target, status.st_uid, status.st_gid)
    target.chmod(stat.S_IMODE(status.st_mode))
    # The age of a secret is read from its file.
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


@contextlib.contextmanager
def in_memory(*texts: str) -> Iterator[list[str]]:
    """Yield paths of in-memory files with these texts, which may be secret."""
    with contextlib.ExitStack() as files:
        paths = []
        for text in texts:
            # Unbuffered, so that readers of the path see all of it.
            file = files.enter_context(os.fdopen(os.memfd_create("ansible"), "wb", buffering=0))
            file.write(text.encode("utf-8", "surrogateescape"))
            paths.append(f"/proc/self/fd/{file.fileno()}")
        yield paths
