"""Certificates of a site of nginx: given, signed here, got by ACME, and killed on the way."""

import contextlib
import os
import re
import shutil
import socket
import ssl
import subprocess
import time

import pytest
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils import (
    nginx_certificates,
)
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.certificates import (
    Certificate,
    der,
)
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.nginx_server import MARKER
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.refusals import Refused
from kills import Killed
from nginx_host import (
    ACME,
    SELF_SIGNED,
    FakeHost,
    cut_off,
    given_pair,
    make_pair,
    refusal,
    stored,
)


@pytest.fixture
def host(tmp_path, monkeypatch):
    return FakeHost(tmp_path, monkeypatch)


def test_another_ca_is_made_with_a_warning_alone_and_not_while_the_former_fits(host):
    """Its folder may have been lost in a restore; clients trust what it has signed."""
    given = {"tls": "self_signed", "subjects": ["a.example"]}
    host.ensure(**given)
    shutil.rmtree(host.file("tls/mlflow-ca"))
    assert host.ensure(**given) == []
    site = host.site(**given | {"subjects": ["b.example"]})
    assert any("clients that trust the former certificate" in step for step in site.plan())


def serves(host, text):
    return host.served[5000] == der(text)


def test_a_given_certificate_is_served_and_replaced(host):
    """By another text of the site, and the former key does not stay behind."""
    host.ensure()
    first, second = given_pair(), given_pair("b.example")
    assert host.ensure(**first) == ["certificate", "site", "reload", "helpers"]
    assert serves(host, first["certificate"]) and host.ensure(**first) == []
    assert host.ensure(**second)[:-1] == ["certificate", "site", "reload", "sweep"]
    assert serves(host, second["certificate"]) and len(stored(host)) == 1


def test_a_key_is_readable_by_its_owner_alone(host):
    host.ensure(**given_pair())
    (folder,) = host.file("tls").iterdir()
    assert host.file("tls").stat().st_mode & 0o777 == folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "privkey.pem").stat().st_mode & 0o777 == 0o600


def test_a_renewed_key_under_the_same_certificate_is_written(host):
    """As after a restored backup: what is on disk is not what was given."""
    host.ensure(**given_pair())
    (folder,) = host.file("tls").iterdir()
    with open(folder / "privkey.pem", "w") as stream:
        stream.write("gone")
    assert host.ensure(**given_pair()) == ["certificate", "reload"]
    assert (folder / "privkey.pem").read_text() == given_pair()["key"]


def test_a_certificate_from_windows_is_left_alone_as_others_are(host):
    """Its lines end with CRLF, on the disk, too. Else each run would write it and reload."""
    given = {key: text.replace("\n", "\r\n") for key, text in given_pair().items()}
    host.ensure(**given)
    assert host.ensure(**given) == []


def test_a_certificate_that_cannot_be_served_is_refused(host):
    """Before anything is changed: nginx would refuse to start with it, or clients to talk to it."""
    host.ensure(**given_pair("b.example"))
    remedy = "correct nginx_tls_certificate or nginx_tls_key"
    assert remedy in refusal(host, **given_pair(key_of="b.example"))
    assert remedy in refusal(host, **given_pair() | {"certificate": "-----BEGIN"})
    assert "no nginx_tls_key; set it" in refusal(host, **given_pair() | {"key": ""})
    without = refusal(host, **given_pair() | {"certificate": ""})
    assert "no nginx_tls_certificate; set it" in without and given_pair()["key"] not in without


def test_a_certificate_for_other_names_than_clients_come_by_is_told(host):
    """A warning, not a refusal: a load balancer in front may use a name of its own."""
    wildcard = given_pair("*.example.com")
    assert host.site(**wildcard, subjects=["MLflow.example.com."]).warnings == []
    (warning,) = host.site(**wildcard, subjects=["example.com", "a.b.example.com"]).warnings
    assert "is for *.example.com, and not for example.com, a.b.example.com:" in warning


def test_an_expired_certificate_is_refused_and_one_that_ends_soon_is_told(host, monkeypatch):
    """On the day itself it is too late to order another."""
    assert "ends on" in host.site(**given_pair(days="20")).warnings[0]
    assert host.site(**given_pair()).warnings == []
    later = time.time() + 100 * 86400
    monkeypatch.setattr(time, "time", lambda: later)
    assert "has expired on" in refusal(host, **given_pair())


