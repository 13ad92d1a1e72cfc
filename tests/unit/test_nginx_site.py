"""nginx's site, on a host of the imagination: every refusal, and a kill before each step."""

import os

import pytest
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.nginx_server import MARKER
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.refusals import Refused
from kills import Killed
from nginx_host import (
    HELPERS,
    MARK,
    FakeHost,
    cut_off,
    files_of,
    given_pair,
    refusal,
    stored,
    take_away,
)


@pytest.fixture
def host(tmp_path, monkeypatch):
    return FakeHost(tmp_path, monkeypatch)


def test_a_site_is_written_loaded_and_then_left_alone(host):
    """A second run that changed something would cut connections for nothing."""
    assert host.ensure() == ["site", "groups", "reload"]
    assert host.file("sites-enabled/mlflow").read_text().startswith(MARKER)
    assert host.loaded == host.sites()
    assert host.ensure() == []


def test_check_mode_tells_and_changes_nothing(host):
    """The same plan is the preflight."""
    host.actions = []
    assert host.site().plan() == ["site", "groups", "reload"]
    assert not [
        action for action in host.actions if action.split()[0] in ("/usr/sbin/usermod", "replace")
    ]


def test_check_mode_works_where_nginx_is_not_installed(host):
    """A preflight comes before the installation; nginx.conf and the group are not there yet."""
    host.packages = {"nginx": "not-installed"}
    host.processes.clear()
    host.master, host.has_group = 0, False
    host.file("nginx.conf").unlink()
    site = host.site()
    assert site.plan() == ["install", "site", "start"] and not site.nginx.installed


def test_a_stopped_and_disabled_nginx_is_started_for_good(host):
    """The site has to come back after a reboot."""
    host.processes.clear()
    host.master, host.enabled = 0, False
    assert host.ensure() == ["site", "groups", "enable", "start"]
    assert host.enabled and host.loaded == host.sites()
    assert host.ensure() == []


def test_the_old_port_is_given_up(host):
    """Two open ports would be one more than the operator knows of."""
    host.ensure()
    host.ensure(port=5001)
    assert host.processes[host.master]["sockets"] == [("127.0.0.1", 5001)]


@pytest.mark.parametrize("address", ["0.0.0.0", "::"])
def test_an_address_that_overlaps_with_the_old_one_is_taken(host, address):
    """nginx cannot bind 0.0.0.0 while it has 127.0.0.1, and says so only in its log."""
    host.ensure()
    host.ensure(address=address)
    assert host.processes[host.master]["sockets"] == [(address, 5000)]
    host.ensure()
    assert host.processes[host.master]["sockets"] == [("127.0.0.1", 5000)]


@pytest.mark.parametrize("former", [{}, {"address": "0.0.0.0"}, {"port": 5001}, None])
def test_a_run_killed_anywhere_is_finished_by_the_next(tmp_path, monkeypatch, former):
    """A kill before each command and each change of a file, from no site and from other ones."""
    for step in range(100):
        root = tmp_path / str(step)
        root.mkdir()
        with monkeypatch.context() as patch:
            host = FakeHost(root, patch)
            if former is not None:
                host.ensure(**former, more="former")
                host.group_members["mlflow"].clear()
            host.left = step
            try:
                host.ensure()
            except Killed:
                host.left = None
            else:
                assert step > 5
                return
            host.ensure()
            assert host.loaded == host.sites()
            assert "listen 127.0.0.1:5000;  }" in host.loaded[host.file("sites-enabled/mlflow")]
            assert host.ensure() == []


def test_a_rejected_site_left_by_a_killed_run_is_replaced(host):
    """Otherwise correcting the variable would be refused because of what it corrects."""
    host.fatal = "symlink_to"
    with pytest.raises(Killed):
        host.ensure(more="broken")
    host.file("sites-enabled/mlflow").symlink_to("../sites-available/mlflow")
    assert "broken" in host.file("sites-enabled/mlflow").read_text()
    assert "site" in host.ensure()
    assert host.loaded == host.sites()


