"""The templates of nginx, rendered by Ansible itself; an undefined variable is fatal."""

import re
from pathlib import Path

import nginx_site
import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

ROLE = Path(__file__).resolve().parents[2] / "roles/nginx"


def evaluate(expression, **variables):
    """Return what an expression is with the role's defaults and these variables."""
    loader, known = DataLoader(), {}
    for file in ("defaults/main.yml", "vars/main.yml"):
        known |= loader.load_from_file(str(ROLE / file), trusted_as_template=True)
    known |= {"ansible_search_path": [str(ROLE)]} | variables
    templar = Templar(loader=loader, variables=known)
    return templar.template(trust_as_template(f"{{{{ {expression} }}}}"))


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


@pytest.mark.parametrize("mode", ["none", "given", "self_signed", "acme"])
def test_what_looks_after_a_certificate_is_what_the_module_knows(mode):
    """A file that it does not know it would never remove; one without the mark it would refuse."""
    helpers = evaluate("__nginx_helpers", nginx_tls=mode)
    params = {"name": "mlflow", "tls": "none", "server_names": [], "user_groups": []}
    params |= {"networks": [], "users": [], "listen_address": "127.0.0.1", "listen_port": 1}
    known = nginx_site.Site(params | {"redirect_port": 0, "helpers": {}}, None).helper_files()
    assert set(helpers) <= set(map(str, known))
    assert len(helpers) == {"none": 0, "acme": 4}.get(mode, 3)
    assert all(nginx_site.MARKER in text for text in helpers.values())
    for program in [text for text in helpers.values() if "python3\n" in text]:
        compile(program, "program", "exec")


def test_a_certificate_is_for_the_names_or_else_for_the_address():
    def subjects(**given):
        return evaluate("nginx_tls_subjects", **given)

    assert subjects(nginx_server_names=["a", "b"]) == ["a", "b"]
    assert subjects(nginx_listen_address="192.0.2.1") == ["192.0.2.1"]
    assert subjects(nginx_listen_address="::") == []


def test_some_paths_are_open_where_others_are_not():
    """A load balancer has no password. Where all is open there is nothing to except."""
    assert "location = /health" not in site()
    for closed in ({"nginx_users": [{"name": "a"}]}, {"nginx_allowed_networks": ["10.0.0.0/8"]}):
        assert "location = /health" in site(**closed)
        assert "location = /health" not in site(**closed, nginx_open_paths=[])
        # nginx refuses a path that is there twice.
        assert site(**closed, nginx_closed_paths=["/health"]).count("location = /health") == 1


def large(request):
    """Tell whether the site counts a request, given as the map sees it, as a large upload."""
    pattern = re.search(r'"~\*(.*)" 1;', site(nginx_large_uploads=4))[1]
    return re.search(pattern, request, re.IGNORECASE) is not None


@pytest.mark.parametrize(
    ("request_line", "counts"),
    [
        ("PUT  10000000", True),
        ("POST  123456789012", True),
        ("PUT chunked ", True),
        ("PUT Chunked ", True),
        ("PUT  9999999", False),
        ("POST  512", False),
        ("GET  ", False),
    ],
)
def test_only_what_is_large_or_may_be_is_counted(request_line, counts):
    """A limit on all requests would hold up the many small ones that clients send."""
    assert large(request_line) == counts


def test_two_instances_count_for_themselves():
    """Names of variables and zones are global in nginx, and take no dash."""
    text = site(nginx_site_name="mlflow-team-a", nginx_large_uploads=4)
    assert "$mlflow_team_a_large zone=mlflow_team_a_large:1m" in text
    assert "limit_conn" not in site()