def test_a_rejected_site_leaves_no_key_behind(host):
    """What serves is unchanged, certificate included."""
    host.ensure(**given_pair())
    before = stored(host)
    with pytest.raises(Refused, match="correct that"):
        host.ensure(**given_pair("b.example"), more="broken")
    assert stored(host) == before and serves(host, given_pair()["certificate"])
    assert host.ensure(**given_pair()) == []


def leaf(host):
    """Return the folder of the one certificate that is there beside its CA."""
    (folder,) = host.file("tls").glob("mlflow-self_signed-*")
    return folder


def is_trusted(host, ca, *names):
    """Tell whether a client that trusts what is in a file alone takes what the host serves, as
    strictly as Python 3.13 looks at it."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(leaf(host) / "fullchain.pem", leaf(host) / "privkey.pem")
    assert serves(host, (leaf(host) / "fullchain.pem").read_text())
    client = ssl.create_default_context(cafile=ca)
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    for name in names:
        buffers = [ssl.MemoryBIO(), ssl.MemoryBIO()]
        asks = client.wrap_bio(*buffers, server_hostname=name)
        answers = server.wrap_bio(*reversed(buffers), server_side=True)
        try:
            for side in (asks, answers, asks, answers):
                with contextlib.suppress(ssl.SSLWantReadError):
                    side.do_handshake()
        except ssl.SSLCertVerificationError:
            return False
    return True


def shown(file):
    """Return what openssl says of a certificate."""
    command = ["openssl", "x509", "-noout", "-text", "-in", file]
    return subprocess.run(command, capture_output=True, text=True).stdout


OTHER = SELF_SIGNED | {"subjects": ["b.example", "c.example"]}


def test_a_self_signed_certificate_is_made_once(host):
    """And left alone, as its CA is."""
    host.ensure()
    assert host.ensure(**SELF_SIGNED) == ["certificate", "site", "reload", "helpers"]
    before = stored(host)
    assert host.ensure(**SELF_SIGNED) == [] and stored(host) == before
    assert before == ["mlflow-ca", leaf(host).name]
    made = Certificate((leaf(host) / "fullchain.pem").read_text())
    assert made.subjects == {"b.example", "192.0.2.1", "2001:db8::1"} and made.days > 3640
    folder = host.file("tls/mlflow-ca")
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert modes == {"ca.pem": 0o644, "privkey.pem": 0o600} and folder.stat().st_mode & 0o77 == 0


def test_a_name_more_cuts_off_no_client_that_trusts_the_ca(host, tmp_path):
    """By name and by address: a CA that is given to clients once, and of which the host keeps the
    same key, signs what comes later."""
    ca, kept = host.file("tls/mlflow-ca/ca.pem"), tmp_path / "kept.pem"
    host.ensure(**SELF_SIGNED)
    shutil.copy(ca, kept)
    assert is_trusted(host, kept, "b.example", "192.0.2.1", "2001:db8::1")
    assert not is_trusted(host, kept, "c.example")
    former = leaf(host)
    assert host.ensure(**OTHER) == ["certificate", "site", "reload", "sweep"]
    assert not former.exists() and ca.read_text() == kept.read_text()
    assert is_trusted(host, kept, "b.example", "c.example")
    assert not is_trusted(host, kept, "192.0.2.1")
    site = host.site(**OTHER)
    assert site.plan() == [] and site.warnings == [] and site.certificates.trust() == str(ca)


def test_a_ca_is_one_of_its_site_and_host_and_signs_no_other(host, monkeypatch):
    """Clients may trust those of several hosts; and some take no CA's certificate for a
    server's."""
    monkeypatch.setattr(socket, "gethostname", lambda: "ip-10-0-0-7" + "x" * 60)
    host.ensure(**SELF_SIGNED)
    said, of_a_server = (
        shown(host.file("tls/mlflow-ca/ca.pem")),
        shown(leaf(host) / "fullchain.pem"),
    )
    assert re.search(r"Subject: CN = mlflow on ip-10-0-0-7x+\n", said)
    assert re.search(r"Basic Constraints: critical\n\s+CA:TRUE, pathlen:0\n", said)
    assert re.search(r"Key Usage: critical\n\s+Certificate Sign, CRL Sign\n", said)
    assert "CA:FALSE" in of_a_server and "Issuer: CN = mlflow on ip-10-0-0-7x" in of_a_server


