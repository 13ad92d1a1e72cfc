"""What the preflight reads of a host."""

import os
import pwd
import subprocess
import time
import types

import mlflow_host_info
import pytest
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.slots import Instance

ME = pwd.getpwuid(os.getuid()).pw_name


@pytest.fixture
def instance(tmp_path):
    instance = Instance("mlflow", tmp_path)
    instance.config.mkdir(parents=True)
    return instance


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


@pytest.mark.parametrize(
    ("members", "primary_of", "others"),
    [
        ([], [], ""),
        (["www-data"], [], ""),
        (["www-data", "bob"], [], "bob"),
        ([], ["ada"], "ada"),
        (["bob", "ada"], ["ada"], "ada, bob"),
    ],
)
def test_a_group_of_that_name_with_others_in_it_is_somebody_else(
    monkeypatch, members, primary_of, others
):
    """They would read the settings and reach the socket, past the front's password. An empty group
    a killed run has left, and nginx stays in that of a service user who was removed."""
    group = types.SimpleNamespace(gr_gid=999, gr_mem=members)
    users = [types.SimpleNamespace(pw_name=name, pw_gid=999) for name in primary_of]
    users.append(types.SimpleNamespace(pw_name="root", pw_gid=0))
    monkeypatch.setattr(mlflow_host_info.grp, "getgrnam", {"no-such-user": group}.__getitem__)
    monkeypatch.setattr(mlflow_host_info.pwd, "getpwall", lambda: users)
    found = mlflow_host_info.foreign("no-such-user", "/var/lib/no-such", [])
    assert found == ([f"a group no-such-user with {others} in it"] if others else [])


def test_a_member_that_an_operator_adds_later_is_no_stranger(monkeypatch):
    """Every run would be refused from then on."""
    group = types.SimpleNamespace(gr_gid=999, gr_mem=["bob"])
    user = types.SimpleNamespace(pw_dir="/var/lib/no-such")
    monkeypatch.setattr(mlflow_host_info.grp, "getgrnam", lambda _: group)
    monkeypatch.setattr(mlflow_host_info.pwd, "getpwnam", lambda _: user)
    assert mlflow_host_info.foreign("mlflow", "/var/lib/no-such", []) == []


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


def test_a_slot_tells_its_key_and_login_and_no_secret(tmp_path):
    """Which are in effect is asked of the host, and shown by a playbook that anybody may run."""
    key = "[default]\naws_access_key_id = AKIA1\naws_secret_access_key = s%cret\n"
    (tmp_path / "aws_shared_credentials_file").write_text(key)
    login = '# managed\nPGPASSWORD="it\'s \\"secret\\""\nPGUSER="mlflow_b"\n'
    (tmp_path / "database.env").write_text(login)
    (tmp_path / "release").symlink_to(tmp_path)
    found = mlflow_host_info.slot(tmp_path)
    assert (found["access_key_id"], found["login"]) == ("AKIA1", "mlflow_b")
    assert set(found["files"]) == {"aws_shared_credentials_file", "database.env"}
    assert "cret" not in str(found)


def test_a_slot_without_key_and_login_is_told_too(tmp_path):
    found = mlflow_host_info.slot(tmp_path)
    assert found == {"access_key_id": "", "login": "", "files": {}}


def test_what_serves_is_what_the_link_names(instance):
    for name in ("wanted", "blue", "green"):
        (instance.config / name).mkdir()
        (instance.config / name / "database.env").write_text(f'PGUSER="{name}"')
    assert mlflow_host_info.serving(instance)["serving"] == ""
    instance.current.symlink_to("/run/mlflow/green/server.sock")
    found = mlflow_host_info.serving(instance)
    assert (found["serving"], found["login"]) == ("green", "green")
    assert found["installed"] == (instance.config / "green/database.env").stat().st_ctime


@pytest.mark.parametrize("top", ["", "systemd", "unified"])
def test_the_processes_of_a_unit_are_those_of_its_control_group(tmp_path, monkeypatch, top):
    """Where they are depends on the kind of control groups: cgroup v2, v1 or both."""
    asked = []

    def run(command, **_):
        asked.append(command[-1])
        return types.SimpleNamespace(stdout="/system.slice/mlflow-blue.service\n")

    monkeypatch.setattr(mlflow_host_info.subprocess, "run", run)
    monkeypatch.setattr(mlflow_host_info, "GROUPS", tmp_path)
    assert mlflow_host_info.processes("mlflow-blue.service") == [], "it has just ended"
    folder = tmp_path / top / "system.slice/mlflow-blue.service"
    folder.mkdir(parents=True)
    (folder / "cgroup.procs").write_text("30\n4\n")
    assert mlflow_host_info.processes("mlflow-blue.service") == [4, 30]
    assert set(asked) == {"mlflow-blue.service"}


