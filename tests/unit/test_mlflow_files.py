"""Files, folders and links in one round trip: right ones untouched, no half ones, closed ones."""

import fcntl
import grp
import os
import pwd

import mlflow_files
import pytest
from ansible.module_utils.testing import patch_module_args
from mlflow_files import Writer

ME = pwd.getpwuid(os.getuid()).pw_name
GROUP = grp.getgrgid(os.getgid()).gr_name


@pytest.fixture
def writer():
    return Writer(GROUP, check=False)


def again():
    return Writer(GROUP, check=False)


def test_a_second_run_writes_nothing(writer, tmp_path):
    """changed=0 on the second run is what tells an operator that the host is as wanted."""
    for one in (writer, second := again()):
        one.folder(f"{tmp_path}/a", "0750", ME)
        one.file(f"{tmp_path}/a/f", "text", "0640", ME, keep=False)
        one.link(f"{tmp_path}/a/l", "/target")
    assert len(writer.written) == 3
    assert second.written == []


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_modes_do_not_depend_on_the_umask(writer, tmp_path, umask):
    former = os.umask(umask)
    try:
        writer.folder(f"{tmp_path}/a", "0750", ME)
        writer.file(f"{tmp_path}/a/f", "text", "0640", ME, keep=False)
    finally:
        os.umask(former)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o750
    assert (tmp_path / "a/f").stat().st_mode & 0o777 == 0o640


def test_a_file_made_readable_by_hand_is_closed_again(writer, tmp_path):
    writer.file(f"{tmp_path}/f", "secret", "0600", ME, keep=False)
    (tmp_path / "f").chmod(0o644)
    second = again()
    second.file(f"{tmp_path}/f", "secret", "0600", ME, keep=False)
    assert second.written == [f"{tmp_path}/f"]
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o600


def test_a_kept_file_keeps_its_text_but_not_its_mode(writer, tmp_path):
    """Secrets made on the host are made once; a later run brings other random ones."""
    writer.file(f"{tmp_path}/f", "first", "0600", ME, keep=True)
    (tmp_path / "f").chmod(0o644)
    again().file(f"{tmp_path}/f", "second", "0600", ME, keep=True)
    assert (tmp_path / "f").read_text() == "first"
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o600


def test_a_lost_kept_file_is_taken_from_where_it_still_is(writer, tmp_path):
    """A key made anew would leave everything unreadable that was encrypted with the old one."""
    (tmp_path / "slot").write_text("first")
    places = [f"{tmp_path}/none", f"{tmp_path}/slot"]
    writer.file(f"{tmp_path}/f", "second", "0600", ME, True, places)
    assert (tmp_path / "f").read_text() == "first"


def test_what_a_killed_run_left_beside_a_file_goes(writer, tmp_path, monkeypatch):
    """Also if the file is as it should be: the next slot would have it."""
    writer.file(f"{tmp_path}/f", "former", "0600", ME, keep=False)

    def full(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(os, "fsync", full)
        again().file(f"{tmp_path}/f", "new", "0600", ME, keep=False)
    assert (tmp_path / "f").read_text() == "former"
    again().file(f"{tmp_path}/f", "former", "0600", ME, keep=False)
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_check_mode_changes_nothing_on_a_fresh_host(tmp_path):
    """There the service user does not exist yet, nor the folder."""
    writer = Writer("no-such-group", check=True)
    writer.folder(f"{tmp_path}/a", "0750", "no-such-user")
    writer.file(f"{tmp_path}/a/f", "text", "0600", "no-such-user", keep=False)
    writer.link(f"{tmp_path}/a/l", "/target")
    assert len(writer.written) == 3
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_wanted_any_more_is_removed(writer, tmp_path):
    """A key that stays behind would go before the profile of the instance."""
    for name in ("server.env", "aws_shared_credentials_file"):
        writer.file(f"{tmp_path}/{name}", "text", "0600", ME, keep=False)
    looker, second = Writer(GROUP, check=True), again()
    for one in (looker, second):
        one.only(str(tmp_path), {"server.env"})
        assert one.written == [f"{tmp_path}/aws_shared_credentials_file"]
    assert [path.name for path in tmp_path.iterdir()] == ["server.env"]
    looker.only(f"{tmp_path}/not-there-yet", set())


def test_nothing_is_written_while_a_roll_reads_it(tmp_path, monkeypatch):
    """Two operators at once: a slot filled from half of the new texts would start with them."""
    (tmp_path / "wanted").mkdir()
    given = {
        "group": GROUP,
        "into": f"{tmp_path}/wanted",
        "lock": f"{tmp_path}/.roll.lock",
        "files": [{"name": "f", "mode": "0600", "owner": ME}],
        "texts": {"f": "text"},
        "links": [{"name": "l", "target": "/target"}],
    }
    real = fcntl.flock

    def flock(file, how):
        """Raise BlockingIOError where the real one would wait."""
        real(file, how | fcntl.LOCK_NB)

    with open(tmp_path / ".roll.lock", "w") as lock, patch_module_args(given):
        fcntl.flock(lock, fcntl.LOCK_EX)
        monkeypatch.setattr(fcntl, "flock", flock)
        with pytest.raises(SystemExit):
            mlflow_files.main()
        assert list((tmp_path / "wanted").iterdir()) == []
    with patch_module_args(given), pytest.raises(SystemExit):
        mlflow_files.main()
    assert sorted(path.name for path in (tmp_path / "wanted").iterdir()) == ["f", "l"]