def test_an_nginx_that_has_restarted_since_has_loaded_the_site(host):
    """The mark of a killed run must not cause a reload for nothing."""
    host.ensure()
    host.fatal = "systemctl reload"
    with pytest.raises(Killed):
        host.ensure(more="new")
    assert host.site(more="new").plan() == ["reload"]
    host.start_nginx()
    assert host.ensure(more="new") == []


@pytest.mark.parametrize("former", [None, "former"])
def test_what_nginx_rejects_is_taken_back(host, former):
    """A broken file on disk would stop nginx, and every other site, at the next restart."""
    if former:
        host.ensure(more=former)
    before = host.sites()
    with pytest.raises(Refused, match=r"found: \[emerg\] .*sites-enabled/mlflow:1; correct"):
        host.ensure(more="broken")
    assert host.sites() == before
    assert host.file("sites-available/mlflow").exists() is bool(former)
    assert not former or host.ensure(more=former) == []


def test_a_broken_site_of_somebody_else_is_refused(host):
    """A reload would fail, and nobody would know whose fault it is."""
    host.ensure()
    host.file("sites-enabled/other").write_text("broken")
    assert "sites-enabled/other:1; correct" in refusal(host)
    assert "sites-enabled/other:1; correct" in refusal(host, port=5001)


@pytest.mark.parametrize("address", ["localhost", "[::1]", "127.0.0.1:80"])
def test_what_is_no_address_is_refused(host, address):
    """A name may mean several addresses, or another one tomorrow."""
    assert "correct it" in refusal(host, address=address)


@pytest.mark.parametrize("listen", ["127.0.0.1:5000", "5000 default_server", "[::]:5000"])
def test_a_port_of_another_site_is_refused(host, listen):
    """One of the two would get the other's requests. The message names the file."""
    host.file("sites-enabled/other").write_text(f"server {{ listen {listen}; }}")
    assert "sites-enabled/other has it" in refusal(host)


@pytest.mark.parametrize("text", ["# listen 5000;", "listen 50000;", "listen 127.0.0.1:80;"])
def test_another_sites_other_port_is_no_hindrance(host, text):
    """What was on the host stays, and does not matter."""
    host.file("sites-enabled/other").write_text(text)
    assert "site" in host.ensure()


def test_sites_with_different_names_share_an_address(host):
    """That is what names are for; equal ones nginx would ignore, with no more than a warning."""
    other = host.file("sites-enabled/other")
    other.write_text("server { listen 127.0.0.1:5000; server_name a.example; }")
    host.run(["systemctl", "reload", "nginx.service"])
    with pytest.raises(Refused, match='conflicting server name "a.example".*choose other names'):
        host.ensure(names=["a.example"])
    assert host.ensure(names=["b.example"]) == ["site", "reload"]


def test_a_site_that_others_need_is_not_taken_away(host):
    """nginx would serve on with what it has loaded, and not start again after a reboot."""
    host.ensure()
    host.file("sites-enabled/other").write_text("broken")
    with pytest.raises(Refused, match="accepts without .*; found: .*unknown directive"):
        take_away(host)
    assert host.file("sites-enabled/mlflow").resolve() == host.file("sites-available/mlflow")


def test_a_site_of_somebody_else_is_not_taken_away(host):
    """It may have had the name before."""
    host.file("sites-available/mlflow").write_text("server {}\n")
    with pytest.raises(Refused, match="sites-available/mlflow to be this role's"):
        take_away(host)
    assert host.file("sites-available/mlflow").exists()


def test_a_file_of_that_name_by_another_is_refused(host):
    """It is somebody's work."""
    host.file("sites-available/mlflow").write_text("server {}\n")
    assert "sites-available/mlflow to be this role's, or absent" in refusal(host)


def test_a_link_of_that_name_to_elsewhere_is_refused(host):
    """It is on, and it is not ours."""
    host.file("sites-enabled/mlflow").symlink_to("/dev/null")
    assert "sites-enabled/mlflow to be this role's, or absent" in refusal(host)


