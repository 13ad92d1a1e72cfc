"""What is written down of who did what on a server with users."""

import json
import os
import time

group = "hardening-users"

TRAIL = "/var/log/nginx-audit-mlflow"
ROTATION = "nginx-audit-mlflow.service"


def lines(host, name, word):
    """Return the lines of a file of the trail that have a word, as they say it."""
    found = host.run("grep -hF -- %s %s", word, f"{TRAIL}/{name}").stdout
    return [json.loads(line) for line in found.splitlines()]


def test_who_deleted_that_run_has_an_answer(host, ada, bob):
    """The user and the run, whose id is only in the request's body; the client sees none of it. So
    has who tried to read it.
    """
    made = ada.call("experiments/create", name=f"audit-{os.urandom(4).hex()}")
    run = ada.call("runs/create", experiment_id=made["experiment_id"])["run"]["info"]["run_id"]
    with ada.request("POST", "/api/2.0/mlflow/runs/delete", {"run_id": run}) as answer:
        assert answer.status == 200
        assert [name for name in answer.headers if name.lower().startswith("x-audit")] == []
    (line,) = [each for each in lines(host, "audit.log", run) if "delete" in each["path"]]
    assert (line["user"], line["method"], line["status"]) == ("ada", "POST", 200)
    assert line["path"] == "/api/2.0/mlflow/runs/delete" and line["time"] and line["address"]
    assert bob.status("GET", f"/api/2.0/mlflow/runs/get?run_id={run}") == 403
    (line,) = [each for each in lines(host, "audit.log", run) if each["method"] == "GET"]
    assert (line["user"], line["status"], line["ids"]) == ("bob", 403, f"run_id={run}")


def test_who_is_refused_is_written_down_elsewhere(host, visitor):
    """Without the query, which may have what is nobody's business; and whatever he says he is."""
    path = f"/api/2.0/mlflow/{os.urandom(4).hex()}"
    assert visitor.status("GET", f"{path}?secret=canary", X_Audit_User="ada") == 401
    (line,) = lines(host, "refused.log", path)
    assert (line["user"], line["path"], line["status"]) == ("", path, 401)
    assert lines(host, "audit.log", path) == []


def test_root_alone_reads_the_trail(host):
    """nginx's workers least of all: what takes one over would know who does what."""
    assert host.check_output(f"stat --format='%a %U:%G' {TRAIL}") == "700 root:root"
    assert host.run(f"runuser -u www-data -- ls {TRAIL}").rc != 0
    assert host.run(f"runuser -u mlflow -- cat {TRAIL}/audit.log").rc != 0


def test_the_trail_is_rotated_and_goes_on(host, visitor):
    """By the unit that the timer starts, also after Debian's own rotation of nginx's logs."""
    assert host.check_output("systemctl is-active nginx-audit-mlflow.timer") == "active"
    host.check_output("systemctl kill --kill-whom=main --signal=USR1 nginx.service")
    host.check_output(f"truncate --size=100M {TRAIL}/refused.log")
    host.check_output(f"systemctl start {ROTATION}")
    size = int(host.check_output(f"stat --format=%s {TRAIL}/refused.log.1"))
    assert size >= 100 * 1024 * 1024
    path = f"/api/2.0/mlflow/{os.urandom(4).hex()}"
    # The new workers come a moment later, and only they write to the new file.
    until = time.monotonic() + 60
    while not lines(host, "refused.log", path):
        assert time.monotonic() < until, "nothing is written any more"
        visitor.status("GET", path)
    host.check_output(f"rm {TRAIL}/refused.log.1")
