"""Debian packages, on a host of the imagination: locks, old lists, and a kill before each step."""

import os
import time

import debian_packages
import pytest
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.refusals import Refused
from debian_packages import FINISH, FIRST_BOOT, INSTALL, UPDATE, Packages
from kills import Killed

MASK = "etc/nginx/sites-enabled/default"
LISTS_LOCK = (
    "E: Could not get lock /var/lib/apt/lists/lock. It is held by process 812 (apt-get)\n"
    "E: Unable to lock directory /var/lib/apt/lists/\n"
)
DPKG_LOCK = (
    "dpkg: error: dpkg frontend lock was locked by another process with pid 812\n"
    "Note: removing the lock file is always wrong, can damage the locked area\n"
)
# dpkg 1.22 names the program.
NEW_DPKG_LOCK = DPKG_LOCK.replace("another", "/usr/bin/python3.13")


class FakeHost:
    """dpkg, apt and the clock of one host, killed before or in its n-th command."""

    def __init__(self, root, monkeypatch):
        self.root = root
        self.packages = {"base-files": "installed"}
        self.known, self.sources = set(), {"nginx", "python3-venv"}
        self.commands, self.fatal, self.update_says = [], None, ""
        # What a command says for as long as it finds its lock taken, and for how many seconds.
        self.locked, self.clock = {}, 0
        self.masked_in_time = True
        # With what code cloud-init ends, and what of the sources it has written by then.
        self.first_boot, self.written_at_first_boot = 0, set()
        self.lists = root / "var/lib/apt/lists"
        self.lists.mkdir(parents=True)
        monkeypatch.setattr(debian_packages.time, "monotonic", lambda: self.clock)
        monkeypatch.setattr(debian_packages.time, "sleep", self.sleep)

    def sleep(self, seconds):
        self.clock += seconds

    def ensure(self, *names, masks=()):
        params = {"names": names or ["python3-venv", "nginx"], "masks": [f"/{m}" for m in masks]}
        return Packages(params, self.run, self.root).apply()

    def run(self, command):
        if command[0] == "dpkg-query":
            return 0, "".join(f"{name} {state}\n" for name, state in self.packages.items())
        self.commands.append(command)
        if self.fatal == len(self.commands):
            raise Killed
        for said, until in self.locked.items():
            if self.clock < until:
                return 100, said
        if command == FIRST_BOOT:
            self.sources |= self.written_at_first_boot
            return self.first_boot, ""
        if command == FINISH:
            self.packages = dict.fromkeys(self.packages, "installed")
            return 0, ""
        if command == UPDATE:
            return self.update()
        return self.install(command[len(INSTALL) :])

    def update(self):
        if not self.update_says:
            self.known = set(self.sources)
            (self.lists / "debian_InRelease").touch()
            os.utime(self.lists)
        return 0, self.update_says

    def install(self, names):
        if half := [name for name, state in self.packages.items() if state != "installed"]:
            return 100, f"E: dpkg was interrupted, you must manually run 'dpkg' ({half})\n"
        for name in names:
            if name not in self.known:
                return 100, f"E: Unable to locate package {name}\n"
        for name in names:
            self.masked_in_time &= os.path.lexists(self.root / MASK)
            self.packages[name] = "unpacked"
        if self.fatal == len(self.commands) + 0.5:
            raise Killed
        self.packages |= dict.fromkeys(names, "installed")
        return 0, ""


@pytest.fixture
def host(tmp_path, monkeypatch):
    return FakeHost(tmp_path, monkeypatch)


def test_what_is_missing_is_installed_at_once_and_then_left_alone(host):
    """One transaction for all; a second run asks dpkg and nobody else."""
    assert host.ensure() == ["install python3-venv", "install nginx"]
    assert host.commands == [FINISH, UPDATE, [*INSTALL, "python3-venv", "nginx"]]
    host.commands = []
    assert host.ensure() == []
    assert host.commands == []


def test_a_package_that_is_there_is_not_asked_for(host):
    """apt would note it as wanted by hand, and keep it for ever."""
    host.packages["nginx"] = "installed"
    assert host.ensure() == ["install python3-venv"]
    assert host.commands[-1] == [*INSTALL, "python3-venv"]


def test_check_mode_tells_and_runs_nothing(host):
    assert Packages({"names": ["nginx", "nginx"], "masks": []}, host.run, host.root).plan() == [
        "install nginx"
    ]
    assert host.commands == []


