"""One profile of a user's ~/.aws: what is written, what is left alone, what is proven before."""

import os
import stat
import sys
from pathlib import Path

import aws_credentials_profile as module
import pytest
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.refusals import Refused
from aws_credentials_profile import Profile, edited
from kills import Killed

OWN = "# mine\n[other]\naws_access_key_id=OWN\naws_secret_access_key = own\n"
KEY = {"aws_access_key_id": "AKIANEW", "aws_secret_access_key": "se/cr+et="}

# As the SDKs do: it reads the files that the variables name.
PROBE = """
import configparser, os, sys
texts = []
for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
    file = configparser.RawConfigParser()
    file.read(os.environ[name])
    texts.append(dict(file.items(os.environ["AWS_PROFILE"])) if file.sections() else {})
print(*sys.argv[1:], file=sys.stderr)
print(texts, file=sys.stderr)
sys.exit(texts[0].get("aws_secret_access_key") != "se/cr+et=")
"""


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        pytest.param("", {"a": "1"}, "[x]\na = 1\n", id="a new file"),
        pytest.param("", {"a": ""}, "", id="nothing to take out"),
        pytest.param("[x]\na = 1\n", {"a": "2"}, "[x]\na = 2\n", id="another value"),
        pytest.param("[x]\nA=1", {"a": "1"}, "[x]\nA=1", id="the same, as it was written"),
        pytest.param("[x]\na = 1\nb = 2\n", {"a": ""}, "[x]\nb = 2\n", id="taken out"),
        pytest.param(
            "[y]\na = 1\n\n[x]\nb = 2\n\n[z]\na = 3\n",
            {"a": "4"},
            "[y]\na = 1\n\n[x]\nb = 2\na = 4\n\n[z]\na = 3\n",
            id="between others of the same name",
        ),
        pytest.param("[y]\na = 1\n", {"a": "2"}, "[y]\na = 1\n\n[x]\na = 2\n", id="a new section"),
        pytest.param(
            "# a = 0\n[x]\ns3 =\n  a = 1\n",
            {"a": "2"},
            "# a = 0\n[x]\ns3 =\n  a = 1\na = 2\n",
            id="neither comments nor nested options are taken for it",
        ),
        pytest.param("[x]\nab = 1\n", {"a": "2"}, "[x]\nab = 1\na = 2\n", id="nor longer names"),
    ],
)
def test_only_these_options_are_changed(text, options, expected):
    """The rest of the file is its user's, to the letter."""
    assert edited(text, "x", options) == expected
    assert edited(expected, "x", options) == expected


def test_a_profile_has_its_own_name_in_each_file(tmp_path):
    """`[ada]` in the one, `[profile ada]` in the other, but `[default]` in both."""
    for name, header in (("ada", "[profile ada]\n"), ("default", "[default]\n")):
        texts = Profile(tmp_path, name).wanted("AKIANEW", "s", {"region": "eu-central-1"}, False)
        assert texts[0].startswith(f"[{name}]\n")
        assert texts[1] == f"{header}region = eu-central-1\n"


@pytest.fixture
def home(tmp_path):
    """The home of a user with a key of his own, and of a profile with an old one."""
    (tmp_path / ".aws").mkdir()
    old = "[default]\naws_access_key_id = AKIAOLD\naws_secret_access_key = old\n"
    (tmp_path / ".aws/credentials").write_text(f"{OWN}\n{old}")
    (tmp_path / ".aws/credentials").chmod(0o600)
    return tmp_path


def in_this_process(account, wanted, work):
    """Do what `as_user` does, but for another user and process."""
    try:
        return work()
    except OSError as error:
        raise Refused(f"Wanted {wanted}; found {error}; fix that and run again.") from error


