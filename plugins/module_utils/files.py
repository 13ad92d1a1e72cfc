"""Files that are there as a whole or not at all, after a kill and after a power cut, too."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path


def beside(path: Path) -> Path:
    """Return where a file is written before it takes its place.

    One fixed name, so that a run that is killed leaves at most this one behind.
    """
    return path.with_name(f".{path.name}.mlflow-ansible")


def write(path: Path, text: str | bytes, mode: int, owner: int = -1, group: int = -1) -> None:
    """Write a file. Nobody can read it in between who may not read it in the end.

    Args:
        mode: Its permissions, whatever the umask.
        owner, group: Numbers; -1 for those of this process.
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
    """Return the text of a file as `write` takes it, whatever its bytes; None if there is none."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return path.read_bytes().decode("utf-8", "surrogateescape")
    return None


def remove(path: Path) -> None:
    """Remove a file, a link or a folder with all that is in it, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Return once a file, or the names in a folder, are on the disk: a power cut is too late."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def copy_tree(source: Path, target: Path) -> None:
    """Copy a folder with modes and owners. No file can be read by more people on the way."""
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
    # Since when a secret is in use is read off its file.
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


@contextlib.contextmanager
def in_memory(*texts: str) -> Iterator[list[str]]:
    """Give paths of files with these texts that are nowhere on disk, as texts may be secret."""
    with contextlib.ExitStack() as files:
        paths = []
        for text in texts:
            # Unbuffered, so that readers of the path find it all.
            file = files.enter_context(os.fdopen(os.memfd_create("ansible"), "wb", buffering=0))
            file.write(text.encode("utf-8", "surrogateescape"))
            paths.append(f"/proc/self/fd/{file.fileno()}")
        yield paths