def test_a_folder_that_others_write_to_is_refused(host):
    """Who can write there can make root's nginx read anything."""
    host.file("sites-available").chmod(0o777)
    assert "mode 0777; make it root's" in refusal(host)


def test_an_nginx_that_does_not_read_sites_enabled_is_refused(host):
    """nginx.org's package has no such folder: the site would never be read."""
    host.file("nginx.conf").write_text("http { # include /etc/nginx/sites-enabled/*;\n}")
    assert "add that line to its http block" in refusal(host)


def test_a_site_that_is_there_but_not_served_is_loaded(host):
    """As after a restored backup: the files are right, and nginx does not know."""
    host.ensure()
    host.processes[host.master]["sockets"].clear()
    host.show_processes()
    assert host.ensure() == ["reload"]
    assert host.ensure() == []


def test_a_run_on_a_host_without_nginx_is_refused(host):
    """The module does not install it."""
    host.packages = {}
    assert "run `apt-get install nginx`" in refusal(host)


@pytest.mark.parametrize(
    ("former", "wanted", "said"),
    [
        (("127.0.0.1", 5000), ("0.0.0.0", 443), "127.0.0.1:5000"),
        (("0.0.0.0", 5000), ("127.0.0.1", 5000), "0.0.0.0:5000"),
        (("::", 5000), ("0.0.0.0", 5000), "[::]:5000"),
        (("::1", 5000), ("0.0.0.0", 5000), "[::1]:5000"),
        (("127.0.0.1", 5000), ("0.0.0.0", 5000), ""),
        (("127.0.0.1", 5000), ("::", 5000), ""),
        (("::1", 5000), ("::", 5000), ""),
    ],
)
def test_a_move_says_beforehand_whom_it_cuts_off(host, former, wanted, said):
    """To another address or port; an address that takes in the former one cuts off nobody."""
    assert cut_off(host, address=former[0], port=former[1]) == []
    assert host.site().listens_before() == []
    host.ensure(address=former[0], port=former[1])
    name = f"[{wanted[0]}]" if ":" in wanted[0] else wanted[0]
    assert cut_off(host, address=wanted[0], port=wanted[1]) == [
        f"clients that come to {said} are cut off, as the site moves to {name}:{wanted[1]}"
    ] * bool(said)
    assert cut_off(host, address=former[0], port=former[1]) == []
    site = host.site(address=wanted[0], port=wanted[1])
    assert site.listens_before()[0].endswith(f":{former[1]}")


def test_a_redirect_that_is_given_up_says_so(host):
    """Some come by it; those who come by TLS do so as before."""
    host.ensure(**given_pair(), redirect_port=80)
    assert host.site().listens_before() == ["127.0.0.1:5000", "127.0.0.1:80"]
    assert cut_off(host, **given_pair()) == [
        "clients that come to 127.0.0.1:80 are cut off, as the site stays at nothing but "
        "127.0.0.1:5000"
    ]


def test_what_another_site_listens_to_is_not_this_ones(host):
    host.file("sites-enabled/other").write_text("server { listen 127.0.0.1:80; }")
    assert cut_off(host) == [] and host.site().listens_before() == []


def test_a_firewall_that_lets_nobody_in_is_warned_of(host):
    """At each run, as nobody else says why clients do not come. It may be for a load balancer."""
    os.makedirs(host.root / "usr/sbin")
    os.mknod(host.root / "usr/sbin/ufw")
    for _ in range(2):
        site = host.site("0.0.0.0", 443, redirect_port=80, **given_pair())
        site.carry_out(site.plan())
        (warning,) = site.warnings
        assert "reach ports 443 and 80; found that ufw is active" in warning
    assert site.plan() == []
    site = host.site(**given_pair())
    site.plan()
    assert not [warning for warning in site.warnings if "ufw" in warning]


TRAIL = {
    "/usr/local/lib/nginx-audit-mlflow": f"{MARK}\n",
    "/etc/systemd/system/nginx-audit-mlflow.service": f"{MARK}\n",
    "/etc/systemd/system/nginx-audit-mlflow.timer": f"{MARK}\n",
}


