"""Releases on a host of the imagination: refusals, settings, kills at each step, and what goes."""

import os
import signal
import subprocess
import threading
from pathlib import Path

import mlflow_release
import pytest
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils import locks
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.refusals import Refused
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.system import explain
from mlflow_release import FAILURES, Store, pip_settings, uv_settings

LOCK = "mlflow==3.17.2 \\\n    --hash=sha256:00"
SECRET_URL = "https://bob:s3cret@index.example.com/simple"


class FakeHost:
    """Debian with python3-venv, and installers that take no time.

    Attributes:
        commands: Names of what was run, in order.
        fails: {name: standard error} of what is to fail.
        kill_at: Before which command, counted from 1, this process is killed.
    """

    def __init__(self, root: Path):
        self.root, self.machine = root, "x86_64"
        self.library = root / "lib/python3.11"
        self.version = "3 11 2"
        self.pip_config = ""
        self.commands, self.argv, self.env = [], "", {}
        self.fails, self.kill_at = {}, None
        for file, text in {
            "etc/os-release": 'PRETTY_NAME="Debian 12"\nID=debian\n',
            "etc/ssl/certs/ca-certificates.crt": "",
            "usr/share/python-wheels/pip-23.0.1-py3-none-any.whl": "",
            "lib/python3.11/ensurepip/__init__.py": "",
            "proc/locks": "",
        }.items():
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            (root / file).write_text(text)

    def run(self, command, env=None, keep_open=()):
        words = [str(word) for word in command]
        if "-S" in words:
            return subprocess.CompletedProcess(words, 0, f"{self.version} {self.library}", "")
        name = next(
            name
            for name, sign in {
                "venv": "--without-pip",
                "config": "config",
                "install uv": "--target",
                "install": "--require-hashes",
                "compile": "compileall",
                "sync": "sync",
            }.items()
            if sign in words
        )
        # Reading pip's settings has no effect and goes on beside something else.
        if name != "config":
            self.commands.append(name)
            self.argv += " ".join(words) + "\n"
        if self.kill_at == len(self.commands):
            os.kill(os.getpid(), signal.SIGKILL)
        if name in self.fails:
            return subprocess.CompletedProcess(words, 1, "", self.fails[name])
        getattr(self, "do_" + name.replace(" ", "_"))(words, env)
        return subprocess.CompletedProcess(
            words, 0, self.pip_config if name == "config" else "", ""
        )

    def do_venv(self, words, env):
        assert not Path(words[-1]).exists(), "made upon what a killed run left"
        (Path(words[-1]) / "bin").mkdir(parents=True)
        (Path(words[-1]) / "lib/python3.11/site-packages").mkdir(parents=True)

    def do_config(self, words, env):
        pass

    def do_install_uv(self, words, env):
        (Path(words[words.index("--target") + 1]) / "bin").mkdir(parents=True)

    def do_install(self, words, env):
        work = Path(words[words.index("--requirement") + 1]).parent
        assert (work / "lock.txt").read_text() == LOCK
        self.env = env
        release = work.parent
        (release / ".lock").touch(0o666)
        (release / "lib/python3.11/site-packages/mlflow.py").touch()

    def do_compile(self, words, env):
        (Path(words[-1]) / "mlflow.pyc").touch()

    def do_sync(self, words, env):
        pass


@pytest.fixture
def fake(tmp_path):
    return FakeHost(tmp_path / "root")


@pytest.fixture
def params(tmp_path):
    return {
        "version": "3.17.2",
        "lock": LOCK,
        "python": "/usr/bin/python3",
        "keep": 3,
        "in_use": [f"{tmp_path}/etc/mlflow*/blue/release"],
        "installer": "uv",
        "uv_lock": "uv==1",
        "index_url": "",
        "proxy": "",
        "releases": str(tmp_path / "opt/mlflow/releases"),
    }


def complete_release(params, name, age):
    """Put a complete release there, `age` seconds old."""
    release = Path(params["releases"]) / name
    (release / "bin").mkdir(parents=True)
    (release / ".complete").touch()
    os.utime(release / ".complete", (1e9 - age, 1e9 - age))
    return release


def present(params):
    return sorted(os.listdir(params["releases"]))


def in_another_process(what):
    """Run a function in a process of its own and return the signal that ended it, or 0."""
    child = os.fork()
    if not child:
        try:
            what()
        finally:
            os._exit(0)
    return os.WTERMSIG(os.waitpid(child, 0)[1])


# What is made.


