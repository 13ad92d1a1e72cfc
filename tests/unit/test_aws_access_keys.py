"""What a rotation of AWS keys decides, in every state, and a kill after each thing it does."""

import itertools
import json
import re
from types import SimpleNamespace

import aws_access_keys as module
import boto3
import pytest
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.refusals import Refused
from aws_access_keys import DAY, ask, decide, refusal
from botocore.exceptions import ClientError, NoCredentialsError
from kills import Killable, assert_each_is_finished
from moto import mock_aws

NOW = 1_800_000_000
OLD, NEW, FOREIGN = "AKIAEXAMPLEOLD1", "AKIAEXAMPLENEW2", "AKIAFOREIGNFOR3"


def key(name, active=True, created=NOW - 90 * DAY, last_used=NOW - 60):
    return {"id": name, "active": active, "created": created, "last_used": last_used}


def resting(name, last_used=NOW - 60):
    return key(name, active=False, last_used=last_used)


def fresh(name):
    return key(name, created=NOW - 60, last_used=None)


def decision(keys, **facts):
    facts = {
        "user": "mlflow",
        "wanted": OLD,
        "minted": False,
        "stored": {},
        "deployed": [OLD],
        "retired": [],
        "soak_days": 1,
        "now": NOW,
        **facts,
    }
    return decide(keys, **facts)


def acts(found):
    """Return what there is to do, without what there is not."""
    names = ("mint", "lost", "replaced", "delete")
    return {name: found[name] for name in names if found[name]}


STORED = {"access_key_id": NEW, "replaces": OLD}
INTENT = {"access_key_id": OLD, "minting_since": NOW - 90, "known": [OLD]}
FROM_OLD = {"wanted": NEW, "deployed": [OLD]}