def test_the_audit_trail_stays_when_it_is_turned_off(host):
    """Who turns it off must not take away what he did before. Root alone reads it."""
    wanted = {"audit": True, "helpers": TRAIL, "more": "access_log @audit@/audit.log;"}
    folder = host.root / "var/log/nginx-audit-mlflow"
    assert host.ensure(**wanted) == ["audit", "site", "groups", "reload", "helpers"]
    assert folder.stat().st_mode & 0o777 == 0o700 and host.ensure(**wanted) == []
    assert f"access_log {folder}/audit.log;" in host.file("sites-enabled/mlflow").read_text()
    assert host.timers == {"nginx-audit-mlflow.timer"}
    folder.chmod(0o755)
    assert host.ensure(**wanted) == ["audit", "reload"]
    assert folder.stat().st_mode & 0o777 == 0o700
    host.ensure()
    assert host.timers == set() and folder.exists() and host.ensure() == []


def test_a_missing_logrotate_is_told_beforehand(host):
    """Without it the trail would fill the disk."""
    del host.packages["logrotate"]
    site = host.site(audit=True)
    site.plan()
    assert site.nginx.missing == ["logrotate"]


def test_a_port_of_the_redirect_that_is_taken_is_refused(host):
    """With the way out: the redirect is a kindness, not what was asked for."""
    host.start("apache2", "apache2", "apache2.service", [("0.0.0.0", 80)])
    said = refusal(host, **given_pair(), redirect_port=80)
    assert "(apache2, apache2.service)" in said and "nginx_redirect_port: 0" in said
    host.file("sites-enabled/other").write_text("server { listen 8080; }")
    said = refusal(host, **given_pair(), redirect_port=8080)
    assert "sites-enabled/other has it" in said and "nginx_redirect_port: 0" in said
    assert "0 for none" in refusal(host, **given_pair(), redirect_port=5000)


def test_both_ports_are_given_up(host):
    host.ensure(**given_pair(), redirect_port=80)
    assert host.processes[host.master]["sockets"] == [("127.0.0.1", 80), ("127.0.0.1", 5000)]
    host.ensure()
    assert host.processes[host.master]["sockets"] == [("127.0.0.1", 5000)]


def test_what_is_no_network_is_refused(host):
    """nginx takes 10.0.0.1/8 for what may not have been meant, with a warning."""
    assert "nginx_allowed_networks; found 10.0.0.1/8" in refusal(host, networks=["10.0.0.1/8"])
    host.ensure(networks=["10.0.0.0/8", "192.0.2.7", "2001:db8::/32"])


def test_a_site_is_taken_away_and_others_are_left_alone(tmp_path, monkeypatch):
    """Killed anywhere, the next run finishes: nothing listens for it, and no timer looks for it."""
    for step in range(100):
        root = tmp_path / str(step)
        root.mkdir()
        with monkeypatch.context() as patch:
            host = FakeHost(root, patch)
            other = host.file("sites-available/other")
            other.write_text("server { listen 127.0.0.1:8080; }\n")
            host.file("sites-enabled/other").symlink_to("../sites-available/other")
            before = files_of(host)
            host.ensure(tls="self_signed", subjects=["a.example"], helpers=HELPERS)
            assert len(files_of(host)) > len(before) + 5
            host.left = step
            try:
                take_away(host)
            except Killed:
                host.left = None
            else:
                host.left = None
                assert step > 5
                assert take_away(host) == []
                return
            take_away(host)
            assert files_of(host) == before
            assert host.timers == set()
            assert host.loaded == host.sites()
            assert host.listens() == [("127.0.0.1", 8080)]


def test_a_site_that_a_killed_run_was_writing_is_taken_away(host):
    """With the key that nothing but its text names."""
    before = files_of(host)
    host.fatal = "replace .mlflow."
    with pytest.raises(Killed):
        host.ensure(tls="self_signed", subjects=["a.example"], helpers=HELPERS)
    assert host.file("sites-available/.mlflow.mlflow-ansible").exists() and stored(host)
    take_away(host)
    assert files_of(host) == before