def test_a_release_is_complete_and_holds_nothing_of_its_making(fake, params):
    """The cache, uv and its lock that everybody may write to would stay for ever."""
    plan = Store(params, fake).apply()
    release = Store(params, fake).path
    assert plan == [f"make {release.name}"]
    assert sorted(os.listdir(release)) == [".complete", "bin", "lib"]
    assert sorted(os.listdir(release / "lib/python3.11/site-packages")) == [
        "mlflow.py",
        "mlflow.pyc",
    ]


def test_a_complete_release_costs_no_command(fake, params):
    """The second run of the role on an unchanged host is the usual one."""
    Store(params, fake).apply()
    fake.commands.clear()
    assert Store(params, fake).apply() == []
    assert fake.commands == []


def test_the_name_tells_version_python_and_lock(fake, params):
    """Another lock or Python is another release: one that is there is never changed."""
    first = Store(params, fake).path.name
    fake.version = "3 13 5"
    second = Store(params, fake).path.name
    params["lock"] += " "
    third = Store(params, fake).path.name
    assert first.startswith("3.17.2-cp311-") and second.startswith("3.17.2-cp313-")
    assert first[-8:] == second[-8:] != third[-8:]


def test_the_service_user_can_read_a_release_made_under_a_strict_umask(fake, params):
    """Hardened hosts give root the umask 077, and the server is not root."""
    before = os.umask(0o077)
    try:
        Store(params, fake).apply()
    finally:
        os.umask(before)
    assert Store(params, fake).path.stat().st_mode & 0o777 == 0o755


def test_check_mode_says_what_would_be_done_and_does_nothing(fake, params, tmp_path):
    """The preflight of a fresh host is this, before Debian's packages are there."""
    (fake.library / "ensurepip/__init__.py").unlink()
    (fake.library / "ensurepip").rmdir()
    (fake.root / "etc/ssl/certs/ca-certificates.crt").unlink()
    store = Store(params, fake)
    assert store.packages == ["python3-venv", "ca-certificates"]
    assert store.plan() == [
        "install python3-venv",
        "install ca-certificates",
        f"make {store.path.name}",
    ]
    assert fake.commands == [] and not (tmp_path / "opt").exists()


def test_pip_installs_if_wanted(fake, params):
    """Where uv is not allowed, one variable does without it."""
    params["installer"] = "pip"
    Store(params, fake).apply()
    assert fake.commands[:2] == ["venv", "install"]
    # Written to the disk and compiled at the same time.
    assert sorted(fake.commands[2:]) == ["compile", "sync", "sync"]


# What is refused.


def refused(params, fake):
    with pytest.raises(Refused) as caught:
        Store(params, fake).plan()
    return str(caught.value)


def test_a_system_that_is_not_of_debians_family_is_refused(fake, params):
    """Package names and paths are Debian's."""
    (fake.root / "etc/os-release").write_text('ID=fedora\nPRETTY_NAME="Fedora 44"\n')
    assert "found Fedora 44; take this host out" in refused(params, fake)


def test_a_machine_without_wheels_is_refused(fake, params):
    """Nothing is compiled on a fake, so there it could only fail later."""
    fake.machine = "ppc64le"
    assert "found ppc64le;" in refused(params, fake)


@pytest.mark.parametrize(
    ("version", "found"), [("3 9 2", "3.9.2"), ("3 15 0", "3.15.0"), ("", "none that runs")]
)
def test_a_python_that_the_lock_does_not_cover_is_refused(fake, params, version, found):
    """The lock has no wheels for it."""
    fake.version = version
    message = refused(params, fake)
    assert "Wanted Python 3.11 to 3.14 as mlflow_venv_python=/usr/bin/python3" in message
    assert f"found {found};" in message


def test_an_interpreter_of_ones_own_without_ensurepip_is_refused(fake, params):
    """No Debian package would add it there."""
    params["python"] = "/opt/python/bin/python3"
    (fake.root / "usr/share/python-wheels/pip-23.0.1-py3-none-any.whl").unlink()
    assert "Wanted mlflow_venv_python=/opt/python/bin/python3 with" in refused(params, fake)


def test_another_python_of_debian_needs_its_own_venv_package(fake, params):
    """`python3-venv` is for the default one alone."""
    params["python"] = "/usr/bin/python3.12"
    (fake.root / "usr/share/python-wheels/pip-23.0.1-py3-none-any.whl").unlink()
    assert Store(params, fake).packages == ["python3.12-venv"]


def test_a_lock_of_another_version_is_refused(fake, params):
    """The release would have the name of what it does not hold."""
    params["lock"] = "mlflow==3.17.20 \\\n"
    assert "run `make lock MLFLOW_VERSION=3.17.2`" in refused(params, fake)