def test_a_mask_is_there_before_its_package(host):
    """A moment later nginx has its default site on and listens on port 80."""
    host.ensure(masks=[MASK])
    assert host.masked_in_time
    assert os.readlink(host.root / MASK) == "/dev/null"


def test_what_lies_where_a_mask_belongs_is_left(host):
    """A link of the administrator's, even one that leads nowhere yet."""
    (host.root / MASK).parent.mkdir(parents=True)
    (host.root / MASK).symlink_to("../sites-available/own")
    host.ensure(masks=[MASK])
    assert os.readlink(host.root / MASK) == "../sites-available/own"


def test_nothing_is_masked_where_nothing_is_missing(host):
    host.packages |= {"nginx": "installed", "python3-venv": "installed"}
    host.ensure(masks=[MASK])
    assert not os.path.lexists(host.root / MASK)


@pytest.mark.parametrize("fatal", [1, 2, 3, 3.5])
def test_a_run_that_was_killed_is_finished_by_the_next(host, fatal):
    """A power cut; apt itself refuses to go on where dpkg was cut off."""
    host.fatal = fatal
    with pytest.raises(Killed):
        host.ensure(masks=[MASK])
    host.fatal = None
    assert host.ensure(masks=[MASK]) != []
    assert host.packages["nginx"] == host.packages["python3-venv"] == "installed"
    assert host.masked_in_time
    assert host.ensure(masks=[MASK]) == []


def test_an_interrupted_package_of_others_is_finished(host):
    """Half of nginx is no nginx, whichever of its packages it is."""
    host.packages |= {"nginx": "installed", "nginx-core": "half-configured"}
    assert host.ensure("nginx") == ["finish nginx-core"]
    assert host.commands == [FINISH]


def test_lists_of_this_hour_are_not_fetched(host):
    host.update()
    host.ensure()
    assert UPDATE not in host.commands


def test_lists_older_than_an_hour_are_fetched(host):
    """The packages that they name are soon no longer on the mirror."""
    host.update()
    os.utime(host.lists, (0, time.time() - 3700))
    host.ensure()
    assert host.commands[1] == UPDATE


def test_lists_older_than_the_sources_are_fetched(host):
    """cloud-init, or an operator, may name others a moment after an update."""
    host.update()
    os.utime(host.lists, (0, time.time() - 60))
    sources = host.root / "etc/apt/sources.list.d"
    sources.mkdir(parents=True)
    (sources / "debian.sources").touch()
    host.ensure()
    assert UPDATE in host.commands


@pytest.mark.parametrize("code", [0, 1, 2, 124])
def test_a_first_boot_is_waited_for_however_it_ends(host, code):
    """It writes apt's sources while we would fetch their lists."""
    for path in ("run/cloud-init", "usr/bin/cloud-init"):
        (host.root / path).mkdir(parents=True)
    host.first_boot, host.sources = code, set()
    host.written_at_first_boot = {"nginx", "python3-venv"}
    host.ensure()
    assert host.commands[0] == FIRST_BOOT and host.packages["nginx"] == "installed"
    host.commands.clear()
    host.ensure()
    assert host.commands == []


def test_lists_are_fetched_if_they_do_not_name_a_package(host):
    """As after a source was added."""
    host.sources.add("grafana")
    host.update()
    host.known.remove("grafana")
    host.ensure("grafana")
    assert host.packages["grafana"] == "installed"


def test_a_failure_that_lists_do_not_cure_is_not_tried_again(host, monkeypatch):
    """The second time apt would speak of broken dependencies, not of the full disk."""
    host.update()
    said = (
        "dpkg: error processing archive nginx.deb (--unpack):\n"
        " cannot copy extracted data for './usr/sbin/nginx': No space left on device\n"
        "E: Sub-process /usr/bin/dpkg returned an error code (1)\n"
    )
    monkeypatch.setattr(host, "install", lambda names: (100, said))
    with pytest.raises(Refused, match="(?s)found a full disk; free some.*'./usr/sbin/nginx'"):
        host.ensure()
    assert UPDATE not in host.commands