@pytest.mark.parametrize(
    ("keys", "facts", "expected", "plan", "after"),
    [
        pytest.param(
            [key(OLD)], {}, {}, "Nothing is to be done", "make another key (aws iam", id="settled"
        ),
        pytest.param(
            [key(OLD), fresh(NEW)],
            FROM_OLD,
            {"replaced": [OLD]},
            "…NEW2 replaces …OLD1",
            "…OLD1 is inactive now",
            id="a given key that nobody carries yet",
        ),
        pytest.param(
            [key(OLD), key(NEW)],
            {"wanted": NEW, "deployed": [OLD, NEW]},
            {"replaced": [OLD]},
            "…NEW2 replaces …OLD1",
            "…OLD1 is inactive now",
            id="some carry it",
        ),
        pytest.param(
            [key(OLD), key(NEW)],
            {"wanted": NEW, "deployed": [NEW], "retired": [OLD]},
            {"replaced": [OLD]},
            "…NEW2 replaces …OLD1",
            "…OLD1 is inactive now",
            id="all carry it, and the old one is active yet",
        ),
        pytest.param(
            [resting(OLD), key(NEW)],
            {"wanted": NEW, "deployed": [NEW], "retired": [OLD]},
            {},
            "What is left of a rotation to …NEW2 is finished",
            "A run after",
            id="the old one is inactive and lies in an idle slot",
        ),
        pytest.param(
            [key(NEW)],
            {"wanted": NEW, "deployed": [NEW], "retired": [OLD]},
            {},
            "What is left",
            "make another key",
            id="the old one is deleted and lies in an idle slot",
        ),
        pytest.param(
            [resting(OLD), key(NEW)],
            {"wanted": NEW, "deployed": [NEW]},
            {},
            "Nothing is to be done",
            "…OLD1 is inactive. A run after 2027-01-16 07:59 UTC deletes it",
            id="the old one was seen a minute ago",
        ),
        pytest.param(
            [resting(OLD, NOW - 2 * DAY), key(NEW)],
            {"wanted": NEW, "deployed": [NEW]},
            {"delete": [OLD]},
            "…OLD1 is deleted",
            "make another key",
            id="the old one was not seen for two days",
        ),
        pytest.param(
            [resting(OLD, NOW - 2 * DAY), key(NEW)],
            {"wanted": NEW, "deployed": [NEW], "soak_days": 3},
            {},
            "Nothing is to be done",
            "A run after",
            id="two days of a soak of three",
        ),
        pytest.param(
            [resting(OLD, NOW - 2 * DAY), fresh(NEW)],
            {"wanted": NEW, "deployed": [NEW]},
            {},
            "Nothing is to be done",
            "A run after",
            id="the old one was idle before its successor was there",
        ),
        pytest.param(
            [resting(OLD), key(NEW)],
            {"wanted": NEW, "deployed": [NEW], "soak_days": 0},
            {"delete": [OLD]},
            "…OLD1 is deleted",
            "make another key",
            id="no soak",
        ),
        pytest.param(
            [resting(OLD, NOW - 2 * DAY), key(NEW)],
            {"wanted": NEW, "deployed": [NEW, OLD]},
            {},
            "What is left",
            "A run after",
            id="an inactive key on a host is replaced, not deleted",
        ),
        pytest.param(
            [resting(OLD, NOW - 2 * DAY), key(NEW)],
            {"wanted": NEW, "deployed": [NEW], "retired": [OLD]},
            {},
            "What is left",
            "A run after",
            id="nor one in an idle slot",
        ),
        pytest.param(
            [resting(FOREIGN, None), key(OLD)],
            {},
            {"delete": [FOREIGN]},
            "…FOR3 is deleted",
            "make another key",
            id="an inactive key that nobody ever used, 90 days old",
        ),
        # Keys that are made here.
        pytest.param(
            [key(OLD)],
            {"minted": True},
            {"mint": True, "replaced": [OLD]},
            "A new key of IAM user mlflow replaces …OLD1",
            "…OLD1 is inactive now",
            id="the first one, in the place of one from the vault",
        ),
        pytest.param(
            [key(NEW)],
            {"minted": True, "wanted": NEW, "deployed": [NEW], "stored": STORED},
            {"mint": True, "replaced": [NEW]},
            "A new key",
            "…NEW2 is inactive now",
            id="the next one",
        ),
        pytest.param(
            [key(OLD), fresh(NEW)],
            {"minted": True, "stored": STORED, **FROM_OLD},
            {"replaced": [OLD]},
            "…NEW2 replaces …OLD1",
            "…OLD1 is inactive now",
            id="made and kept, nobody carries it",
        ),
        pytest.param(
            [key(OLD), key(NEW)],
            {"minted": True, "stored": STORED, "wanted": NEW, "deployed": [NEW]},
            {"replaced": [OLD]},
            "…NEW2 replaces …OLD1",
            "…OLD1 is inactive now",
            id="all carry it, and no host tells of the old one",
        ),
        pytest.param(
            [resting(OLD), key(NEW)],
            {"minted": True, "stored": STORED, "wanted": NEW, "deployed": [NEW]},
            {},
            "Nothing is to be done",
            "A run after",
            id="no new one before the former rotation has ended",
        ),
        pytest.param(
            [resting(OLD, NOW - 2 * DAY), key(NEW)],
            {"minted": True, "stored": STORED, "wanted": NEW, "deployed": [NEW]},
            {"delete": [OLD]},
            "…OLD1 is deleted",
            "run this playbook again",
            id="nor in the run that ends it",
        ),
        pytest.param(
            [key(NEW)],
            {
                "minted": True,
                "stored": STORED,
                "wanted": NEW,
                "deployed": [NEW],
                "retired": [OLD],
            },
            {},
            "What is left",
            "run this playbook again",
            id="nor while an idle slot has the old one",
        ),
        pytest.param(
            [key(OLD)],
            {"minted": True, "stored": INTENT},
            {"mint": True, "replaced": [OLD]},
            "A new key",
            "…OLD1 is inactive now",
            id="killed before it was made",
        ),
        pytest.param(
            [key(OLD), fresh(NEW)],
            {"minted": True, "stored": INTENT},
            {"mint": True, "lost": [NEW], "replaced": [OLD]},
            "A new key",
            "…OLD1 is inactive now",
            id="killed before its secret was kept",
        ),
        pytest.param(
            [key(OLD), fresh(NEW)],
            {"minted": True, "stored": {"minting_since": NOW - 90, "known": [OLD]}},
            {"mint": True, "lost": [NEW], "replaced": [OLD]},
            "A new key",
            "…OLD1 is inactive now",
            id="the same at the first time",
        ),
        pytest.param(
            [key(OLD), fresh(NEW)],
            {"minted": True, "stored": INTENT, "retired": [FOREIGN]},
            {},
            "What is left",
            "run this playbook again",
            id="a lost key stays until there is a new one to make",
        ),
        # A store without IAM.
        pytest.param(
            None, {"user": ""}, {}, "Nothing is to be done", "make another key, put", id="no IAM"
        ),
        pytest.param(
            None,
            {"user": "", "wanted": NEW, "deployed": [OLD, NEW], "retired": [OLD]},
            {"replaced": [OLD]},
            "…NEW2 replaces …OLD1",
            "Revoke …OLD1 at your store",
            id="no IAM, some carry it",
        ),
    ],
)
def test_what_is_to_be_done(keys, facts, expected, plan, after):
    """By what IAM and the hosts say alone; nothing else remembers how far a rotation is."""
    found = decision(keys, **facts)
    assert acts(found) == expected
    assert plan in found["plan"] and after in found["next"], found