def test_a_folder_that_is_not_roots_is_refused(fake, params, monkeypatch):
    """Its owner could exchange what root and the server run."""
    Path(params["releases"]).mkdir(parents=True)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    message = refused(params, fake)
    assert f"Wanted {Path(params['releases']).parent} as a folder of root's" in message
    assert f"of uid {os.getuid()};" in message


def test_a_folder_that_others_may_write_to_is_refused(fake, params):
    """The same, by its mode."""
    Path(params["releases"]).mkdir(parents=True)
    Path(params["releases"]).chmod(0o777)
    assert "found drwxrwxrwx" in refused(params, fake)


def test_too_little_disk_is_refused_before_anything_is_written(fake, params, monkeypatch):
    """A full root file system hurts more than a failed play."""
    monkeypatch.setattr(mlflow_release, "NEED_MB", 10**9)
    assert "Wanted 1000000000 MB free" in refused(params, fake)
    assert not Path(params["releases"]).exists()


def test_what_a_killed_run_left_counts_as_free(fake, params, monkeypatch):
    """Else the leftover on a small disk would keep the next run from replacing it."""
    store = Store(params, fake)
    (store.path / "bin").mkdir(parents=True)
    (store.path / "bin/file").write_bytes(b"0" * 5_000_000)
    os.link(store.path / "bin/file", store.path / "bin/linked")
    monkeypatch.setattr(mlflow_release, "NEED_MB", 5)
    usage = type("Usage", (), {"free": 1_000_000})
    monkeypatch.setattr(mlflow_release.shutil, "disk_usage", lambda _: usage)
    store.plan()
    monkeypatch.setattr(mlflow_release, "NEED_MB", 7)
    assert "found 6 MB" in refused(params, fake)


def test_a_release_that_another_run_is_making_does_not_disturb(fake, params, monkeypatch):
    """A preflight takes no lock: files, and the whole release, may vanish while it looks."""
    store = Store(params, fake)
    store.path.mkdir(parents=True)
    monkeypatch.setattr(os, "walk", lambda folder: [(str(folder), [], ["gone"])])
    monkeypatch.setattr(Store, "releases", lambda self: [self.path, self.folder / "gone"])
    assert store.plan() == [f"make {store.path.name}", "remove gone"]


def test_missing_packages_are_refused_when_it_comes_to_making(fake, params):
    """The role installs them before; the module by itself says what is missing."""
    (fake.root / "etc/ssl/certs/ca-certificates.crt").unlink()
    with pytest.raises(Refused, match="run `apt-get install ca-certificates`"):
        Store(params, fake).apply()
    assert present(params) == []


# What an installer says.


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("cause: error sending request for url (u)\n cause: dns error", "no package index can be"),
        ("NewConnectionError(...)\nERROR: No matching distribution found", "no package index can"),
        ("cause: client error (Connect)\n cause: invalid peer certificate: X", "a certificate"),
        ("SSLError(1, '[SSL: CERTIFICATE_VERIFY_FAILED] ...')\nNo matching", "a certificate"),
        ("no version of x\nhint: ... (401 Unauthorized)", "that refuses the host"),
        ("WARNING: 401 Error, Credentials not correct\nNo matching", "that refuses the host"),
        ("Failed to download `six`\n cause: Hash mismatch for `six`", "not the locked one"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM", "not the locked one"),
        ("cause: Because there is no version of six==99", "without a wheel"),
        ("Because psycopg2==2.9.9 has no usable wheels and", "without a wheel"),
        ("No matching distribution found for six==99.0", "without a wheel"),
        ("failed to write: No space left on device (os error 28)", "a full disk"),
        ("something new", "found an error; fix what it says"),
    ],
)
def test_what_an_installer_says_becomes_what_to_do(said, found):
    """Texts of uv 0.13 and pip 23; an operator should not have to know either."""
    message = str(explain("it", said, FAILURES))
    assert found in message and said in message


@pytest.mark.parametrize("step", ["venv", "install uv", "install", "compile", "sync"])
def test_a_step_that_fails_leaves_no_release_and_no_secret(fake, params, step):
    """Half a release would be found and served; a password would be in every log."""
    params["index_url"] = SECRET_URL
    fake.fails[step] = f"could not fetch {SECRET_URL}/mlflow/"
    with pytest.raises(Refused) as caught:
        Store(params, fake).apply()
    assert present(params) == []
    assert "could not fetch https://****@index.example.com/simple/mlflow/" in str(caught.value)
    assert "s3cret" not in str(caught.value) + fake.argv


# Where packages come from.

