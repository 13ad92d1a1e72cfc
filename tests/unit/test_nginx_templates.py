"""The templates of nginx, rendered by Ansible itself; an undefined variable is fatal."""

import re
from pathlib import Path

import pytest
import rendering
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.nginx_helpers import Helpers
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.nginx_server import (
    MARKER,
    Nginx,
)

ROLE = Path(__file__).resolve().parents[2] / "roles/nginx"


def evaluate(expression, **variables):
    """Return what an expression is with the role's defaults and these variables."""
    known = rendering.defaults(ROLE) | {"ansible_search_path": [str(ROLE)]} | variables
    return rendering.evaluate(expression, known)


def site(**variables):
    return evaluate("lookup('ansible.builtin.template', 'site.conf.j2')", **variables)


def listens(text):
    return re.findall(r"listen (.*);", text)


def test_plain_http_has_one_port():
    """An operator who asked for no certificate did not ask for port 80 either."""
    assert listens(site()) == ["127.0.0.1:5000"]
    assert "ssl" not in site() and "308" not in site()
    assert listens(site(nginx_redirect_port=80)) == ["127.0.0.1:5000"]


@pytest.mark.parametrize(
    ("address", "port", "found"),
    [
        ("0.0.0.0", 80, ["0.0.0.0:5000 ssl", "0.0.0.0:80"]),
        ("::", 80, ["[::]:5000 ssl ipv6only=off", "[::]:80 ipv6only=off"]),
        ("::", 0, ["[::]:5000 ssl ipv6only=off"]),
    ],
)
def test_plain_http_is_redirected_from_a_port_of_its_own(address, port, found):
    text = site(nginx_tls="given", nginx_listen_address=address, nginx_redirect_port=port)
    assert listens(text) == found
    assert evaluate("__nginx_redirect_port | int", nginx_tls="given") == 80


def names(**variables):
    """Return a site with TLS, its pattern of names that stay, and the name for all others."""
    text = site(nginx_tls="given", **variables)
    known = re.search(r'map \$host \$mlflow_name {\n +"~(.*)" \$host;\n +default "(.*)";', text)
    return text, *known.groups()


def test_plain_http_is_redirected_to_a_name_of_the_servers_own():
    """To whatever Host says it would lead to a stranger's, by a link or a cache that trusts it."""
    own = ["MLflow.example.com", "192.0.2.1", "2001:db8::1"]
    text, pattern, other = names(nginx_redirect_names=own, nginx_redirect_port=80)
    for host in ("mlflow.example.com", "192.0.2.1", "[2001:db8::1]"):
        assert re.search(pattern, host)
    for host in ("evil.example", "mlflow.example.com.evil.example", "mlflowxexample.com"):
        assert not re.search(pattern, host)
    assert other == "mlflow.example.com"
    found = re.findall(r"308 (\S+);", text)
    assert found == ["https://$mlflow_name:5000$request_uri"] * 2
    assert "https://$mlflow_name$request_uri;" in names(nginx_listen_port=443)[0]


def test_plain_http_is_redirected_to_a_name_of_the_certificate():
    """Where nothing else is said. A wildcard is none, and where no name is known all are."""
    assert names(nginx_server_names=["*.example.com", "a.example.com"])[2] == "a.example.com"
    assert "https://$host:5000" in site(nginx_tls="given", nginx_listen_address="0.0.0.0")


def header(name, said, path, **variables):
    """Return what the site adds as a header to an answer with which the upstream says this."""
    text = site(**variables)
    variable = re.search(rf"(?m)^    add_header {name} \$(\w+) always;", text)[1]
    source, rules = re.search(rf"map (\S+) \${variable} {{\n(.*?)}}", text, re.DOTALL).groups()
    assert source == f"$upstream_http_{name.lower().replace('-', '_')}$uri"
    for pattern, value in re.findall(r'"~(.*?)" "(.*?)";', rules):
        if re.search(pattern, said + path):
            return value
    return ""


