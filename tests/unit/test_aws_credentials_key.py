"""Which key the role aws_credentials takes: the operator's, or one that a rotation has kept."""

import json
from configparser import RawConfigParser
from pathlib import Path

import pytest
import rendering
from ansible.template import trust_as_template

ROLE = Path(__file__).resolve().parents[2] / "roles/aws_credentials"
GIVEN = {
    "aws_credentials_mode": "static",
    "aws_credentials_access_key_id": "AKIAGIVEN",
    "aws_credentials_secret_access_key": "given/secret",
    "aws_credentials_user": "",
}
# Characters that JSON, INI and YAML each have a meaning for.
SECRET = "kept/+=\"'%{{ 1 }}"


def render(text, **variables):
    """Return a template's value with the role's variables."""
    known = rendering.defaults(ROLE) | GIVEN | variables
    return rendering.templar(known).template(trust_as_template(text))


@pytest.fixture
def file(tmp_path):
    """The variables of a key file, in which there is what a test writes."""
    return {
        "aws_credentials_key_file": str(tmp_path / "key.json"),
        "aws_credentials_key_file_passphrase": "passphrase",
    }


def keep(file, **content):
    """Write a key file as `mint` does."""
    vault = "{{ secret | ansible.builtin.vault('passphrase') }}"
    content = {"secret_access_key": render(vault, secret=SECRET), **content}
    assert content["secret_access_key"].startswith("$ANSIBLE_VAULT;")
    Path(file["aws_credentials_key_file"]).write_text(json.dumps(content))


def key(**variables):
    return render("{{ __aws_credentials_key }}", **variables)


def profile(name, **variables):
    """Return the profile in one of the texts for a server, as the AWS SDK reads it."""
    parser = RawConfigParser()
    parser.read_string(render(f"{{{{ aws_credentials_files.{name} }}}}", **variables))
    return dict(parser["default"])


def test_settings_that_are_empty_are_not_written():
    """An empty region would go before that of the environment."""
    assert profile("AWS_CONFIG_FILE", aws_credentials_region="eu-central-1") == {
        "region": "eu-central-1"
    }
    url = "https://s3.example.com:9000"
    found = profile("AWS_CONFIG_FILE", aws_credentials_endpoint_url=url)
    assert found["endpoint_url"] == url and "region" not in found


def test_the_given_key_serves_until_one_is_kept(file):
    """Also while a first one is about to be made, when the file holds no more than that."""
    given = {"aws_access_key_id": "AKIAGIVEN", "aws_secret_access_key": "given/secret"}
    assert key() == key(**file) == given
    Path(file["aws_credentials_key_file"]).write_text('{"minting_since": 1, "known": []}')
    assert key(**file) == given


def test_a_kept_key_goes_before_the_given_one(file):
    """In the texts for a server as well as in the environment of a proof."""
    keep(file, access_key_id="AKIAKEPT", replaces="AKIAGIVEN")
    assert key(**file) == {"aws_access_key_id": "AKIAKEPT", "aws_secret_access_key": SECRET}
    found = profile("AWS_SHARED_CREDENTIALS_FILE", **file)
    assert found == {"aws_access_key_id": "AKIAKEPT", "aws_secret_access_key": SECRET}
    environment = render("{{ aws_credentials_environment }}", **file)
    assert environment == {"AWS_ACCESS_KEY_ID": "AKIAKEPT", "AWS_SECRET_ACCESS_KEY": SECRET}


def test_beside_a_profile_a_server_has_a_file_and_no_key():
    """A key in it would take precedence; without the file, so would one in the service's home."""
    mode = {"aws_credentials_mode": "instance_profile"}
    assert profile("AWS_SHARED_CREDENTIALS_FILE", **mode) == {}
    assert profile("AWS_SHARED_CREDENTIALS_FILE")["aws_access_key_id"] == "AKIAGIVEN"


def test_the_secret_in_the_file_is_encrypted(file):
    """So that the file may be committed, as it has to reach everybody who runs Ansible."""
    keep(file, access_key_id="AKIAKEPT")
    assert "kept" not in Path(file["aws_credentials_key_file"]).read_text()
    with pytest.raises(Exception, match="decrypt"):
        key(**file | {"aws_credentials_key_file_passphrase": "another"})