PIP_CONFIG = f"""\
global.cert='/etc/ssl/company.crt'
global.constraint='/etc/constraints.txt'
global.extra-index-url='https://one.example.com/simple\\nhttps://two.example.com/simple'
global.find-links='/srv/wheels /srv/more'
global.index-url='https://global.example.com/simple'
global.no-index='false'
install.index-url='{SECRET_URL}'
install.trusted-host='one.example.com'
list.format='columns'
:env:.proxy='http://proxy.example.com:3128'
"""


def test_pips_settings_are_seen_as_pip_install_sees_them():
    """A setting for `install` prevails over a global one, one of another command is none."""
    settings = pip_settings(PIP_CONFIG)
    assert settings["index-url"] == SECRET_URL
    assert settings["proxy"] == "http://proxy.example.com:3128"
    assert "format" not in settings


def test_uv_takes_packages_from_where_pip_is_set_to(fake, params):
    """Companies set pip, for all hosts; nobody sets uv."""
    fake.pip_config = PIP_CONFIG
    Store(params, fake).apply()
    wanted = {
        "UV_DEFAULT_INDEX": SECRET_URL,
        "UV_INDEX": "https://one.example.com/simple https://two.example.com/simple",
        "UV_FIND_LINKS": "/srv/wheels,/srv/more",
        "UV_INSECURE_HOST": "one.example.com",
        "SSL_CERT_FILE": "/etc/ssl/company.crt",
        "HTTPS_PROXY": "http://proxy.example.com:3128",
        "https_proxy": "http://proxy.example.com:3128",
    }
    assert fake.env.items() >= wanted.items()
    assert "s3cret" not in fake.argv


def test_a_host_whose_pip_asks_no_index_has_a_uv_that_asks_none():
    """Such a host has all wheels in its find-links."""
    assert uv_settings({"no-index": "true"}) == ({}, ["--no-index"])
    assert uv_settings({"no-index": "no"}) == ({}, [])


def test_the_roles_index_and_proxy_prevail_and_are_not_in_argv(fake, params):
    """argv can be read by every user of the fake, the environment of root's processes cannot."""
    params |= {"index_url": SECRET_URL, "proxy": "http://eve:s3cret@proxy.example.com"}
    Store(params, fake).apply()
    assert fake.env["PIP_INDEX_URL"] == SECRET_URL
    assert fake.env["PIP_PROXY"] == params["proxy"]
    assert "s3cret" not in fake.argv


def test_settings_of_python_itself_do_not_reach_the_installers(fake, params, monkeypatch):
    """A PYTHONPATH of root's shell would bring other packages in."""
    monkeypatch.setenv("PYTHONPATH", "/srv")
    Store(params, fake).apply()
    assert "PYTHONPATH" not in fake.env


# What a kill leaves.


@pytest.mark.parametrize("installer", ["uv", "pip"])
def test_killed_before_any_step_the_next_run_finishes(tmp_path, params, installer):
    """SIGKILL: no clean-up runs, and what is there must not be taken for a release."""
    params["installer"] = installer
    at = 0
    while True:
        at += 1
        fake = FakeHost(tmp_path / "root")
        fake.kill_at = at
        if not in_another_process(Store(params, fake).apply):
            break
        fake = FakeHost(tmp_path / "root")
        store = Store(params, fake)
        assert not store.completed(store.path), f"complete after a kill before step {at}"
        assert store.apply() == [f"make {store.path.name}"]
        assert sorted(os.listdir(store.path)) == [".complete", "bin", "lib"]
        store.remove(store.path)
    assert at > 5
    assert present(params) == [store.path.name]


def test_what_a_kill_left_of_another_release_goes(fake, params):
    """A version that was given up would lie there for ever, with nobody to see it."""
    left = Path(params["releases"]) / "3.16.0-cp311-00000000"
    left.mkdir(parents=True)
    assert f"remove {left.name}" in Store(params, fake).plan()
    Store(params, fake).apply()
    assert not left.exists()


def test_killed_while_an_old_release_goes_the_rest_of_it_goes_next_time(fake, params):
    """Half of it must not count as complete: a rollback would start it."""
    Store(params, fake).apply()
    old = complete_release(params, "3.16.0-cp311-00000000", age=10)
    params["keep"] = 1

    def kill(path):
        os.rmdir(path / "bin")
        os.kill(os.getpid(), signal.SIGKILL)

    def apply():
        mlflow_release.shutil.rmtree = kill
        Store(params, fake).apply()

    assert in_another_process(apply) == signal.SIGKILL
    assert old.exists() and not Store.completed(old)
    assert Store(params, fake).apply() == [f"remove {old.name}"]
    assert not old.exists()