def test_a_certificate_that_ends_soon_is_made_anew_by_the_same_ca(host, monkeypatch):
    host.ensure(**SELF_SIGNED)
    ca = host.file("tls/mlflow-ca/ca.pem")
    monkeypatch.setattr(nginx_certificates, "SELF_SIGNED_DAYS", 40)
    host.ensure(**OTHER)
    before = stored(host), ca.read_text()
    later = time.time() + 11 * 86400
    monkeypatch.setattr(time, "time", lambda: later)
    assert host.site(**OTHER).plan() == ["certificate", "site", "reload", "sweep"]
    assert before == (stored(host), ca.read_text()), "a plan makes nothing"
    host.ensure(**OTHER)
    assert stored(host) != before[0] and ca.read_text() == before[1]
    assert is_trusted(host, ca, "c.example")


def test_no_certificate_outlives_its_ca(host, monkeypatch):
    """The watch looks at the former alone. Another CA is for the operator to decide, as it cuts
    off all clients."""
    host.ensure(**SELF_SIGNED)
    monkeypatch.setattr(nginx_certificates, "SELF_SIGNED_DAYS", 9999)
    host.ensure(**OTHER)
    ca, one = (
        Certificate(file.read_text())
        for file in (host.file("tls/mlflow-ca/ca.pem"), leaf(host) / "fullchain.pem")
    )
    assert one.ends <= ca.ends and one.days > 3640
    later = time.time() + 3625 * 86400
    monkeypatch.setattr(time, "time", lambda: later)
    said = refusal(host, **OTHER)
    assert f"found that it ends on {ca.date}; restore the folder from a backup, or remove" in said


@pytest.mark.parametrize("file", ["ca.pem", "privkey.pem"])
def test_a_ca_that_is_not_whole_is_never_replaced_unasked(host, file):
    """It may be in a backup; another would cut off all clients."""
    host.ensure(**SELF_SIGNED)
    folder = host.file("tls/mlflow-ca")
    os.remove(folder / file)
    assert "is not whole; restore the folder from a backup, or remove it" in refusal(host, **OTHER)
    shutil.rmtree(folder)
    host.ensure(**OTHER)
    assert is_trusted(host, folder / "ca.pem", "c.example") and host.ensure(**OTHER) == []


def test_a_ca_stays_for_who_comes_back_to_it(host):
    """Its clients need nothing new then."""
    host.ensure(**SELF_SIGNED)
    before = host.file("tls/mlflow-ca/ca.pem").read_text()
    host.ensure(**given_pair())
    assert len(stored(host)) == 2
    host.ensure(**SELF_SIGNED)
    assert host.file("tls/mlflow-ca/ca.pem").read_text() == before


def serve_as_before(host):
    """Serve with a certificate that has signed itself, as a release without a CA has made it."""
    folder = host.file("tls/mlflow-self_signed-0123456789abcdef")
    os.makedirs(folder)
    os.chmod(folder.parent, 0o700)
    subjects = "DNS:b.example,IP:192.0.2.1,IP:2001:db8::1"
    extensions = ("basicConstraints=critical,CA:FALSE", "keyUsage=critical,digitalSignature")
    more = [word for each in extensions for word in ("-addext", each)]
    make_pair(folder, "b.example", "-days", "3650", *more, subjects=subjects)
    # Found by the module only where a site names it already.
    with open(host.file("sites-available/mlflow"), "w") as stream:
        text = host.site(**SELF_SIGNED).params["content"].replace("@tls@", str(folder))
        stream.write(MARKER + text)
    os.symlink("../sites-available/mlflow", host.file("sites-enabled/mlflow"))
    host.ensure(**SELF_SIGNED)
    assert stored(host) == [folder.name]
    return folder