def run(monkeypatch, home, check_mode=False, **params):
    """Run the module as Ansible would and return what it says."""
    said = {}

    class Module:
        def __init__(self, argument_spec, **_):
            self.params = {k: o.get("default") for k, o in argument_spec.items()} | params
            self.check_mode = check_mode

        def exit_json(self, **result):
            said.update(result)
            raise SystemExit

        def fail_json(self, **result):
            self.exit_json(failed=True, **result)

    account = type("Account", (), {"pw_dir": str(home), "pw_name": "ada"})
    monkeypatch.setattr(module, "AnsibleModule", Module)
    monkeypatch.setattr(module.pwd, "getpwnam", lambda _: account)
    monkeypatch.setattr(module.os, "geteuid", lambda: 0)
    monkeypatch.setattr(module, "as_user", in_this_process)
    with pytest.raises(SystemExit):
        module.main()
    return said


NEW = {"access_key_id": "AKIANEW", "secret_access_key": "se/cr+et="}
PROOF = {"probe_uri": "s3://bucket", "probe_python": sys.executable, "probe_script": PROBE}


def test_a_look_tells_key_and_time_and_changes_nothing(monkeypatch, home):
    """Of the profile that was asked for; without a file, nothing."""
    before = (home / ".aws/credentials").read_text()
    said = run(monkeypatch, home, state="looked")
    assert said["access_key_id"] == "AKIAOLD" and said["replaced_access_key_id"] == ""
    assert abs(said["changed_at"] - module.os.stat(home / ".aws/credentials").st_mtime) < 1
    assert said["changed"] is False and (home / ".aws/credentials").read_text() == before
    assert run(monkeypatch, home, state="looked", profile="none")["access_key_id"] == ""
    assert run(monkeypatch, home / "else", state="looked")["changed_at"] == 0


def test_a_key_is_written_and_the_one_before_it_is_noted(monkeypatch, home):
    """The note is how a rotation that was cut off knows which key it may deactivate."""
    said = run(monkeypatch, home, **NEW, settings={"region": "eu-central-1", "ca_bundle": ""})
    assert said["changed"] and said["access_key_id"] == "AKIANEW"
    assert said["replaced_access_key_id"] == "AKIAOLD"
    text = (home / ".aws/credentials").read_text()
    assert text.startswith(OWN) and "AKIANEW" in text and "= old" not in text
    assert (home / ".aws/config").read_text() == "[default]\nregion = eu-central-1\n"
    for path in (home / ".aws").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    settings = {"settings": {"region": "eu-central-1", "ca_bundle": ""}}
    said = run(monkeypatch, home, **NEW, **settings)
    assert not said["changed"] and said["replaced_access_key_id"] == "AKIAOLD"
    said = run(monkeypatch, home, forget=True)
    assert said["changed"] and said["replaced_access_key_id"] == ""
    assert said["access_key_id"] == "AKIANEW"
    assert not run(monkeypatch, home, forget=True)["changed"]


def test_botocore_reads_what_was_written(monkeypatch, home):
    """It passes over the note."""
    import botocore.session

    run(monkeypatch, home, **NEW, settings={"region": "eu-central-1"})
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    session = botocore.session.Session()
    key = session.get_credentials().get_frozen_credentials()
    assert (key.access_key, key.secret_key) == ("AKIANEW", "se/cr+et=")
    assert session.get_config_variable("region") == "eu-central-1"


def test_a_key_is_taken_out(monkeypatch, home):
    """Where the instance has a profile, before which it would go."""
    said = run(monkeypatch, home, access_key_id="")
    assert said["changed"] and said["access_key_id"] == said["replaced_access_key_id"] == ""
    assert (home / ".aws/credentials").read_text() == f"{OWN}\n[default]\n"