@pytest.mark.parametrize(
    ("keys", "facts", "phrases"),
    [
        pytest.param([], {}, ["…OLD1", "mlflow has none", "move the key file away"], id="no key"),
        pytest.param(
            [key(OLD)],
            FROM_OLD,
            ["Wanted …NEW2", "found that IAM user mlflow has …OLD1", "aws_credentials_iam_user"],
            id="a key of another user or account",
        ),
        pytest.param(
            [key(OLD)],
            {"minted": True, "stored": STORED, "wanted": NEW, "deployed": [NEW]},
            ["Wanted …NEW2", "if it was deleted"],
            id="the kept one is gone",
        ),
        pytest.param(
            [key(OLD), resting(NEW)],
            {"minted": True, "stored": STORED, **FROM_OLD},
            [
                "to be active",
                "hosts carry …OLD1, which is active; if …NEW2 was rotated away, bring the vault",
                f"--access-key-id {NEW} --status Active",
            ],
            id="the kept one is inactive",
        ),
        pytest.param(
            [resting(OLD)], {}, ["found it inactive"], id="the only one, which serves, is inactive"
        ),
        pytest.param(
            [key(OLD), key(NEW)],
            {"deployed": []},
            ["Wanted a host that carries a key"],
            id="two and no host carries one",
        ),
        pytest.param([key(OLD)], {"deployed": []}, ["run site.yml"], id="one and no host has it"),
        pytest.param(
            [key(OLD)],
            {"deployed": [OLD, FOREIGN]},
            ["found …FOR3 on one of them", "IAM user mlflow has …OLD1", "site.yml"],
            id="a host carries a key of another user",
        ),
        pytest.param(
            [key(OLD), key(FOREIGN)],
            {},
            ["found …FOR3, which may be in use elsewhere", "get-access-key-last-used"],
            id="a second one that no host carries",
        ),
        pytest.param(
            [key(OLD), key(FOREIGN)],
            {"minted": True, "stored": {"access_key_id": OLD, "replaces": NEW}},
            ["found …FOR3"],
            id="the same, and keys are made here",
        ),
        pytest.param(
            [key(OLD), key(FOREIGN, created=NOW - 60)],
            {"minted": True, "stored": INTENT},
            ["found …FOR3"],
            id="one made since, but in use",
        ),
        pytest.param(
            [key(OLD), key(FOREIGN, last_used=None)],
            {"minted": True, "stored": INTENT},
            ["found …FOR3"],
            id="one made long before",
        ),
        pytest.param(
            [key(OLD), key(FOREIGN, created=NOW + DAY, last_used=None)],
            {"minted": True, "stored": INTENT},
            ["found …FOR3"],
            id="one made long after",
        ),
    ],
)
def test_what_a_person_has_to_look_at(keys, facts, phrases):
    """A key that is not ours may be somebody's production: nothing is deactivated on a guess."""
    with pytest.raises(Refused) as error:
        decision(keys, **facts)
    assert all(phrase in str(error.value) for phrase in phrases), error.value