@pytest.fixture
def of_a_former_release(host):
    return serve_as_before(host)


def test_a_certificate_of_a_former_release_stays_as_long_as_it_fits(
    host, of_a_former_release, tmp_path
):
    """Its clients trust it, and no CA. Another needs one, and says so beforehand."""
    former, ca = of_a_former_release, host.file("tls/mlflow-ca/ca.pem")
    site = host.site(**SELF_SIGNED)
    assert site.plan() == [] and site.warnings == [] and stored(host) == [former.name]
    assert site.certificates.trust() == str(former / "fullchain.pem")
    assert is_trusted(host, site.certificates.trust(), "b.example", "192.0.2.1")
    site = host.site(**OTHER)
    *steps, cut_off = site.plan()
    assert steps == ["certificate", "site", "reload", "sweep"]
    assert cut_off == (
        "clients that trust the former certificate alone are cut off, as another is served; give "
        f"them {ca}, which stays the same"
    )
    assert site.warnings == [f"{cut_off}."]
    assert site.certificates.trust() == str(ca) and stored(host) == [former.name]
    host.ensure(**OTHER)
    assert stored(host) == ["mlflow-ca", leaf(host).name] and not former.exists()
    assert is_trusted(host, ca, "c.example")


def test_a_certificate_of_a_former_release_moves_to_a_ca_when_it_ends(
    host, of_a_former_release, monkeypatch
):
    later = time.time() + 3625 * 86400
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: later)
        site = host.site(**SELF_SIGNED)
        assert site.plan()[:-1] == ["certificate", "site", "reload", "sweep"] and site.warnings


def test_a_move_to_a_ca_that_is_taken_back_leaves_the_former_certificate(host, of_a_former_release):
    """And what was made of the CA by then is what later runs use."""
    with pytest.raises(Refused, match="correct that"):
        host.ensure(**OTHER, more="broken")
    assert stored(host) == ["mlflow-ca", of_a_former_release.name]
    before = host.file("tls/mlflow-ca/ca.pem").read_text()
    site = host.site(**SELF_SIGNED)
    assert site.plan() == [] and site.certificates.trust().startswith(str(of_a_former_release))
    host.ensure(**OTHER)
    assert host.file("tls/mlflow-ca/ca.pem").read_text() == before


def test_what_is_served_until_an_acme_server_answers_needs_no_ca(host):
    """Nobody is given it, and its key would stay. Nor is it kept for those who are given one."""
    host.acme_answer, made = "no", set()
    for _ in range(2):
        with pytest.raises(Refused):
            host.ensure(**ACME)
        made.add(leaf(host).name)
    assert len(made) == 1 and stored(host) == ["mlflow-acme", *made]
    wanted = SELF_SIGNED | {"subjects": ACME["subjects"]}
    host.ensure(**wanted)
    assert is_trusted(host, host.file("tls/mlflow-ca/ca.pem"), "b.example")
    assert stored(host) == ["mlflow-ca", leaf(host).name] and host.ensure(**wanted) == []


@pytest.mark.parametrize("subjects", [[], ["a b"], ["a\nb"], ["x.example, DNS:y"]])
def test_what_is_no_name_is_no_subject(host, subjects):
    assert "set nginx_tls_subject_alt_names" in refusal(host, tls="self_signed", subjects=subjects)


FORMER = "clients that trust the former certificate alone are cut off"


def test_another_kind_of_certificate_says_beforehand_who_does_not_know_it(host):
    """Clients that were given one to trust take no other."""
    assert cut_off(host, **SELF_SIGNED) == []
    host.ensure(**SELF_SIGNED)
    assert cut_off(host, **OTHER) == []
    assert cut_off(host, **given_pair()) == [f"{FORMER}, as the site moves to nginx_tls: given"]
    assert cut_off(host) == [
        "clients that come by https are cut off, as the site moves to nginx_tls: none"
    ]
    host.ensure(**given_pair())
    assert cut_off(host, **given_pair()) == []
    assert cut_off(host, **ACME) == [f"{FORMER}, as the site moves to nginx_tls: acme"]
    assert cut_off(host, **SELF_SIGNED) == [
        f"{FORMER}, as the site moves to nginx_tls: self_signed; give them "
        f"{host.file('tls/mlflow-ca/ca.pem')}, which stays the same"
    ]


