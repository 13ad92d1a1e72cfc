"""What our units may do on the host, on Debian 12 and 13, and what they leave behind."""

from api import colour

group = "mlflow"

WAIT = """
import http.client, socket, sys, time
until = time.monotonic() + 120
while True:
    try:
        connection = http.client.HTTPConnection("localhost", timeout=5)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(sys.argv[1])
        connection.request("GET", "/health")
        assert connection.getresponse().status == 200
        break
    except OSError:
        if time.monotonic() > until:
            raise
        time.sleep(0.2)
"""
OURS = "systemctl list-unit-files --no-legend 'mlflow*.service' 'nginx-*.service' | cut -d' ' -f1"


def test_every_unit_of_ours_is_sandboxed(host):
    """1.2 for what talks to clients, 2.0 for what looks after it, by systemd's own measure."""
    units = host.check_output(OURS).split()
    assert {"mlflow-blue.service", "nginx-certificate-mlflow.service"} <= set(units)
    for unit in units:
        bound = 12 if unit.startswith("mlflow-") else 20
        done = host.run(f"systemd-analyze security --threshold={bound} {unit}")
        assert done.rc == 0, (unit, done.stdout[-300:])


def test_nothing_is_left_behind_after_a_stop(host):
    """Orphans would go on writing, and a stale socket would keep the next start from working."""
    serving = colour(host)
    host.check_output(f"systemctl stop mlflow-{serving}")
    try:
        assert host.run("pgrep --uid mlflow").stdout == ""
        assert not host.file(f"/run/mlflow/{serving}").exists
        spooled = host.run(f"find /var/lib/mlflow/tmp/{serving} -type f")
        assert spooled.stdout == ""
    finally:
        host.check_output(f"systemctl start mlflow-{serving}")
        host.check_output("python3 -c %s %s", WAIT, f"/run/mlflow/{serving}/server.sock")