def test_no_state_lets_a_key_in_use_go():
    """Whatever the state: what hosts carry is neither deleted nor called lost, what is wanted
    stays unless a new one is made, and nothing foreign and active is touched."""
    kinds = [key, resting, fresh, lambda name: resting(name, NOW - 2 * DAY)]
    ids = [OLD, NEW, FOREIGN]
    seen = 0
    for names in itertools.chain.from_iterable(itertools.combinations(ids, n) for n in range(3)):
        for makers in itertools.product(kinds, repeat=len(names)):
            keys = [make(name) for make, name in zip(makers, names, strict=True)]
            for wanted, minted, stored, deployed, retired in itertools.product(
                (OLD, NEW),
                (True, False),
                ({}, STORED, INTENT),
                ([], [OLD], [NEW], [OLD, NEW], [OLD, FOREIGN]),
                ([], [OLD], [NEW]),
            ):
                facts = {"minted": minted, "stored": stored if minted else {}}
                try:
                    found = decision(
                        keys, wanted=wanted, deployed=deployed, retired=retired, **facts
                    )
                except Refused:
                    continue
                seen += 1
                active = {each["id"] for each in keys if each["active"]}
                assert not {*deployed, wanted} & {*found["delete"], *found["lost"]}
                assert found["mint"] or wanted not in found["replaced"]
                ours = {*deployed, *retired, wanted, facts["stored"].get("replaces")}
                assert set(found["replaced"]) <= active & ours
                assert not set(found["delete"]) & active
                assert not found["mint"] or len(keys) - len(found["lost"]) == 1
    assert seen > 100


class World(Killable):
    """IAM, a key file and hosts: what playbooks/rotate_aws_credentials.yml reads and changes.

    A server has a slot that serves and an idle one; a client has a key and a note of the former.
    Both are {"serving": id, "idle": id or ""}.
    """

    def __init__(self, minted, user="mlflow"):
        super().__init__()
        self.now, self.minted, self.user = NOW, minted, user
        self.iam = {OLD: key(OLD)}
        self.vault, self.file = OLD, {}
        self.hosts = [{"serving": OLD, "idle": ""} for _ in range(3)]
        self.made = 0

    def change(self, what):
        self.act(what)
        self.now += 5

    def decide(self):
        return decide(
            list(self.iam.values()) if self.user else None,
            user=self.user,
            wanted=self.file.get("access_key_id", self.vault),
            minted=self.minted,
            stored=self.file,
            deployed=[host["serving"] for host in self.hosts],
            retired=[host["idle"] for host in self.hosts if host["idle"]],
            soak_days=1,
            now=self.now,
        )

    def run(self):
        """Do what the playbook does, in its order."""
        plan = self.decide()
        if plan["mint"]:
            self.mint(plan["lost"])
        wanted = self.file.get("access_key_id", self.vault)
        for host in self.hosts:
            if host["serving"] != wanted:
                self.change("roll")
                host.update(serving=wanted, idle=host["serving"])
        for each in plan["replaced"] if self.user else []:
            self.change("deactivate")
            assert each not in [host["serving"] for host in self.hosts]
            self.iam[each]["active"] = False
        for each in plan["delete"]:
            self.change("delete")
            assert not self.iam.pop(each)["active"]
        for host in self.hosts:
            if host["idle"]:
                self.change("wipe")
                host["idle"] = ""
        return plan

    def mint(self, lost):
        for each in lost:
            self.change("delete lost")
            del self.iam[each]
        self.change("note")
        self.file |= {"minting_since": self.now, "known": list(self.iam)}
        self.change("make")
        assert len(self.iam) < 2, "AWS refuses a third key"
        self.made += 1
        made = f"AKIAMADE{self.made:04}"
        self.iam[made] = key(made, created=self.now, last_used=None)
        former = self.file.get("access_key_id", self.vault)
        self.change("keep")
        self.file = {"access_key_id": made, "replaces": former}

    def check(self):
        """No host ever carries a key that AWS refuses."""
        if self.user:
            assert all(self.iam[host["serving"]]["active"] for host in self.hosts)

    def state(self):
        """Return what counts at the end, whatever the new key is called."""
        serving = {host["serving"] for host in self.hosts}
        return {
            "hosts": [serving == {self.file.get("access_key_id", self.vault)} - {OLD}],
            "idle": [host["idle"] for host in self.hosts],
            "iam": [(each == OLD, self.iam[each]["active"]) for each in self.iam],
            "file": sorted(self.file),
        }


def started(minted, user="mlflow"):
    world = World(minted, user)
    if not minted:
        world.vault = NEW
        world.iam[NEW] = fresh(NEW)
    return world


@pytest.mark.parametrize(
    ("minted", "user"), [(True, "mlflow"), (False, "mlflow"), (False, "")], ids=str
)
def test_a_rotation_that_is_killed_anywhere_is_finished_by_the_next_run(minted, user):
    """Also when the run that goes on is killed too, at each of its own steps."""
    whole = started(minted, user)
    whole.run()
    assert whole.state()["hosts"] == [True] and whole.state()["idle"] == [""] * 3
    assert len(whole.actions) >= 6
    assert_each_is_finished(lambda: started(minted, user), whole)