def test_a_unit_that_does_not_run_has_no_processes(tmp_path, monkeypatch):
    """Its group is empty, and the file of the root group lists all processes of the host."""
    (tmp_path / "cgroup.procs").write_text("1\n2\n")
    monkeypatch.setattr(mlflow_host_info, "GROUPS", tmp_path)
    stopped = types.SimpleNamespace(stdout="\n")
    monkeypatch.setattr(mlflow_host_info.subprocess, "run", lambda *_, **__: stopped)
    assert mlflow_host_info.processes("mlflow-blue.service") == []


def test_the_oldest_process_the_latest_text_and_the_other_colour_are_told(instance, monkeypatch):
    """A rotation stands on these: a worker from before the new key, and a colour that was to be
    gone, still have the old one."""
    for name in ("blue", "green"):
        (instance.config / name).mkdir()
        (instance.config / name / "secrets.env").write_text("")
    time.sleep(0.05)  # the clock of file systems has ticks
    (instance.config / "green/database.env").write_text("")
    (instance.config / "green/release").symlink_to("/opt")
    instance.current.symlink_to("/run/mlflow/green/server.sock")
    there = {"mlflow-green.service": [7, 8, 9], "mlflow-blue.service": [5]}
    monkeypatch.setattr(mlflow_host_info, "processes", there.get)
    monkeypatch.setattr(mlflow_host_info, "start", {5: 10.0, 7: 30.0, 8: 20.0, 9: 40.0}.get)
    found = mlflow_host_info.serving(instance)
    assert (found["started"], found["others"]) == (20.0, [5])
    first, last = (instance.config / "green" / name for name in ("secrets.env", "database.env"))
    assert first.stat().st_ctime < last.stat().st_ctime == found["installed"]


def test_a_process_was_started_when_it_was():
    """A process that is older than the key it should have is how a forgotten one is found."""
    before = time.time()
    with subprocess.Popen(["sleep", "5"]) as process:
        found = mlflow_host_info.start(process.pid)
        process.kill()
    assert before - 0.05 <= found <= time.time() + 0.05


@pytest.mark.parametrize(
    "drift", [{}, {"pw_shell": "/bin/bash"}, {"pw_dir": "/nowhere"}, {"pw_gid": 100}, {"pw_gid": 7}]
)
def test_a_service_user_that_somebody_changed_is_made_anew(monkeypatch, drift):
    """One with a shell could log in, and one in a group of all users would show them its files; one
    that is as it was made needs no second look."""
    made = {"pw_dir": "/var/lib/mlflow", "pw_shell": "/usr/sbin/nologin", "pw_gid": 999}
    user = types.SimpleNamespace(**made | drift)
    groups = {
        number: types.SimpleNamespace(gr_name=n) for number, n in [(999, "mlflow"), (100, "users")]
    }
    monkeypatch.setattr(mlflow_host_info.pwd, "getpwnam", lambda name: user)
    monkeypatch.setattr(mlflow_host_info.grp, "getgrgid", lambda number: groups[number])
    assert mlflow_host_info.has_user("mlflow", "/var/lib/mlflow") is (not drift)


def test_a_user_that_is_not_there_is_made():
    assert not mlflow_host_info.has_user("no-such-user", "/var/lib/no-such")


def test_a_file_that_cannot_be_read_has_nothing_and_shows_nothing(tmp_path):
    """The roll refuses it; a look that ended with its lines would show a secret, at each run."""
    (tmp_path / "aws_shared_credentials_file").write_text("aws_secret_access_key = canary\n")
    (tmp_path / "database.env").write_text('PGPASSWORD="canary\n')
    found = mlflow_host_info.slot(tmp_path)
    assert (found["access_key_id"], found["login"]) == ("", "")
    assert "canary" not in str(found)


def test_a_process_that_ends_meanwhile_is_passed_over(instance, monkeypatch):
    """Workers come and go, and every site.yml looks at them: it must not end with a traceback."""
    with subprocess.Popen(["true"]) as gone:
        pass
    assert mlflow_host_info.start(gone.pid) is None
    (instance.config / "blue").mkdir()
    (instance.config / "blue/database.env").write_text("")
    instance.current.symlink_to("/run/mlflow/blue/server.sock")
    monkeypatch.setattr(mlflow_host_info, "processes", lambda _: [gone.pid, os.getpid()])
    found = mlflow_host_info.serving(instance)
    assert abs(found["started"] - mlflow_host_info.start(os.getpid())) < 0.1


