# Written by Ansible (role nginx): edits are lost.
"""Fail if a site's certificate ends soon, or is not the one that nginx serves.

nginx_certificate.py SITE      SITE is the path of the site, as in /etc/nginx/sites-enabled.
"""

import re
import socket
import ssl
import sys
import time
from pathlib import Path

DAY = 86400
WARN_DAYS = 21


def served(address: str, port: int, name: str | None) -> bytes:
    """Return the certificate with which nginx answers there.

    Raises:
        OSError: It does not.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # Whether others trust it is not the question.
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection((address, port), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname=name) as tls,
    ):
        return tls.getpeercert(binary_form=True)


def problem(site: str) -> str:
    """Return what is wrong with the certificate of a site, or nothing."""
    text = Path(site).read_text()
    file = re.search(r"ssl_certificate (\S+);", text)[1]
    address, port = re.search(r"listen (\S+):(\d+) ssl", text).groups()
    address = {"0.0.0.0": "127.0.0.1", "[::]": "::1"}.get(address, address).strip("[]")
    # Where sites share a port, nginx takes that of the name.
    name = re.search(r"server_name ([\w.-]*\w)[ ;]", text)
    name = name[1] if name and name[1] != "_" else None
    fields = ssl._ssl._test_decode_cert(file)
    start, end = (ssl.cert_time_to_seconds(fields[key]) for key in ("notBefore", "notAfter"))
    left, date = end - time.time(), time.strftime("%Y-%m-%d", time.gmtime(end))
    by_certbot = Path(file).resolve().is_relative_to("/etc/letsencrypt")
    # certbot renews one of short life later.
    limit = min(WARN_DAYS * DAY, (end - start) / 4) if by_certbot else WARN_DAYS * DAY
    if left < limit:
        remedy = "give a new one in nginx_tls_certificate and nginx_tls_key, and run site.yml"
        if by_certbot:
            remedy = "see why `certbot renew` has not renewed it, in /var/log/letsencrypt"
        elif "-self_signed-" in file:
            remedy = "run site.yml, which makes a new one"
        return (
            f"Wanted a certificate that is valid for {limit / DAY:.0f} days; found that {file} "
            f"ends on {date}, in {left / DAY:.0f} days; {remedy}."
        )
    try:
        answer = served(address, port, name)
    except OSError as error:
        return (
            f"Wanted nginx to serve {file}; found no TLS at {address} port {port}: {error}; see "
            "`systemctl status nginx`."
        )
    pem = re.search(r"(?s)-----BEGIN CERT.*?-----END CERTIFICATE-----", Path(file).read_text())[0]
    if answer != ssl.PEM_cert_to_DER_cert(pem):
        return (
            f"Wanted nginx to serve {file}; found that it serves another certificate, as before "
            "that was renewed; run `systemctl reload nginx`."
        )
    return ""


if __name__ == "__main__":
    sys.exit(problem(sys.argv[1]) or None)
