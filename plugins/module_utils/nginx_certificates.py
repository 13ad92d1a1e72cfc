"""The certificate of an nginx site: given, signed by a CA made here, or obtained by ACME."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import socket
import ssl
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.certificates import (
    END,
    Certificate,
    check_pair,
    der,
    is_address,
    same_name,
    served_certificate,
)
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.files import (
    read,
    remove,
    sync,
    write,
)
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.nginx_server import Nginx
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.refusals import Refused

HOST_NAME = r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?"
# Days before expiry from which the operator is warned, and a certificate made here is renewed.
WARN_DAYS, RENEW_DAYS = 21, 30
# For a CA and what it signs. The latter is not shorter, as only a run of site.yml makes another;
# the limit of 825 days is only that of Apple's systems.
SELF_SIGNED_DAYS = 3650
REQUEST = """[req]
distinguished_name = subject
x509_extensions = extensions
prompt = no
string_mask = utf8only
[subject]
CN = {name}
[extensions]
subjectKeyIdentifier = hash
"""
# Signs this site's certificates, but no other CA.
OF_A_CA = """basicConstraints = critical, CA:TRUE, pathlen:0
keyUsage = critical, keyCertSign, cRLSign
"""
# Some clients reject a CA certificate as a server's.
OF_A_SERVER = """basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
authorityKeyIdentifier = keyid
subjectAltName = {subjects}
"""
# That extension's identifier in a certificate: 2.5.29.35, RFC 5280.
AUTHORITY_KEY_IDENTIFIER = bytes.fromhex("0603551d23")
# Messages of certbot and its server, and what to do about them.
ACME_REMEDIES = {
    "choose an account": "name one, as `account = …`, in /etc/letsencrypt/cli.ini",
    "rateLimited|too many": (
        "wait as long as it says, and try with the directory of the server's staging first"
    ),
    r"Detail: [0-9a-f]*:[0-9a-f:]+: ": (
        "take the AAAA records of these names away, or set nginx_listen_address to ::, as the "
        "server comes by IPv6"
    ),
}
ACME_REMEDY = "see that port 80 of these names reaches this host"


def read_pair(folder: Path, name: str = "fullchain.pem") -> Certificate | None:
    """Return the certificate in a folder, None if it or its key is unusable."""
    with contextlib.suppress(OSError, ValueError):
        texts = [(folder / file).read_text() for file in (name, "privkey.pem")]
        check_pair(*texts)
        return Certificate(texts[0])
    return None


def issuer(folder: Path) -> str:
    """Return the CA certificate that follows the one in a folder, empty if there is none."""
    return (read(folder / "fullchain.pem") or "").partition(END)[2].strip()


def digest(text: str) -> str:
    """Return a digest of a certificate in PEM, for the name of its folder."""
    return hashlib.sha256(der(text)).hexdigest()[:16]


class Certificates:
    """The certificate that a site is to serve, and its former ones.

    Each is in a folder named by its contents.

    Args:
        params: The parameters of the module nginx_site.
        nginx: The nginx that serves them.

    Attributes:
        pair: Once `choose` has been called, the folder of the one to serve, None if it is yet to
            be made, or none is to be served.
    """

    def __init__(self, params: dict, nginx: Nginx):
        self.params, self.nginx = params, nginx
        self.name, self.tls = params["name"], params["tls"]
        self.subjects = {same_name(each) for each in params["subjects"]}
        self.all = nginx.etc / "tls"
        # Signs what is served if `tls` is self_signed. Clients trust it, so it is made once and
        # kept when `tls` changes.
        self.authority = self.all / f"{self.name}-ca"
        # What the site names with ACME. Points to certbot's certificate, or to a self-signed one
        # until that exists; certbot needs a site that serves.
        self.acme = self.all / f"{self.name}-acme"
        self.live = nginx.root / "etc/letsencrypt/live" / self.name
        self.renewal = nginx.root / f"etc/letsencrypt/renewal/{self.name}.conf"
        self.webroot = nginx.root / "var/lib/nginx-acme"
        self.hook = nginx.root / f"usr/local/lib/nginx-acme-{self.name}"
        self.former, self.pair = "", None

    # Checks of the options.

    def check(self) -> list[str]:
        """Refuse what cannot be served, and return warnings for the operator."""
        warnings = []
        if self.tls == "given":
            warnings = self.check_given()
        elif self.tls != "none":
            self.check_subjects()
        if self.tls == "acme" and not self.params["redirect_port"]:
            raise Refused(
                "Wanted a port on which the ACME server finds its answer; found none; set "
                "nginx_redirect_port to the one that port 80 of these names leads to."
            )
        if self.tls == "acme" and not self.params["acme_agree"]:
            raise Refused(
                f"Wanted you to agree to the terms of {self.params['acme_url']}; found that you do "
                "not; read them, then set nginx_acme_agree: true."
            )
        return warnings

    def check_given(self) -> list[str]:
        """Do the same as `check` for a given certificate."""
        certificate, key, warnings = self.params["certificate"], self.params["key"], []
        pair = {"nginx_tls_certificate": certificate, "nginx_tls_key": key}
        if empty := [name for name, text in pair.items() if not text.strip()]:
            raise Refused(
                "Wanted a certificate in PEM and its key, as nginx_tls is given; found no "
                f"{' and no '.join(empty)}; set it."
            )
        try:
            check_pair(certificate, key)
            given = Certificate(certificate)
        except (ssl.SSLError, ValueError) as error:
            raise Refused(
                "Wanted a certificate in PEM, its chain after it, and its key, without a passphrase"
                f"; found: {error}; correct nginx_tls_certificate or nginx_tls_key."
            ) from None
        if given.days <= 0:
            raise Refused(
                "Wanted a certificate that is valid; found that nginx_tls_certificate has expired "
                f"on {given.date}; give a new one, and its nginx_tls_key."
            )
        if given.days < WARN_DAYS:
            warnings.append(
                f"nginx_tls_certificate ends on {given.date}, in {given.days:.0f} days: give a new "
                "one soon."
            )
        # A load balancer may use another name for the host than clients do.
        foreign = [name for name in self.params["subjects"] if not given.is_for(name)]
        if foreign:
            warnings.append(
                f"nginx_tls_certificate is for {', '.join(sorted(given.subjects)) or 'no name'}, "
                f"and not for {', '.join(foreign)}: clients using that name will reject it."
            )
        # Browsers and curl tolerate both of these.
        if not given.has_signed_itself and certificate.count("-----BEGIN CERT") == 1:
            warnings.append(
                "nginx_tls_certificate has no chain after it: unless a root signed it, Python's "
                "clients refuse it. Append the intermediate certificates of its authority."
            )
        if not given.has_signed_itself and AUTHORITY_KEY_IDENTIFIER not in der(certificate):
            warnings.append(
                "nginx_tls_certificate has no Authority Key Identifier: clients on Python 3.13 and "
                "newer refuse it. Have its authority issue one that has."
            )
        return warnings

    def check_subjects(self) -> None:
        """Refuse invalid names or addresses, and those that ACME servers issue nothing for."""
        subjects = self.params["subjects"]
        name = rf"(\*\.)?{HOST_NAME}"
        bad = [each for each in subjects if not (is_address(each) or re.fullmatch(name, each))]
        if self.tls == "acme":
            bad += [each for each in subjects if is_address(each) or "*" in each]
        if bad or not subjects:
            kind = "names" if self.tls == "acme" else "names and addresses"
            raise Refused(
                f"Wanted {kind} of this host for its certificate; found {', '.join(bad) or 'none'};"
                " set nginx_tls_subject_alt_names."
            )

    # State.

    def choose(self, former: str) -> None:
        """Find the certificate to serve.

        Args:
            former: Text of the site on the host.
        """
        self.former, self.pair = former, None
        if self.tls == "given":
            self.pair = self.all / f"{self.name}-given-{digest(self.params['certificate'])}"
        elif self.tls == "acme" and read_pair(self.live):
            self.pair = self.live
        elif self.tls == "acme" and (given := self.given_before()):
            self.pair = given
        elif self.tls != "none":
            self.pair = self.fitting()
        if self.tls == "self_signed":
            self.check_authority()

    def folder(self) -> Path | None:
        """Return the folder that the site names, None if it is yet to be made, or not needed."""
        return self.acme if self.tls == "acme" else self.pair

    def is_there(self) -> bool:
        """Return whether the files that the site names exist."""
        if self.tls == "given":
            texts = {"fullchain.pem": "certificate", "privkey.pem": "key"}
            return all(read(self.pair / f) == self.params[text] for f, text in texts.items())
        if self.tls == "acme":
            return bool(self.pair) and self.acme.resolve() == self.pair.resolve()
        return self.tls == "none" or bool(self.pair)

    def is_served(self, address: IPv4Address | IPv6Address, port: int, names: list[str]) -> bool:
        """Return whether nginx has loaded the certificate.

        Args:
            address, port: Where nginx listens.
            names: The site's. Where sites share a port, nginx chooses the certificate by name.
        """
        if self.tls == "none":
            return True
        text = read(self.folder() / "fullchain.pem")
        name = "".join(names[:1]).replace("*", "name")
        name = name if re.fullmatch(HOST_NAME, name) and not is_address(name) else ""
        return text is not None and served_certificate(address, port, name) == der(text)

    def cut_off(self) -> list[str]:
        """Return a sentence about clients that will not trust the certificate to be served."""
        folder = self.before()
        if not folder:
            return []
        kind = re.match(rf"{re.escape(self.name)}-(given|self_signed|acme)\b", folder.name)
        pair, moves = read_pair(folder), kind and kind[1] != self.tls
        if self.tls == "none":
            return ["clients that come by https are cut off, as the site moves to nginx_tls: none"]
        # Another of the same kind may be signed by the same CA as the former one.
        renews = folder not in (self.pair, self.acme) and pair and self.is_of_another(folder, pair)
        if not moves and not renews:
            return []
        remedy = f"; give them {self.trust()}, which stays the same" if self.trust() else ""
        why = f"as the site moves to nginx_tls: {self.tls}" if moves else "as another is served"
        return [f"clients that trust the former certificate alone are cut off, {why}{remedy}"]

    def is_of_another(self, folder: Path, pair: Certificate) -> bool:
        """Return whether a certificate was signed by another CA than the next one will be."""
        ours = folder.name.startswith(f"{self.name}-self_signed-")
        return pair.has_signed_itself or ours and issuer(folder) != self.authority_text()

    def authority_text(self) -> str:
        """Return the CA's certificate, empty if there is none."""
        return (read(self.authority / "ca.pem") or "").strip()

    def before(self) -> Path | None:
        """Return the folder of the certificate that the site on the host names."""
        found = re.search(r"\bssl_certificate (\S+)/fullchain\.pem;", self.former)
        return Path(found[1]) if found else None

    def given_before(self) -> Path | None:
        """Return the given certificate that is served until the ACME server has answered."""
        folder = Path(os.path.realpath(self.before() or ""))
        is_given = folder.name.startswith(f"{self.name}-given-")
        pair = read_pair(folder) if is_given else None
        return folder if pair and pair.days > 0 else None

    def fitting(self) -> Path | None:
        """Return a usable certificate made here; of several, the one that is served."""
        authority, found = self.authority_text(), []
        for folder in sorted(self.all.glob(f"{self.name}-self_signed-*")):
            pair, signer = read_pair(folder), issuer(folder)
            # One made by an earlier release has no CA: clients trust it while it is served, as they
            # do one whose CA's folder is gone.
            known = signer == authority if signer and authority else str(folder) in self.former
            fits = pair and pair.days > RENEW_DAYS and pair.subjects == self.subjects
            # No client trusts what is served until the ACME server has answered.
            if fits and (known or self.tls == "acme"):
                found.append(folder)
        served = [folder for folder in found if str(folder) in self.former]
        return (served + found + [None])[0]

    def check_authority(self) -> None:
        """Refuse a CA that cannot sign."""
        if self.pair or not os.path.lexists(self.authority):
            return
        found = read_pair(self.authority, "ca.pem")
        if not found or found.days <= RENEW_DAYS:
            fault = f"ends on {found.date}" if found else "is not whole"
            raise Refused(
                f"Wanted the CA in {self.authority} to sign another certificate; found that it "
                f"{fault}; restore the folder from a backup, or remove it: the next run makes "
                "another CA, and clients need its ca.pem."
            )

    def trust(self) -> str:
        """Return the path of the file that clients trust if `tls` is self_signed."""
        if self.tls != "self_signed":
            return ""
        has_none = self.pair and not issuer(self.pair)
        return str(self.pair / "fullchain.pem" if has_none else self.authority / "ca.pem")

    def acme_is_due(self) -> bool:
        """Return whether certbot has to be asked for another certificate than it has."""
        if self.tls != "acme":
            return False
        live, text = read_pair(self.live), read(self.renewal) or ""
        settings = dict(re.findall(r"(?m)^(\w+) = (.*?),?$", text))
        asked = (settings.get("server"), settings.get("renew_hook"))
        as_wanted = asked == (self.params["acme_url"], str(self.hook))
        return not (as_wanted and live and live.days > 0 and live.subjects == self.subjects)

    def acme_is_over(self) -> bool:
        """Return whether certbot would go on renewing what is no longer served."""
        return self.tls != "acme" and str(self.hook) in (read(self.renewal) or "")

    # Changes.

    def write(self) -> None:
        """Write the certificate to serve where the site names it."""
        self.all.mkdir(mode=0o700, exist_ok=True)
        if self.tls == "acme":
            self.webroot.mkdir(mode=0o755, parents=True, exist_ok=True)
            self.webroot.chmod(0o755)
        new = self.all / f"{self.name}-acme.new"
        if self.tls == "given":
            remove(new)
            new.mkdir(mode=0o700)
            write(new / "fullchain.pem", self.params["certificate"], 0o644)
            write(new / "privkey.pem", self.params["key"], 0o600)
            remove(self.pair)
            new.replace(self.pair)
        elif self.pair is None:
            self.pair = self.make(new)
        if self.tls == "acme" and self.acme.resolve() != self.pair.resolve():
            remove(new)
            new.symlink_to(self.pair)
            new.replace(self.acme)
        sync(self.all)

    def make(self, new: Path) -> Path:
        """Make a certificate, and a CA if there is none, and return its folder.

        Args:
            new: Where it is assembled, so that the folder is complete or absent.
        """
        authority, days, signer = "", SELF_SIGNED_DAYS, []
        if self.tls == "self_signed":
            if not self.authority.exists():
                name = f"{self.name} on {socket.gethostname()}"
                self.make_pair(new, "ca.pem", name, OF_A_CA, days)
                new.replace(self.authority)
            file, key = self.authority / "ca.pem", self.authority / "privkey.pem"
            authority = file.read_text()
            # Not beyond that of its CA.
            days = min(days, int(Certificate(authority).days))
            signer = ["-CA", str(file), "-CAkey", str(key)]
        kinds = [("IP" if is_address(each) else "DNS", each) for each in sorted(self.subjects)]
        subjects = ", ".join(f"{kind}:{each}" for kind, each in kinds)
        name, extensions = same_name(self.params["subjects"][0]), OF_A_SERVER
        extensions = extensions.format(subjects=subjects)
        text = self.make_pair(new, "fullchain.pem", name, extensions, days, *signer)
        write(new / "fullchain.pem", text + authority, 0o644)
        return new.replace(self.all / f"{self.name}-self_signed-{digest(text)}")

    def make_pair(
        self, new: Path, file: str, name: str, extensions: str, days: int, *signer: str
    ) -> str:
        """Make a certificate and its key in a folder, and return the certificate's text.

        Args:
            new: The folder.
            file: The certificate's file name.
            signer: openssl's options for the CA that signs it; without any it is self-signed.
        """
        remove(new)
        new.mkdir(mode=0o700)
        config, certificate, key = (new / each for each in ("config", file, "privkey.pem"))
        # A common name has 64 characters at most.
        write(config, REQUEST.format(name=name[:64]) + extensions, 0o600)
        command = ["openssl", "req", "-x509", "-config", str(config), "-newkey", "ec", "-nodes"]
        command += ["-pkeyopt", "ec_paramgen_curve:P-256", "-days", str(days), *signer]
        self.nginx.must(*command, "-keyout", str(key), "-out", str(certificate))
        config.unlink()
        text = certificate.read_text()
        write(key, key.read_text(), 0o600)
        write(certificate, text, 0o644)
        return text

    def ask_certbot(self) -> None:
        """Get the certificate. The hook, as at renewals, switches the link and reloads nginx."""
        email = self.params["acme_email"]
        command = ["certbot", "certonly", "--non-interactive", "--agree-tos", "--webroot"]
        command += [f"--email={email}"] if email else ["--register-unsafely-without-email"]
        command += [f"--webroot-path={self.webroot}", f"--cert-name={self.name}"]
        command += [f"--server={self.params['acme_url']}", f"--deploy-hook={self.hook}"]
        command += ["--force-renewal", "--renew-with-new-domains"]
        command += [f"--domain={name}" for name in self.params["subjects"]]
        code, said, error = self.nginx.run(command)
        if code:
            words = " ".join(
                re.findall(r"(?m)^\s*(?:Detail|Type|Domain|Hint): .*|.*rror.*", said + error)
            )
            remedies = [what for key, what in ACME_REMEDIES.items() if re.search(key, said + error)]
            raise Refused(
                f"Wanted a certificate for {', '.join(self.params['subjects'])} from "
                f"{self.params['acme_url']}; found: {words or error.strip()}; "
                f"{[*remedies, ACME_REMEDY][0]}, and see /var/log/letsencrypt/letsencrypt.log; the "
                "site serves with a self-signed certificate until then."
            )
        self.pair = self.live

    def end_acme(self) -> None:
        """Make certbot delete the certificate, which it would go on renewing."""
        self.nginx.must("certbot", "delete", "--non-interactive", f"--cert-name={self.name}")