def test_the_disk_is_that_of_the_nearest_folder_that_is_there(tmp_path):
    """Before the first run there is no data directory yet, and its bounds follow from its disk."""
    assert mlflow_host_info.disk_mb(str(tmp_path / "not" / "yet")) == mlflow_host_info.disk_mb(
        str(tmp_path)
    )
    assert mlflow_host_info.disk_mb(str(tmp_path)) > 0


SERVER_ENV = """# Ansible managed
MLFLOW_BACKEND_STORE_URI="{store}"
MLFLOW_SERVER_ALLOWED_HOSTS="localhost,127.0.0.1,localhost:5001"
MLFLOW_SERVER_CORS_ALLOWED_ORIGINS="{origins}"
"""
PLACE = """PGHOST="db"
PGPORT="5432"
PGDATABASE="mlflow"
"""


def served(folder, more="", store="postgresql+psycopg2://", origins="https://a,https://b"):
    (folder / "server.env").write_text(SERVER_ENV.format(store=store, origins=origins) + more)
    return mlflow_host_info.serves(folder)


def test_what_serves_is_told_by_its_slot(tmp_path):
    """Whoever would replace it by another server learns from it what they would lose."""
    found = {"store": "postgresql://db:5432/mlflow", "holds": True, "tls": True}
    assert served(tmp_path, PLACE) == found | {"login": "none"}
    assert served(tmp_path, PLACE + 'OIDC_DISCOVERY_URL="x"\n')["login"] == "oidc"
    assert not served(tmp_path, PLACE, origins="http://a,https://a")["tls"]
    (tmp_path / "mlflow_auth_config_path").touch()
    assert served(tmp_path, PLACE)["login"] == "basic"
    for user in ("ada:canary", "ada:can/ary", "ada:can@ary", "ada"):
        shown = served(tmp_path, store=f"postgresql+psycopg2://{user}@db/mlflow?password=canary")
        assert shown["store"] == "postgresql+psycopg2://db/mlflow"
    (tmp_path / "secrets.env").write_text('MLFLOW_BACKEND_STORE_URI="mysql+pymysql://a:b@c/d"\n')
    assert served(tmp_path)["store"] == "mysql+pymysql://c/d"
    assert served(tmp_path, 'PGHOST="db"\n')["store"] == "postgresql://db:/"


def test_a_slot_that_was_spoilt_serves_nothing_that_could_be_told(tmp_path):
    assert mlflow_host_info.serves(tmp_path) == {}
    (tmp_path / "server.env").write_text('A="')
    assert mlflow_host_info.serves(tmp_path) == {}


def test_a_server_that_nobody_has_used_holds_nothing(tmp_path):
    """Whoever tries it on sqlite first may go on to PostgreSQL without being asked."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    store = f"sqlite:///{tmp_path}/mlflow.db"
    assert not served(tmp_path, store=store)["holds"]
    (tmp_path / "mlflow.db").write_text("no database")
    assert served(tmp_path, store=store)["holds"]
    (tmp_path / "mlflow.db").unlink()
    made = SqlAlchemyStore(store, str(tmp_path))
    assert not served(tmp_path, store=store)["holds"]
    made.create_experiment("one")
    for uri in (store, f"{store}?timeout=30", store.replace("sqlite:", "sqlite+pysqlite:")):
        assert served(tmp_path, store=uri)["holds"]


def test_every_instance_of_the_host_is_told_and_whether_it_serves(tmp_path):
    """Of one that was taken away the secrets stay, and nothing that could serve."""
    for path in ("mlflow/blue", "mlflow-a/green", "mlflow-gone/wanted", "mlflow_x/blue", "other"):
        (tmp_path / path).mkdir(parents=True)
    (tmp_path / "mlflow/current.sock").symlink_to("/run/mlflow/blue/server.sock")
    assert mlflow_host_info.instances(tmp_path) == {"mlflow": True, "mlflow-a": False}


def test_releases_that_no_slot_of_any_instance_has_are_told(tmp_path):
    """That of another instance is in use, and what is not named as a release is none."""
    store = tmp_path / "releases"
    names = [f"3.{number}.0-cp313-0123abcd" for number in range(4)]
    for name in [*names, "lost+found", ".lock"]:
        (store / name).mkdir(parents=True)
    for slot, name in {"mlflow/blue": 0, "mlflow/wanted": 0, "mlflow-a/green": 1}.items():
        (tmp_path / "etc" / slot).mkdir(parents=True)
        (tmp_path / "etc" / slot / "release").symlink_to(store / names[name])
    assert mlflow_host_info.releases_unused(tmp_path / "etc/mlflow") == names[2:]
    assert mlflow_host_info.releases_unused(tmp_path / "etc/mlflow-new") == []
