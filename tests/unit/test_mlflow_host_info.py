"""What the preflight reads of a host."""

import os
import pwd

import mlflow_host_info

ME = pwd.getpwuid(os.getuid()).pw_name


def test_memory_is_counted_in_mb():
    """/proc/meminfo counts in KiB."""
    assert mlflow_host_info.memory_mb("MemTotal:        2048000 kB\nMemFree: 1 kB\n") == 2000


def test_a_host_without_our_folders_and_user_holds_nothing_foreign(tmp_path):
    assert mlflow_host_info.foreign("no-such-user", f"{tmp_path}/no", [f"{tmp_path}/no"]) == []


def test_a_folder_of_somebody_else_is_named_with_its_owner(tmp_path):
    """root must not act on what another user can write."""
    os.chown(tmp_path, 4321, -1)
    found = mlflow_host_info.foreign("no-such-user", str(tmp_path), [str(tmp_path)])
    assert found == [f"{tmp_path} owned by 4321"] * 2


def test_the_data_folder_may_be_a_fresh_disk_of_root(tmp_path):
    os.chown(tmp_path, 0, -1)
    assert mlflow_host_info.foreign("no-such-user", str(tmp_path), []) == []


def test_a_user_of_that_name_who_lives_elsewhere_is_somebody_else():
    """The role would move the home of a person who happens to be called like the instance."""
    found = mlflow_host_info.foreign(ME, "/nowhere", [])
    assert found == [f"a user {ME} with home {pwd.getpwnam(ME).pw_dir}"]
