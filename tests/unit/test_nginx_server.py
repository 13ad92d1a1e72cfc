"""nginx as a host has it: its package, service, processes and ports, and the names of all sites."""

import os
import re

import pytest
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.refusals import Refused
from nginx_host import FakeHost, refusal, take_away


@pytest.fixture
def host(tmp_path, monkeypatch):
    return FakeHost(tmp_path, monkeypatch)


@pytest.mark.parametrize("state", ["unpacked", "half-configured", "config-files", "not-installed"])
def test_a_package_that_is_not_configured_is_not_installed(host, state):
    """apt has to finish what a power cut left half done."""
    host.packages = {"nginx": state}
    site = host.site()
    site.plan()
    assert not site.nginx.installed


def test_workers_outside_the_group_are_replaced(host):
    """They could not reach the socket: membership counts from a worker's start on."""
    host.ensure()
    host.processes[max(host.processes)]["status"] = "Gid:\t33\nGroups:\t33\n"
    host.show_processes()
    assert host.ensure() == ["reload"]


@pytest.mark.parametrize("unit", ["old.service", "user.slice"])
@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
def test_a_taken_port_is_refused_by_its_holders_name(host, unit, address):
    """The operator has to know what to stop; nothing is stopped for them."""
    pid = host.start("python3", "python3 -m http.server", unit, [(address, 5000)])
    holder = f"process {pid} (python3, {unit if unit.endswith('service') else 'no unit'})"
    assert f"{holder} listening there; stop that, or choose another port" in refusal(host)
    assert pid in host.processes


def test_a_port_taken_by_an_nginx_that_is_not_the_services_is_refused(host):
    """It may be the one of a container, or started by hand."""
    host.start("nginx", "nginx: master process", "docker-1.scope", [("127.0.0.1", 5000)])
    assert "(nginx, no unit)" in refusal(host)


def test_an_address_of_another_host_is_refused(host):
    """nginx would not start, at the latest after the next reboot."""
    assert "set nginx_listen_address to an address of the host" in refusal(host, address="10.9.9.9")


EC2 = "ec2-203-0-113-254.ap-southeast-2.compute.amazonaws.com"
SIZE = "server_names_hash_bucket_size"


def sizes(host):
    """Return what the role says of names."""
    file = host.file("conf.d/server_names.conf")
    return re.findall(rf"(?m)^{SIZE} (\d+);$", file.read_text()) if file.exists() else []


@pytest.mark.parametrize(
    ("length", "size"),
    [(9, None), (46, None), (47, 128), (110, 128), (111, 256), (238, 256)],
)
def test_a_long_name_is_served(host, length, size):
    """As long as nginx takes it without a word, nothing is said; EC2's own are longer."""
    name = f"{'a' * (length - 2)}.x"
    host.ensure(names=["b.x", name])
    assert sizes(host) == [str(size)] * bool(size)
    assert host.ensure(names=["b.x", name]) == []


@pytest.mark.parametrize("file", ["nginx.conf", "conf.d/names.conf", "sites-enabled/other"])
def test_a_size_for_names_that_another_file_sets_is_the_only_one(host, file):
    """A second is an error, wherever it is; a comment, such as Debian's, is none."""
    os.makedirs(host.file("conf.d"))
    text = f"user www-data;\n# {SIZE} 64;\nhttp {{\ninclude conf.d/*.conf;\n"
    host.file("nginx.conf").write_text(f"{text}include /etc/nginx/sites-enabled/*;\n}}\n")
    host.ensure(names=[EC2])
    assert sizes(host) == ["128"]
    with open(host.file(file), "a") as stream:
        stream.write(f"{SIZE} 128;\n")
    assert host.ensure(names=[EC2]) == ["names", "reload"]
    assert sizes(host) == []
    assert host.ensure(names=[EC2]) == []


def test_names_of_two_sites_need_one_size(host):
    """Also when the site that says it goes, or needs it no longer itself."""
    other = host.file("sites-enabled/other")
    other.write_text(f"{SIZE} 128;\nserver {{ listen 127.0.0.1:80; server_name {EC2}; }}")
    host.ensure(names=[f"a{EC2}"])
    assert sizes(host) == []
    other.unlink()
    assert host.ensure(names=[f"a{EC2}"]) == ["names", "reload"]
    other.write_text(f"server {{ listen 127.0.0.1:80; server_name {EC2}; }}")
    host.ensure(names=["b.example"])
    assert sizes(host) == ["128"]
    assert host.ensure(names=["b.example"]) == []
    # The site goes, and nginx still starts.
    take_away(host)
    assert sizes(host) == ["128"] and host.test()[0] == 0


def test_a_missing_group_is_refused(host):
    """Before the site is written, which could not work without."""
    host.has_group = False
    with pytest.raises(Refused, match="group 'mlflow' does not exist"):
        host.ensure()
    assert not host.file("sites-enabled/mlflow").exists()


def test_a_service_that_does_not_start_is_reported_with_its_journal(host):
    """What systemctl says is rarely the cause."""
    host.processes.clear()
    host.master, host.masked = 0, True
    with pytest.raises(Refused, match="(?s)is masked.*the last words of nginx"):
        host.ensure()


@pytest.mark.parametrize("case", ["started", "first site", "changed site"])
def test_an_nginx_that_does_not_load_the_site_is_reported(host, monkeypatch, case):
    """`systemctl reload` succeeds once the signal is sent; nginx may go on with what it had."""
    if case == "changed site":
        host.ensure()
    if case == "started":
        host.processes.clear()
        host.master = 0
    monkeypatch.setattr(host, "load", lambda: None)
    with pytest.raises(Refused, match="(?s)to serve 127.0.0.1:5000; found: not so after 15 second"):
        host.ensure(more="new")


def test_the_workers_of_another_nginx_do_not_count(host):
    """The one of a container shows in /proc, and is in no group of ours."""
    host.start("nginx", "nginx: worker process", "docker-1.scope")
    host.ensure()
    assert host.ensure() == []