def test_browsers_are_told_what_the_upstream_does_not_say():
    """Twice the same is as good as none to some. What the upstream says it has a reason for."""
    policy = {"nginx_content_security_policy": "default-src 'self'"}
    for path in ("/", "/x/y", ""):
        assert header("X-Frame-Options", "", path) == "SAMEORIGIN"
        assert header("X-Content-Type-Options", "", path) == "nosniff"
        assert header("Referrer-Policy", "", path) == "same-origin"
        assert header("Content-Security-Policy", "", path, **policy) == "default-src 'self'"
        assert header("X-Frame-Options", "DENY", path) == ""
        assert header("Content-Security-Policy", "sandbox", path, **policy) == ""
    assert "Content-Security-Policy" not in site(nginx_content_security_policy="")


def test_what_others_may_frame_is_what_the_operator_says():
    framed = {"nginx_framed_pattern": "^/shown/", "nginx_content_security_policy": "x"}
    for name in ("X-Frame-Options", "Content-Security-Policy"):
        assert header(name, "", "/shown/index.html", **framed) == ""
        assert header(name, "", "/not/shown/", **framed) != ""
    assert header("X-Content-Type-Options", "", "/shown/", **framed) == "nosniff"


def test_no_location_discards_the_headers():
    """One add_header in a location, and those of the server are not sent there."""
    text = site(nginx_tls="given", nginx_hsts_max_age=1, **UPLOADS)
    assert re.findall(r"(?m)^ {8,}add_header", text) == []


@pytest.mark.parametrize(
    ("status", "user", "ids", "file"),
    [
        ("200", "ada", "run_id=x", "audited"),
        ("200", "ada", "-", "audited"),
        ("200", "ada", "", None),
        ("403", "ada", "", "audited"),
        ("401", "", "", "refused"),
        ("404", "", "", "refused"),
        ("200", "", "", None),
    ],
)
def test_what_was_done_and_what_was_refused_is_written_down(status, user, ids, file):
    """What nobody known was refused goes elsewhere: a flood of it would push out what users did."""
    text = site(nginx_audit=True)
    rules = dict(re.findall(r'map "[^"]*" \$mlflow_(refused|audited) {\n +"~(.*)" 1;', text))
    refused = "1" if re.search(rules["refused"], f"{status}:{user}") else ""
    audited = re.search(rules["audited"], f"{refused}:{status}:{ids}")
    assert [name for name, is_so in (("refused", refused), ("audited", audited)) if is_so] == (
        [file] if file else []
    )
    assert "audit" not in site().lower().replace("x-audit-", "")


def test_all_files_of_the_audit_trail_are_within_its_bound():
    """Two logs, each with the one that is written and those that were."""
    text = evaluate(
        "lookup('ansible.builtin.template', 'audit.logrotate.j2')", nginx_audit_max_mb=1024
    )
    size, kept = (int(re.search(rf"{word} (\d+)", text)[1]) for word in ("size", "rotate"))
    assert 2 * (kept + 1) * size == 1024 * 1024


def known_helpers():
    return set(map(str, Helpers("mlflow", {}, False, Nginx(None)).paths))


def test_the_audit_trails_files_are_what_the_module_knows():
    helpers = evaluate("__nginx_helpers", nginx_audit=True)
    assert set(helpers) <= known_helpers()
    assert len(helpers) == 3 and all(MARKER in text for text in helpers.values())


@pytest.mark.parametrize("mode", ["none", "given", "self_signed", "acme"])
def test_what_looks_after_a_certificate_is_what_the_module_knows(mode):
    """A file that it does not know it would never remove; one without the mark it would refuse."""
    helpers = evaluate("__nginx_helpers", nginx_tls=mode)
    assert set(helpers) <= known_helpers()
    assert len(helpers) == {"none": 0, "acme": 4}.get(mode, 3)
    assert all(MARKER in text for text in helpers.values())
    for program in [text for text in helpers.values() if "python3\n" in text]:
        compile(program, "program", "exec")


