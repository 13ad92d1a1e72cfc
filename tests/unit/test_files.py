"""Files that are read as they were written, and removed whatever they are."""

import pytest
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.files import (
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