def test_a_given_certificate_that_has_signed_itself_is_known_to_who_was_given_it(host):
    """Of one that a CA has signed another is no stranger."""
    host.ensure(**given_pair())
    assert cut_off(host, **given_pair("b.example")) == [f"{FORMER}, as another is served"]
    host.ensure(**SELF_SIGNED)
    signed = {
        "tls": "given",
        "certificate": (leaf(host) / "fullchain.pem").read_text(),
        "key": (leaf(host) / "privkey.pem").read_text(),
    }
    host.ensure(**signed)
    assert cut_off(host, **given_pair("b.example")) == []
    host.ensure(**ACME)
    assert cut_off(host, **ACME) == []


def test_certbots_certificate_takes_the_place_of_a_self_signed_one(host):
    """The server asks a site that serves; so one that serves has to be there first."""
    plan = ["certificate", "site", "groups", "reload", "helpers", "acme"]
    assert host.ensure(**ACME) == plan
    assert serves(host, (host.live / "fullchain.pem").read_text())
    assert stored(host) == ["mlflow-acme"]
    assert "certbot.timer" in host.timers and host.ensure(**ACME) == []


def test_a_renewal_changes_nothing_that_the_next_run_would_undo(host):
    host.ensure(**ACME)
    make_pair(host.live, "b.example")
    host.hook()
    assert host.site(**ACME).plan() == []


def test_a_renewed_certificate_that_nginx_has_not_loaded_is_loaded(host):
    """As when certbot was killed before it said so."""
    host.ensure(**ACME)
    make_pair(host.live, "b.example")
    assert host.ensure(**ACME) == ["reload"]


def test_a_given_certificate_is_served_until_the_acme_server_answers(host):
    """Clients that trust it would otherwise lose it to a slip in the DNS."""
    given = given_pair("b.example")
    host.ensure(**given)
    host.acme_answer = "192.0.2.1: Connection refused"
    for _ in range(2):
        with pytest.raises(Refused, match="Wanted a certificate for b.example"):
            host.ensure(**ACME)
        assert serves(host, given["certificate"])
    host.acme_answer = ""
    host.ensure(**ACME)
    assert not serves(host, given["certificate"])


@pytest.mark.parametrize("change", [{"subjects": ["c.example"]}, {"acme_url": "https://other"}])
def test_another_name_or_server_is_another_certificate(host, change):
    host.ensure(**ACME)
    assert host.ensure(**ACME | change) == ["acme"]
    assert host.ensure(**ACME | change) == []


def test_a_server_that_gives_none_is_reported_and_the_site_serves(host):
    host.acme_answer = "192.0.2.1: Connection refused"
    with pytest.raises(Refused, match="Connection refused; see that port 80 of these names"):
        host.ensure(**ACME)
    assert host.served[5000]
    host.acme_answer = ""
    assert host.ensure(**ACME) == ["acme"]


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        ("Please choose an account", "cli.ini, and see"),
        ("Error creating new order :: too many certificates already issued", "wait as long as"),
        ("2001:db8::1: Invalid response: 404", "AAAA"),
    ],
)
def test_what_an_acme_server_says_leads_to_what_to_do(host, said, remedy):
    """Port 80 is open in each of these cases."""
    host.acme_answer = said
    with pytest.raises(Refused, match=remedy):
        host.ensure(**ACME)


def test_certbot_does_not_go_on_with_what_is_no_longer_served(host):
    """Its renewals would fail every day from then on."""
    host.ensure(**ACME)
    assert "end acme" in host.ensure(**given_pair())
    assert not host.live.exists() and len(stored(host)) == 1 and host.ensure(**given_pair()) == []


def test_a_certificate_of_certbots_that_is_not_ours_is_refused(host):
    os.makedirs(host.root / "etc/letsencrypt/renewal")
    with open(host.root / "etc/letsencrypt/renewal/mlflow.conf", "w") as stream:
        stream.write("server = x\n")
    assert "to be this role's, or absent" in refusal(host, **ACME)


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        ({"redirect_port": 0}, "set nginx_redirect_port"),
        ({"acme_agree": False}, "set nginx_acme_agree: true"),
        ({"subjects": ["192.0.2.1"]}, "set nginx_tls_subject_alt_names"),
        ({"subjects": ["*.example.com"]}, "set nginx_tls_subject_alt_names"),
    ],
)
def test_what_certbot_could_not_get_is_refused(host, change, remedy):
    assert remedy in refusal(host, **ACME | change)


