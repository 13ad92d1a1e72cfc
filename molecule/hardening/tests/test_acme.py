"""A server whose certificate comes from an ACME server, by certbot."""

import pytest

group = "hardening-acme"
NAME = "hardening-acme.dns.podman"
URL = f"https://{NAME}"
LIVE = "/etc/letsencrypt/live/mlflow/fullchain.pem"
WATCH = "nginx-certificate-mlflow"


@pytest.fixture
def ca(ask, tmp_path):
    """The root of the ACME server, which it makes anew whenever it starts."""
    file = tmp_path / "root.pem"
    file.write_text(ask("https://hardening-acme:15000/roots/0")["body"])
    return file


def first_on_disk(host):
    """Return the certificate that certbot has, without its chain."""
    end = "-----END CERTIFICATE-----"
    return host.check_output(f"cat {LIVE}").split(end)[0] + end


def test_the_real_client_logs_over_a_certificate_of_the_acme_server(control, run_logged, ca):
    done = control.client(run_logged, URL, MLFLOW_TRACKING_SERVER_CERT_PATH=str(ca))
    assert done.returncode == 0, done.stdout


def test_certbots_timer_and_the_watch_wait(host):
    shown = host.check_output(f"systemctl list-timers {WATCH}.timer certbot.timer --no-legend")
    assert len(shown.splitlines()) == 2
    host.check_output(f"systemctl start {WATCH}.service")


def test_a_renewed_certificate_is_served_at_once(host, ask, ca, control):
    """certbot itself only changes the file. Nobody is there at night to reload nginx."""
    before = ask(f"{URL}/health", ca=ca)["certificate"]
    host.check_output("certbot renew --force-renewal --no-random-sleep-on-renew")
    host.check_output(f"systemctl start {WATCH}.service")
    after = ask(f"{URL}/health", ca=ca)["certificate"]
    assert after != before and after.strip() == first_on_disk(host)
    control.settled()


def test_a_renewal_that_nginx_has_not_loaded_is_told(host):
    """As when somebody renews by hand, with another hook. The file alone would look well."""
    try:
        host.check_output("mv /usr/local/lib/nginx-acme-mlflow /srv/hook")
        host.check_output("ln -s /bin/true /usr/local/lib/nginx-acme-mlflow")
        host.check_output("certbot renew --force-renewal --no-random-sleep-on-renew")
        assert host.run(f"systemctl start {WATCH}.service").rc != 0
        journal = host.check_output(f"journalctl --unit={WATCH} --output=cat --lines=20")
        assert "run `systemctl reload nginx`" in journal
    finally:
        host.check_output("mv /srv/hook /usr/local/lib/nginx-acme-mlflow")
    host.check_output("systemctl reload nginx")
    watch = f"systemctl start {WATCH}.service"
    host.check_output(f"timeout 300 sh -c 'until {watch}; do sleep 0.2; done'")


def test_a_name_that_leads_elsewhere_is_reported_and_what_serves_is_unchanged(control, ask, ca):
    """pebble asks at the name, which nobody has, and says so."""
    said = control.refuse(nginx_tls_subject_alt_names=["nobody.dns.podman"])
    assert "see that port 80 of these names reaches this host" in said, said
    assert ask(f"{URL}/health", ca=ca)["status"] == 200


def test_without_it_nothing_of_it_is_left(control, host, ask, ca):
    """A renewal of what nobody serves fails every day from then on."""
    listening = "ss --no-header --listening --tcp --numeric 'sport = :80'"
    assert host.check_output(listening) != ""
    control.converge(nginx_tls="none", mlflow_server_allow_replacement=True)
    assert ask(f"http://{NAME}:443/health")["status"] == 200
    assert host.check_output("certbot certificates 2>&1").count("Certificate Name") == 0
    left = host.check_output(f"ls /etc/nginx/tls; find /etc/systemd /usr/local -name '{WATCH}*'")
    assert left == ""
    assert host.check_output(listening) == ""


def test_a_self_signed_one_is_trusted_by_name_and_by_address(control, host, ask, tmp_path):
    """By whoever is given it; Python 3.13 looks at it as strictly as can be."""
    address = host.check_output("hostname --ip-address").split()[0]
    subjects = [NAME, address]
    control.converge(nginx_tls="self_signed", nginx_tls_subject_alt_names=subjects)
    file = tmp_path / "self-signed.pem"
    file.write_text(host.check_output("cat /etc/nginx/tls/mlflow-ca/ca.pem"))
    for name in subjects:
        assert ask(f"https://{name}/health", ca=file)["status"] == 200
    host.check_output("printf -- %s > /srv/ca.pem", file.read_text())
    strictly = (
        "import ssl, sys, urllib.request as r\n"
        "context = ssl.create_default_context(cafile='/srv/ca.pem')\n"
        "assert context.verify_flags & ssl.VERIFY_X509_STRICT\n"
        "print(r.urlopen(sys.argv[1] + '/health', context=context).read().decode())\n"
    )
    assert host.check_output("python3 -c %s %s", strictly, URL) == "OK"
    control.converge(nginx_tls="self_signed", nginx_tls_subject_alt_names=[NAME])
    assert ask(f"{URL}/health", ca=file)["status"] == 200
    assert ask(f"https://{address}/health", ca=file)["error"]