@pytest.mark.parametrize("minted", [True, False])
def test_the_old_key_goes_after_its_soak_and_the_next_rotation_can_begin(minted):
    """One run ends the former rotation, the next one makes a new key or waits for one."""
    world = started(minted)
    world.run()
    assert acts(world.run()) == {}
    world.now += 2 * DAY
    assert acts(world.run()) == {"delete": [OLD]}
    assert len(world.iam) == 1
    found = world.run()
    world.check()
    assert found["mint"] is minted
    assert [each["active"] for each in world.iam.values()] == ([False, True] if minted else [True])


@pytest.fixture
def aws(monkeypatch):
    """An AWS account with the user mlflow."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    with mock_aws():
        client = boto3.client("iam")
        client.create_user(UserName="mlflow")
        yield client


def test_keys_are_as_aws_has_them(aws):
    """Status, creation and last use, the latter None for a key that was never used."""
    first, second = (
        aws.create_access_key(UserName="mlflow")["AccessKey"]["AccessKeyId"] for _ in range(2)
    )
    aws.update_access_key(UserName="mlflow", AccessKeyId=second, Status="Inactive")
    found = {each["id"]: each for each in ask(aws, "mlflow")}
    assert found[first]["active"] and not found[second]["active"]
    assert found[first]["last_used"] is None
    assert abs(found[first]["created"] - module.time.time()) < 60
    assert ask(aws, "mlflow") and decide(
        list(found.values()), "mlflow", first, False, {}, [first], [], 1, module.time.time()
    )["plan"].startswith("Nothing")


def run(monkeypatch, **params):
    """Run the module as Ansible would and return what it says."""
    said = {}

    class Module:
        def __init__(self, argument_spec, **_):
            self.params = {k: o.get("default") for k, o in argument_spec.items()} | params

        def exit_json(self, **result):
            said.update(result)
            raise SystemExit

        def fail_json(self, **result):
            self.exit_json(failed=True, **result)

    monkeypatch.setattr(module, "AnsibleModule", Module)
    with pytest.raises(SystemExit):
        module.main()
    return said


def test_the_module_asks_and_decides(aws, monkeypatch):
    """One call for all that a playbook has to know."""
    made = aws.create_access_key(UserName="mlflow")["AccessKey"]["AccessKeyId"]
    said = run(monkeypatch, user="mlflow", wanted=made, deployed=[made], minted=True)
    assert said["mint"] and said["replaced"] == [made] and len(said["access_keys"]) == 1
    assert said["changed"] is False
    date = module.datetime.fromisoformat(said["access_keys"][0]["created"])
    assert abs(date.timestamp() - module.time.time()) < 60
    assert said["access_keys"][0]["last_used"] is None
    said = run(monkeypatch, user="mlflow", wanted=OLD, deployed=[OLD])
    assert said["failed"] and "Wanted …OLD1" in said["msg"]
    said = run(monkeypatch, user="nobody", wanted=OLD)
    assert (
        said["failed"]
        and "NoSuchEntity" in said["msg"]
        and "aws_credentials_iam_user" in (said["msg"])
    )


def test_without_a_user_aws_is_not_asked(monkeypatch):
    """A store of one's own has no IAM, and its operator perhaps no account at AWS."""
    monkeypatch.setattr(module, "boto3", None)
    said = run(monkeypatch, wanted=NEW, deployed=[OLD])
    assert said["replaced"] == [OLD] and said["access_keys"] == []


def test_a_denied_action_is_named():
    """So that the policy can be fixed in one go."""
    answer = {"Error": {"Code": "AccessDenied", "Message": "not authorized"}}
    said = refusal(ClientError(answer, "GetAccessKeyLastUsed"), "mlflow")
    assert re.search(r"Wanted .*; found .*AccessDenied.*; add iam:GetAccessKeyLastUsed", said)
    said = refusal(NoCredentialsError(), "mlflow")
    assert "Unable to locate credentials" in said and "AWS_PROFILE" in said


def test_the_answer_can_be_sent_to_ansible():
    """Numbers, texts and lists, nothing of Python's own."""
    found = decision([key(OLD), fresh(NEW)], **FROM_OLD)
    assert json.loads(json.dumps(found)) == found
    assert SimpleNamespace(**found).waiting_until == 0
