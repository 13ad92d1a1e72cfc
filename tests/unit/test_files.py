"""Files that are there as a whole or not at all, read as written, removed whatever they are."""

import os
from pathlib import Path

import pytest
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.files import (
    beside,
    copy_tree,
    in_memory,
    read,
    remove,
    write,
)


@pytest.mark.parametrize("data", [b"", b"a\r\nb\n", "\xfc".encode(), b"Jos\xe9's\n"])
def test_a_file_is_read_as_it_is_written(tmp_path, data):
    """Other line ends, or bytes that are no UTF-8, would look like a change at each run."""
    file = tmp_path / "file"
    file.write_bytes(data)
    text = read(file)
    write(file, text, 0o600)
    assert file.read_bytes() == data and read(file) == text


def test_a_file_that_is_not_there_has_no_text(tmp_path):
    """Nor has one below what is no folder. A folder is an error: somebody has put it there."""
    (tmp_path / "file").touch()
    assert read(tmp_path / "none") is read(tmp_path / "file/none") is None
    with pytest.raises(IsADirectoryError):
        read(tmp_path)


def test_what_is_removed_is_gone_and_nothing_else(tmp_path):
    """A link goes, and what it points to stays."""
    kept = tmp_path / "kept/file"
    kept.parent.mkdir()
    kept.touch()
    link, folder, file = (tmp_path / name for name in ("link", "folder", "file"))
    link.symlink_to(kept.parent)
    (folder / "inner").mkdir(parents=True)
    file.touch()
    for path in (link, folder, file, tmp_path / "none"):
        remove(path)
    assert list(tmp_path.iterdir()) == [kept.parent] and kept.exists()


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_a_file_has_the_mode_and_owner_that_are_wanted_whatever_the_umask(tmp_path, umask):
    former = os.umask(umask)
    try:
        write(tmp_path / "f", "text", 0o640, 4321, 8765)
    finally:
        os.umask(former)
    found = (tmp_path / "f").stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (4321, 8765, 0o640)


def test_a_file_is_there_whole_or_as_before(tmp_path, monkeypatch):
    """A disk that is full in the middle leaves the former text, and the next run cleans up."""
    write(tmp_path / "f", "former", 0o600)

    def full(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(os, "fsync", full)
        write(tmp_path / "f", "new", 0o600)
    assert (tmp_path / "f").read_text() == "former"
    write(tmp_path / "f", "new", 0o600)
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
    assert (tmp_path / "f").read_text() == "new"


def test_file_and_name_are_on_the_disk_before_it_returns(tmp_path, monkeypatch):
    """After a power cut the text of a name that is there is whole: data first, then the name."""
    synced, fsync = [], os.fsync

    def noted(descriptor):
        synced.append((os.readlink(f"/proc/self/fd/{descriptor}"), (tmp_path / "f").exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    write(tmp_path / "f", "text", 0o600)
    assert synced == [(str(beside(tmp_path / "f")), False), (str(tmp_path), True)]


@pytest.mark.parametrize("name", ["f", ".f.mlflow-ansible"])
def test_a_link_in_the_place_of_a_file_is_not_followed(tmp_path, name):
    """root must never write through a link that somebody else has put there."""
    (tmp_path / "victim").write_text("victim")
    (tmp_path / name).symlink_to(tmp_path / "victim")
    write(tmp_path / "f", "ours", 0o600)
    assert (tmp_path / "victim").read_text() == "victim"
    assert (tmp_path / "f").read_text() == "ours" and not (tmp_path / "f").is_symlink()


def test_a_copy_is_as_its_source_whatever_the_umask(tmp_path):
    """Modes, owners, targets of links, and dates: since when a secret is in use is read off it."""
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "folder").mkdir(parents=True)
    (source / "folder/f").write_text("text")
    (source / "link").symlink_to("/nowhere")
    paths = ["", "folder", "folder/f", "link"]
    for number, name in enumerate(paths):
        os.chown(source / name, 4321 + number, 8765, follow_symlinks=False)
    (source / "folder").chmod(0o751)
    (source / "folder/f").chmod(0o440)
    os.utime(source / "folder/f", (1, 2))
    former = os.umask(0o077)
    try:
        copy_tree(source, target)
    finally:
        os.umask(former)
    for name in paths:
        this, that = (path / name for path in (source, target))
        for field in ("st_mode", "st_uid", "st_gid"):
            assert getattr(this.lstat(), field) == getattr(that.lstat(), field), (name, field)
    assert (target / "folder/f").read_text() == "text"
    assert (target / "folder/f").stat().st_mtime == 2
    assert os.readlink(target / "link") == "/nowhere"


def test_a_text_in_memory_is_read_by_its_path_and_nowhere_on_disk():
    """As often as somebody opens it, and not any more once it is done with."""
    with in_memory("one", "Jos\udce9") as paths:
        for _ in range(2):
            assert [Path(path).read_bytes() for path in paths] == [b"one", b"Jos\xe9"]
        assert all("memfd:" in os.readlink(path) for path in paths)
    assert not any(map(os.path.exists, paths))