def test_a_certificate_is_for_the_names_or_else_for_the_address():
    def subjects(**given):
        return evaluate("nginx_tls_subject_alt_names", **given)

    assert subjects(nginx_server_names=["a", "b"]) == ["a", "b"]
    assert subjects(nginx_listen_address="192.0.2.1") == ["192.0.2.1"]
    assert subjects(nginx_listen_address="::") == []


def test_some_paths_are_open_where_others_are_not():
    """A load balancer has no password. Where all is open there is nothing to except."""
    assert "location = /health" not in site()
    for closed in ({"nginx_users": [{"name": "a"}]}, {"nginx_allowed_networks": ["10.0.0.0/8"]}):
        assert "location = /health" in site(**closed)
        assert "location = /health" not in site(**closed, nginx_open_paths=[])


def test_nothing_but_health_and_readiness_is_open_where_a_login_is_asked_for():
    """Each other path tells something to who has none: /version, which holes to try."""
    for closed in ({"nginx_users": [{"name": "a"}]}, {"nginx_allowed_networks": ["10.0.0.0/8"]}):
        locations = re.findall(r"location ([^{]+) {([^}]*)", site(**closed))
        for words in ("allow all", "auth_basic off"):
            opened = [name for name, text in locations if words in text]
            assert opened == ["= /health", "= /ready"]


UPLOADS = {"nginx_upload_pattern": "^/artifacts/", "nginx_large_uploads": 4}


def matches(zone, request):
    """Tell whether a map of the site names a request, given as the map sees it."""
    pattern = re.search(rf'\${zone} {{\n\s+"~\*(.*)" ', site(**UPLOADS))[1]
    return re.search(pattern, request, re.IGNORECASE) is not None


@pytest.mark.parametrize(
    ("request_line", "counted", "refused"),
    [
        ("PUT  10000000", True, False),
        ("PUT chunked ", True, False),
        ("PUT Chunked ", True, False),
        ("PUT  9999999", False, False),
        ("POST  123456789012", False, True),
        ("DELETE chunked ", False, True),
        ("PATCH  20000000", False, True),
        ("GET  ", False, False),
        ("DELETE  512", False, False),
    ],
)
def test_only_large_uploads_are_counted_and_other_large_requests_refused(
    request_line, counted, refused
):
    """A limit on all requests would hold up the many small ones that clients send; of what is no
    upload MLflow holds the whole in memory before it asks who sends it.
    """
    assert matches("mlflow_large", request_line) == counted
    assert matches("mlflow_large_refused", request_line) == refused


def test_a_user_has_half_the_places_where_users_are_known():
    """And one at least, or nobody could upload at all."""
    for places, of_one in ((4, 2), (3, 1), (1, 1), (0, 1)):
        assert evaluate("nginx_large_uploads_per_user", nginx_large_uploads=places) == of_one
    text = site(**UPLOADS, nginx_upload_asks_login=True)
    assert "limit_conn mlflow_large 4;" in text and "limit_conn mlflow_large_user 2;" in text
    assert "login" not in site(**UPLOADS) and "mlflow_large_user" not in site(**UPLOADS)
    assert "login" not in site(nginx_upload_asks_login=True), "there is nothing to be asked for"


def test_the_question_for_a_login_says_who_asks_as_the_request_itself_does():
    """Who guesses passwords is known by his address; and a password for nginx stays with nginx."""
    text = site(**UPLOADS, nginx_upload_asks_login=True, nginx_users=[{"name": "a"}])
    everywhere = set(re.findall(r"(?m)^    (proxy_set_header .*;)", text))
    asked = set(re.findall(r"(?m)^        (proxy_set_header .*;)", text))
    assert len(everywhere) == 6 and asked - everywhere == {'proxy_set_header Content-Length "";'}
    assert everywhere < asked


def test_two_instances_count_for_themselves():
    """Names of variables and zones are global in nginx, and take no dash."""
    text = site(nginx_site_name="mlflow-team-a", **UPLOADS)
    assert "$mlflow_team_a_large zone=mlflow_team_a_large:1m" in text
    assert "limit_conn" not in site()