def test_a_key_is_proven_before_it_is_written(monkeypatch, home):
    """With the very texts that would be written, out of memory: a refused key is on no disk."""
    before = (home / ".aws/credentials").read_text()
    refused = {"access_key_id": "AKIABAD", "secret_access_key": "wrong"}
    said = run(monkeypatch, home, **refused, **PROOF)
    assert said["failed"] and "artifacts s3://bucket" in said["msg"] and "AKIABAD" in said["msg"]
    assert (home / ".aws/credentials").read_text() == before
    said = run(monkeypatch, home, state="proven", **NEW, **PROOF)
    assert not said.get("failed") and said["changed"] is False
    assert (home / ".aws/credentials").read_text() == before
    assert os.listdir(home / ".aws") == ["credentials"]
    assert run(monkeypatch, home, **NEW, **PROOF)["access_key_id"] == "AKIANEW"
    # And what is there already, too.
    assert not run(monkeypatch, home, **PROOF).get("failed")


def test_the_secret_is_not_among_the_words_of_the_probe(monkeypatch, home):
    """Everybody on the machine can read those."""
    words = []

    def note(command, **options):
        words.append((command, options["env"]))
        return type("Done", (), {"returncode": 0})

    monkeypatch.setattr(module.subprocess, "run", note)
    run(monkeypatch, home, **NEW, **PROOF)
    ((command, environment),) = words
    assert command == [sys.executable, "-", "artifacts", "s3://bucket"]
    assert "se/cr+et=" not in str(environment)


def test_a_python_in_the_users_home_runs_the_probe(monkeypatch, home):
    """As the one of their virtualenv is named, whatever their home is."""
    (home / "mlflow").symlink_to(Path(sys.executable).parent)
    said = run(monkeypatch, home, **NEW, **PROOF | {"probe_python": "~/mlflow/python3"})
    assert said["access_key_id"] == "AKIANEW", said


def test_check_mode_tells_and_neither_tries_nor_writes(monkeypatch, home):
    """What the probe needs is perhaps not there yet."""
    before = (home / ".aws/credentials").read_text()
    said = run(monkeypatch, home, check_mode=True, **NEW, **(PROOF | {"probe_script": "1/0"}))
    assert said["changed"] and (home / ".aws/credentials").read_text() == before


def test_a_link_of_the_user_stays_one(monkeypatch, home):
    """Some keep such files elsewhere; as the user, so it leads nowhere that is not theirs."""
    (home / "dotfiles").mkdir()
    (home / ".aws/credentials").rename(home / "dotfiles/aws")
    (home / ".aws/credentials").symlink_to(home / "dotfiles/aws")
    run(monkeypatch, home, **NEW)
    assert (home / ".aws/credentials").is_symlink()
    assert "AKIANEW" in (home / "dotfiles/aws").read_text()


def test_a_kill_leaves_the_old_file_or_the_new_one(monkeypatch, home):
    """A training that starts in this moment must find a key that works."""
    before = (home / ".aws/credentials").read_text()

    def kill(_):
        raise Killed

    monkeypatch.setattr(module.os, "fsync", kill)
    with pytest.raises(Killed):
        run(monkeypatch, home, **NEW)
    assert (home / ".aws/credentials").read_text() == before
    monkeypatch.undo()
    assert run(monkeypatch, home, **NEW)["access_key_id"] == "AKIANEW"
    assert os.listdir(home / ".aws") == ["credentials"]


def test_what_others_could_read_is_closed(monkeypatch, home):
    """Also if nothing else is to be changed."""
    run(monkeypatch, home, **NEW)
    (home / ".aws/credentials").chmod(0o644)
    assert run(monkeypatch, home, **NEW)["changed"]
    assert stat.S_IMODE((home / ".aws/credentials").stat().st_mode) == 0o600


def test_a_file_that_cannot_be_read_is_told(monkeypatch, home):
    """In words, not as a traceback."""
    (home / ".aws/credentials").unlink()
    (home / ".aws/credentials").mkdir()
    said = run(monkeypatch, home, **NEW)
    assert said["failed"] and "Wanted to read, try and write" in said["msg"]


def test_a_silent_probe_is_told_too(home):
    """Killed by the kernel, for example."""
    with pytest.raises(Refused, match="ended with code 3"):
        Profile(home, "default").prove(["", ""], sys.executable, "raise SystemExit(3)", "s3://b")
