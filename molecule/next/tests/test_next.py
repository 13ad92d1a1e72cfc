"""What comes next: Debian's testing suite as a stand-in for the Ubuntu that EC2's users have."""

import pytest
import testinfra
from control import ROOT, Control, reached

CLIENT = "next-client"
LOGIN = "ada", "canary-ada-password"


@pytest.fixture
def client(control):
    """The control side of the data scientist's machine."""
    return Control(control.inventory, CLIENT)


@pytest.mark.parametrize("name", ["next-server", CLIENT])
def test_it_is_what_it_stands_for(name):
    """Else all the rest would show nothing new. The image's ufw is there and lets all in."""
    host = testinfra.get_host(f"podman://{name}")
    assert "sudo-rs" in host.check_output("sudo --version")
    assert "uutils" in host.check_output("ls --version")
    read = "import platform as p; print(p.freedesktop_os_release()['ID'], p.python_version())"
    system, python = host.check_output("python3 -c %s", read).split()
    assert system == "ubuntu" and int(python.split(".")[1]) >= 14, python
    assert "inactive" in host.check_output("ufw status")
    assert host.package("needrestart").is_installed


def test_a_data_scientist_does_a_days_work(client):
    """Over TLS and with a login, into PostgreSQL, from a machine that site.yml has set up."""
    client.podman("cp", str(ROOT / "demo/client.py"), f"{CLIENT}:/tmp/client.py")
    login = "MLFLOW_TRACKING_USERNAME=%s MLFLOW_TRACKING_PASSWORD=%s"
    day = f"runuser -u ada -- env -i HOME=/home/ada {login} ~ada/mlflow/bin/python /tmp/client.py"
    said = testinfra.get_host(f"podman://{CLIENT}").check_output(day, *LOGIN)
    assert said.count("ok  ") == 8, said


def test_two_rolls_cost_no_write(control, certificate):
    """A setting there and back, while others write without a retry."""
    options = [f"--login={':'.join(LOGIN)}", f"--ca={certificate('next-server')}"]
    options += ["--seconds=3600", "--write=metric", "--pause=0.05"]
    with control.load(*options, url="https://next-server") as counts:
        for level in ("DEBUG", "INFO"):
            said = control.converge(mlflow_server_environment={"MLFLOW_LOGGING_LEVEL": level})
            assert "mlflow_server : Service | Roll" in said and "changed=2" in said, said
    assert counts["failed"] == 0, counts["errors"]
    assert counts["written"] > 100, counts


def test_what_is_not_served_is_closed(host):
    """By the host's nftables, beside an unused ufw. The database listens for this host alone, so
    something else has to be there that could be reached."""
    address = host.check_output("hostname -I").split()[0]
    host.check_output("systemd-run --quiet --unit=open python3 -m http.server 8080")
    try:
        listens = "until ss -Hltn sport = :8080 | grep -q .; do sleep 0.1; done"
        host.check_output("timeout 30 sh -c %s", listens)
        assert reached(address, 80, 443, 8080) == [80, 443]
    finally:
        host.check_output("systemctl stop open")