def test_a_missing_certbot_is_told_beforehand(host):
    """The playbook installs it; a run without it changes nothing."""
    del host.packages["certbot"]
    site = host.site(**ACME)
    site.plan()
    assert site.nginx.missing == ["certbot"]
    assert "run `apt-get install certbot`" in refusal(host, **ACME)


@pytest.mark.parametrize("former", [None, serve_as_before])
def test_a_ca_killed_anywhere_is_finished_and_never_made_twice(tmp_path, monkeypatch, former):
    """Between its key, itself and what it signs: clients may be given it as soon as it is there."""
    for step in range(100):
        root = tmp_path / str(step)
        root.mkdir()
        with monkeypatch.context() as patch:
            host = FakeHost(root, patch)
            if former:
                former(host)
            ca = host.file("tls/mlflow-ca/ca.pem")
            host.left = step
            try:
                host.ensure(**OTHER)
            except Killed:
                host.left = None
            else:
                assert step > 5
                return
            before = ca.read_text() if ca.exists() else None
            host.ensure(**OTHER)
            assert before in (None, ca.read_text())
            assert stored(host) == ["mlflow-ca", leaf(host).name]
            assert is_trusted(host, ca, "c.example") and host.ensure(**OTHER) == []
            assert sorted(path.name for path in ca.parent.iterdir()) == ["ca.pem", "privkey.pem"]


@pytest.mark.parametrize("mode", ["given", "self_signed", "acme", "none"])
def test_a_change_of_certificate_killed_anywhere_is_finished(tmp_path, monkeypatch, mode):
    """From a given one to each of the others, and no key is left on the way."""
    wanted = {
        "given": given_pair("b.example"),
        "self_signed": SELF_SIGNED,
        "acme": ACME,
        "none": {},
    }
    for step in range(100):
        root = tmp_path / str(step)
        root.mkdir()
        with monkeypatch.context() as patch:
            host = FakeHost(root, patch)
            host.ensure(**given_pair())
            host.left = step
            try:
                host.ensure(**wanted[mode])
            except Killed:
                host.left = None
            else:
                assert step > 5
                return
            host.ensure(**wanted[mode])
            assert host.loaded == host.sites() and host.ensure(**wanted[mode]) == []
            count = {"none": 0, "self_signed": 2}.get(mode, 1)
            assert len(stored(host)) == count, stored(host)
            assert not [*root.glob("etc/**/*.new"), *root.glob("etc/**/*.mlflow-ansible")]


@pytest.mark.parametrize(
    ("extension", "chain", "warned"),
    [
        ("authorityKeyIdentifier=keyid", True, []),
        ("authorityKeyIdentifier=keyid", False, ["has no chain after it"]),
        ("authorityKeyIdentifier=none", True, ["has no Authority Key Identifier"]),
    ],
)
def test_what_python_refuses_of_a_given_certificate_is_reported(
    host, tmp_path, extension, chain, warned
):
    """Whoever looks with a browser or curl finds nothing wrong with it."""
    ca, leaf = tmp_path / "ca", tmp_path / "leaf"
    for folder in (ca, leaf):
        folder.mkdir()
    make_pair(ca, "ca")
    signed = ["-CA", ca / "fullchain.pem", "-CAkey", ca / "privkey.pem", "-addext", extension]
    make_pair(leaf, "a.example", *signed)
    certificate = (leaf / "fullchain.pem").read_text()
    certificate += (ca / "fullchain.pem").read_text() * chain
    given = {"tls": "given", "certificate": certificate, "subjects": ["a.example"]}
    site = host.site(**given, key=(leaf / "privkey.pem").read_text())
    assert len(site.warnings) == len(warned), site.warnings
    assert all(words in said for words, said in zip(warned, site.warnings, strict=True))