def test_what_a_step_starts_holds_the_lock(fake, params):
    """An installer outlives its killed module and would go on writing into the next release."""
    held, run = [], fake.run

    def noted(command, env=None, keep_open=()):
        if "-S" not in command:
            (lock,) = keep_open
            held.append(os.path.samestat(os.fstat(lock), os.stat(params["releases"])))
        return run(command, env, keep_open)

    fake.run = noted
    Store(params, fake).apply()
    assert len(held) > 5 and all(held)


def test_the_second_of_two_runs_waits_and_finds_the_release(fake, params, monkeypatch):
    """Two instances of one host may be set up at once."""
    first, second = Store(params, fake), Store(params, fake)
    first.folder.mkdir(parents=True)
    plans, refused = [], threading.Semaphore(0)
    try_lock = locks.try_lock

    def tried(folder):
        got = try_lock(folder)
        if not got:
            refused.release()
        return got

    with locks.locked(first.folder, 0, first.refusal):
        monkeypatch.setattr(locks, "try_lock", tried)
        waiting = threading.Thread(target=lambda: plans.append(second.apply()))
        waiting.start()
        assert refused.acquire(timeout=60), "it has begun, and waits"
        first.make()
        assert refused.acquire(timeout=60) and plans == [], "it waits still"
    waiting.join(60)
    assert plans == [[]]


def test_who_waits_too_long_is_told_for_whom(fake, params, monkeypatch):
    """A run that hangs has to be found before it can be ended."""
    monkeypatch.setattr(mlflow_release, "LOCK_SECONDS", 0)
    store = Store(params, fake)
    store.folder.mkdir(parents=True)
    inode = store.folder.stat().st_ino
    (fake.root / "proc/locks").write_text(f"1: FLOCK  ADVISORY  WRITE 4711 fe:00:{inode} 0 EOF\n")
    with (
        locks.locked(store.folder, 0, store.refusal),
        pytest.raises(Refused, match="taken by process 4711 for 0 s"),
    ):
        Store(params, fake).apply()


# What goes.


def test_beyond_the_kept_number_the_oldest_go(fake, params):
    """The wanted one counts as one of them."""
    for age, name in enumerate(["3.16.3", "3.16.2", "3.16.1", "3.16.0"], 1):
        complete_release(params, f"{name}-cp311-00000000", age)
    plan = Store(params, fake).plan()
    assert Store(params, fake).apply() == plan
    assert plan[1:] == ["remove 3.16.1-cp311-00000000", "remove 3.16.0-cp311-00000000"]
    kept = [name.partition("-")[0] for name in present(params)]
    assert kept == ["3.16.2", "3.16.3", "3.17.2"]


def test_an_old_release_that_is_wanted_again_stays(fake, params):
    """A rollback wants the oldest one."""
    params["keep"] = 1
    store = Store(params, fake)
    complete_release(params, store.path.name, age=10)
    complete_release(params, "3.18.0-cp311-00000000", age=1)
    assert store.apply() == ["remove 3.18.0-cp311-00000000"]


def test_a_release_that_a_link_points_to_stays(fake, params, tmp_path):
    """The slot that serves, or the idle one that is gone back to."""
    params["keep"] = 1
    old = complete_release(params, "3.16.0-cp311-00000000", age=10)
    (tmp_path / "etc/mlflow-team/blue").mkdir(parents=True)
    (tmp_path / "etc/mlflow-team/blue/release").symlink_to(old)
    complete_release(params, "3.16.1-cp311-00000000", age=5)
    assert Store(params, fake).apply()[1:] == ["remove 3.16.1-cp311-00000000"]
    assert old.exists()


@pytest.mark.parametrize("file", ["cmdline", "maps"])
def test_a_release_that_a_process_runs_from_stays(fake, params, file):
    """A virtualenv's interpreter is the system's, so the link to the program does not tell."""
    params["keep"] = 1
    old = complete_release(params, "3.16.0-cp311-00000000", age=10)
    (fake.root / "proc/77").mkdir()
    (fake.root / "proc/77" / file).write_bytes(b"1 /usr/bin/x\n%s/bin/x\0-m" % bytes(old))
    Store(params, fake).apply()
    assert old.exists()


def test_what_is_not_named_like_a_release_is_left_alone(fake, params):
    """The folder is ours, but somebody's notes in it are not."""
    params["keep"] = 1
    (Path(params["releases"]) / "notes").mkdir(parents=True)
    Store(params, fake).apply()
    assert "notes" in present(params)