@pytest.mark.parametrize("said", [LISTS_LOCK, DPKG_LOCK, NEW_DPKG_LOCK])
def test_a_lock_is_waited_for(host, said):
    """On a new machine the first upgrade holds them, for minutes."""
    host.locked = {said: 300}
    host.ensure()
    assert host.packages["nginx"] == "installed"


@pytest.mark.parametrize(
    ("said", "lock"),
    [
        (LISTS_LOCK, "/var/lib/apt/lists/lock"),
        (DPKG_LOCK, "of dpkg"),
        (NEW_DPKG_LOCK, "of dpkg"),
        (
            LISTS_LOCK.replace(". It is held by process 812 (apt-get)", ""),
            "/var/lib/apt/lists/lock",
        ),
    ],
)
def test_a_lock_that_is_never_given_up_is_refused_with_its_holder(host, said, lock):
    (host.root / "proc/812").mkdir(parents=True)
    (host.root / "proc/812/comm").write_text("unattended-upgr\n")
    host.locked = {said: 10**6}
    with pytest.raises(Refused) as refused:
        host.ensure()
    text = str(refused.value)
    assert f"found the lock {lock}" in text and "for 600 s; wait until" in text
    assert ("process 812 (unattended-upgr)" if "812" in said else "another process") in text


def test_a_source_that_fails_stands_in_nobodys_way(host):
    """Some other repository's key has run out; Debian's packages come all the same."""
    host.known = set(host.sources)
    host.update_says = "E: The repository 'https://example.com x' is not signed.\n"
    host.ensure()
    assert host.packages["nginx"] == "installed"


@pytest.mark.parametrize(
    ("update", "phrases"),
    [
        pytest.param("", ["no source that has them", "Unable to locate package nginx"], id="none"),
        pytest.param(
            "W: Failed to fetch http://me:canary@deb.debian.org/debian/InRelease  "
            "Temporary failure resolving 'deb.debian.org'\n",
            ["a source of packages cannot be reached", "resolving 'deb.debian.org'", "proxy"],
            id="no network",
        ),
        pytest.param(
            "E: The repository 'http://x' is not signed.\n",
            ["refuses the host, or that the host does not trust"],
            id="not signed",
        ),
        pytest.param(
            "E: Write error - write (28: No space left on device)\n", ["full disk"], id="full"
        ),
    ],
)
def test_a_failure_is_explained(host, update, phrases):
    """The operator reads what was wanted, what was found, and what to do."""
    host.sources, host.update_says = set(), update
    with pytest.raises(Refused, match="Wanted the Debian package nginx; found ") as refused:
        host.ensure("nginx")
    text = str(refused.value)
    assert [phrase for phrase in phrases if phrase not in text] == [], text
    assert "canary" not in text


def test_a_failure_without_a_name_is_shown_as_it_is(host, monkeypatch):
    monkeypatch.setattr(host, "install", lambda names: (1, "Segmentation fault\n"))
    with pytest.raises(Refused, match="(?s)found an error; fix what it says.*Segmentation fault"):
        host.ensure()


def test_what_dpkg_cannot_finish_is_left_to_apt(host, monkeypatch):
    """After a full disk one half of the packages lacks the other, which apt alone can get."""
    host.update()
    host.packages |= {"nginx": "unpacked", "python3-venv": "installed"}
    run, finish = host.run, (1, "dpkg: dependency problems prevent configuration of nginx:\n")
    monkeypatch.setattr(host, "run", lambda words: finish if words == FINISH else run(words))
    still = (100, "dpkg: error processing archive x.deb: No space left on device\n")
    monkeypatch.setattr(host, "install", lambda names: still)
    with pytest.raises(Refused, match="a full disk"):
        host.ensure()

    def fix(names):
        """As apt does, which takes no names where dependencies are broken."""
        if not names:
            host.packages["nginx"] = "installed"
        return 0 if not names else 100, "E: Unmet dependencies. Try with no packages\n"

    monkeypatch.setattr(host, "install", lambda names: fix([n for n in names if n[0] != "-"]))
    assert host.ensure() == ["install nginx"]
    assert host.packages["nginx"] == "installed"


def test_a_package_that_cannot_be_set_up_is_refused(host, monkeypatch):
    said = (100, "dpkg: error processing package nginx (--configure):\n")
    monkeypatch.setattr(host, "install", lambda names: said)
    with pytest.raises(Refused, match="a package that cannot be set up; run `dpkg --configure"):
        host.ensure()
