"""What the preflight reads of a host."""

import os
import pwd

import mlflow_host_info

ME = pwd.getpwuid(os.getuid()).pw_name


def test_memory_is_counted_in_mb():
    """/proc/meminfo counts in KiB."""
    assert mlflow_host_info.memory_mb("MemTotal:        2048000 kB\nMemFree: 1 kB\n") == 2000


def test_a_host_without_our_folders_and_user_holds_nothing_foreign():
    assert mlflow_host_info.foreign("no-such-user", "/var/lib/no-such", ["/etc/no-such"]) == []


def test_a_folder_of_somebody_else_is_named_with_its_owner(tmp_path, monkeypatch):
    """root must not act on what another user can write."""
    monkeypatch.setattr(mlflow_host_info.re, "match", lambda *_: None)  # pytest's folder is in /tmp
    os.chown(tmp_path, 4321, -1)
    found = mlflow_host_info.foreign("no-such-user", str(tmp_path), [str(tmp_path)])
    assert found == [f"{tmp_path} owned by 4321"] * 2


def test_the_data_folder_may_be_a_fresh_disk_of_root(tmp_path, monkeypatch):
    monkeypatch.setattr(mlflow_host_info.re, "match", lambda *_: None)  # pytest's folder is in /tmp
    os.chown(tmp_path, 0, -1)
    assert mlflow_host_info.foreign("no-such-user", str(tmp_path), []) == []


def test_a_user_of_that_name_who_lives_elsewhere_is_somebody_else():
    """The role would move the home of a person who happens to be called like the instance."""
    found = mlflow_host_info.foreign(ME, "/nowhere", [])
    assert found == [f"a user {ME} with home {pwd.getpwnam(ME).pw_dir}"]


def test_a_shared_folder_is_not_taken_for_our_own(tmp_path, monkeypatch):
    """/srv or a data disk with other things on it would be closed to everybody else."""
    monkeypatch.setattr(mlflow_host_info.re, "match", lambda *_: None)
    os.chown(tmp_path, 0, -1)
    (tmp_path / "lost+found").mkdir()
    assert mlflow_host_info.foreign("no-such-user", str(tmp_path), []) == []
    (tmp_path / "photos").mkdir()
    found = mlflow_host_info.foreign("no-such-user", str(tmp_path), [])
    assert found == [f"{tmp_path}, root's and not empty"]


def test_a_folder_that_the_sandbox_hides_is_refused():
    """ProtectHome and PrivateTmp would leave the unit without its data."""
    for home in ("/home/mlflow", "/tmp/mlflow", "/root/mlflow"):
        assert "hides" in mlflow_host_info.foreign("no-such-user", home, [])[0]
    assert mlflow_host_info.foreign("no-such-user", "/homes/mlflow", []) == []


def test_a_linked_data_folder_is_to_be_named_itself(tmp_path):
    """The unit's sandbox opens the path that it is told, not what a link makes of it."""
    link = tmp_path / "link"
    link.symlink_to("/srv/data")
    assert "a link to /srv/data" in mlflow_host_info.foreign("no-such-user", str(link), [])[0]
