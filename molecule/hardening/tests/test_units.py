"""What our units may do on the host, on Debian 12 and 13."""

from sandbox import writes

group = "mlflow"

OURS = "systemctl list-unit-files --no-legend 'mlflow*.service' 'nginx-*.service' | cut -d' ' -f1"


def test_every_unit_of_ours_is_sandboxed(host):
    """1.2 for what talks to clients, 2.0 for what looks after it, by systemd's own measure. And
    none writes to what is not its own, which that measure hardly counts."""
    units = host.check_output(OURS).split()
    assert {"mlflow-blue.service", "nginx-certificate-mlflow.service"} <= set(units)
    for unit in units:
        bound = 12 if unit.startswith("mlflow-") else 20
        done = host.run(f"systemd-analyze security --threshold={bound} {unit}")
        assert done.rc == 0, (unit, done.stdout[-300:])
    assert {unit: writes(host, unit) for unit in units} == dict.fromkeys(units, [])
