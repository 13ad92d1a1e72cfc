"""What is asked of a server with users, for each difference between what is and what is wanted."""

import base64
import http.server
import json
import socketserver
import threading
from types import SimpleNamespace

import mlflow_users
import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.refusals import Refused
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.slots import Instance
from problems_of_users import problems_of_users


class Server:
    """MLflow's API of users, as far as the module uses it, and the host that it serves on."""

    def __init__(self):
        self.link = "current.sock"
        self.passwords = {"admin": "the admin's password"}
        self.remembered = {}
        self.admins = {"admin"}
        self.grants: dict[tuple, str] = {}
        self.experiments = {"forecast": "7"}
        self.deleted: set[str] = set()
        self.models = {"sales"}
        # Those that an administrator made: who is in them, and what they permit.
        self.roles: dict[str, tuple[set, dict[tuple, str]]] = {}
        self.writes: list[str] = []
        self.asked: list[str] = []
        self.serves, self.in_the_way, self.broken = True, None, False

    def serves_with_users(self):
        return self.serves

    def wrong_passwords(self, passwords):
        return [name for name, word in passwords.items() if self.passwords.get(name) != word]

    def set_admin(self, name, password):
        if self.in_the_way:
            raise self.in_the_way
        self.passwords[name] = password
        self.admins.add(name)

    def ask(self, method, path, login, **fields):
        name, password = login
        if password not in (self.passwords.get(name), self.remembered.get(name)):
            return 401, {"message": "who are you?"}
        what = path.rsplit("/mlflow/", 1)[1]
        if what == "users/current":
            return 200, {"user": {"username": name, "is_admin": name in self.admins}}
        assert name in self.admins, "all else is asked by the administrator"
        self.asked.append(what)
        if what == "users/list":
            return 200, {"users": [self.as_listed(name) for name in self.passwords]}
        if self.broken and method == "GET":
            return 500, {"message": "the database is away"}
        if what == "experiments/get-by-name":
            number = self.experiments.get(fields["experiment_name"])
            if not number:
                return 404, {"message": "none"}
            stage = "deleted" if number in self.deleted else "active"
            return 200, {"experiment": {"experiment_id": number, "lifecycle_stage": stage}}
        if what == "registered-models/get":
            found = {"registered_model": fields} if fields["name"] in self.models else {}
            return 200 if found else 404, found
        return self.write(what, fields)

    def as_listed(self, name):
        """Return a user as the server lists one, with his own permissions in a role, too."""
        roles = {
            f"__user_{len(name)}__": {k[1:]: v for k, v in self.grants.items() if k[0] == name}
        }
        roles |= {role: rows for role, (members, rows) in self.roles.items() if name in members}
        keys = ("resource_type", "resource_pattern")
        return {
            "username": name,
            "is_admin": name in self.admins,
            "roles": [
                {
                    "name": role,
                    "permissions": [
                        dict(zip(keys, key, strict=True), permission=level)
                        for key, level in rows.items()
                    ],
                }
                for role, rows in roles.items()
            ],
        }

    def make(self, owner, kind, name):
        """Make an experiment, a model or a prompt, which its maker manages from then on."""
        if name in self.experiments if kind == "experiment" else name in self.models:
            return 400, {"message": "it exists"}
        number = name
        if kind == "experiment":
            number = self.experiments[name] = str(7 + len(self.experiments))
        else:
            self.models.add(name)
        self.grants[owner, kind, number] = "MANAGE"
        return 200, {"experiment_id": number} if kind == "experiment" else {}

    def write(self, what, fields):
        self.writes.append(what.removeprefix("users/"))
        made = {"experiments/create": "experiment", "registered-models/create": "registered_model"}
        if what in made:
            return self.make("admin", made[what], fields["name"])
        name = fields["username"]
        if what in ("users/create", "users/update-password"):
            self.passwords[name] = fields["password"]
        elif what == "users/update-admin":
            (self.admins.add if fields["is_admin"] else self.admins.discard)(name)
        elif what == "users/delete":
            del self.passwords[name]
        else:
            key = (name, fields["resource_type"], fields["resource_id"])
            if what == "users/permissions/revoke":
                del self.grants[key]
            elif key in self.grants:
                return 400, {"message": "it has one"}
            else:
                self.grants[key] = fields["permission"]
        return 200, {}


def user(name="ada", **more):
    fields = {"state": "present", "password": "the user's password", "update_password": "always"}
    return {"name": name, "admin": False, "permissions": {}, **fields, **more}


def run(server, *users, check=False, admin_password="the admin's password"):
    given = {"admin": "admin", "admin_password": admin_password, "users": list(users)}
    made = mlflow_users.Users(server, given, check)
    made.run()
    return made


def test_a_user_is_made_with_permissions_once():
    """A second run finds all as it is wanted: nothing is written, and nothing said to be."""
    server = Server()
    ada = user(permissions={"experiment": {"forecast": "EDIT"}, "registered_model": {"*": "READ"}})
    assert run(server, ada).plan == [
        "user ada",
        "EDIT for ada on experiment forecast",
        "READ for ada on registered_model *",
    ]
    assert server.grants == {
        ("ada", "experiment", "7"): "EDIT",
        ("ada", "registered_model", "*"): "READ",
    }
    server.writes.clear()
    assert run(server, ada).plan == [] == server.writes


@pytest.mark.parametrize(
    ("change", "writes"),
    [
        ({"password": "another password"}, ["update-password"]),
        ({"password": "another password", "update_password": "on_create"}, []),
        ({"admin": True}, ["update-admin"]),
        (
            {"permissions": {"experiment": {"forecast": "READ"}}},
            ["permissions/revoke", "permissions/grant"],
        ),
        ({"permissions": {"experiment": {"forecast": "NONE"}}}, ["permissions/revoke"]),
        ({"permissions": {}}, []),
        ({"state": "absent"}, ["delete"]),
    ],
)
def test_only_what_differs_is_written(change, writes):
    """What a user has been given by others, or has chosen himself, is not ours to take."""
    server = Server()
    ada = user(permissions={"experiment": {"forecast": "EDIT"}})
    run(server, ada)
    server.writes.clear()
    assert len(set(run(server, ada | change, check=True).plan)) == min(len(writes), 1)
    assert server.writes == [], "check mode writes nothing"
    run(server, ada | change)
    assert server.writes == writes
    server.writes.clear()
    assert run(server, ada | change).plan == []


def test_users_who_are_not_listed_are_left_alone():
    server = Server()
    server.passwords["somebody"] = "his own"
    run(server, user())
    assert "somebody" in server.passwords


def test_an_administrator_who_is_not_listed_is_told_and_left_alone():
    """Such as one that had another name before."""
    server = Server()
    server.passwords["former"] = "still good"
    server.admins.add("former")
    assert run(server).administrators == ["former"]
    assert run(server, user("former", password="still good", admin=True)).administrators == []


def test_an_administrator_who_cannot_log_in_gets_the_password_that_is_wanted():
    """Nobody has to know the former one: at the first start it is random, later it is the old."""
    server = Server()
    assert run(server, check=True, admin_password="a new password").plan == ["password of admin"]
    assert run(server, user(), admin_password="a new password").plan == [
        "password of admin",
        "user ada",
    ]
    assert server.passwords["admin"] == "a new password"


def test_what_keeps_the_password_from_the_database_is_said():
    server = Server()
    server.in_the_way = Refused("no database")
    with pytest.raises(Refused, match="no database"):
        run(server, admin_password="a new password")


def test_a_password_that_a_worker_only_remembers_is_not_taken_for_the_right_one():
    """Back to a former one within half a minute: who logs in with it proves nothing."""
    server = Server()
    run(server, user())
    server.remembered = dict(server.passwords)
    server.passwords = dict.fromkeys(server.passwords, "a newer password")
    assert run(server, user()).plan == ["password of admin", "password of ada"]
    assert server.passwords == server.remembered


def test_what_is_named_and_not_there_is_made_as_the_administrators():
    """Whoever makes it is its owner: a stranger would own what the listed users are let into."""
    server = Server()
    ada = user(
        permissions={
            "experiment": {"later": "EDIT", "forecast": "READ", "never": "NONE", "*": "READ"},
            "registered_model": {"future": "READ", "sales": "READ", "never": "NONE"},
            "prompt": {"hello": "READ"},
        }
    )
    bob = user("bob", permissions={"experiment": {"later": "READ"}})
    plan = [
        "make experiment later",
        "make registered_model future",
        "user ada",
        "EDIT for ada on experiment later",
        "READ for ada on experiment forecast",
        "READ for ada on experiment *",
        "READ for ada on registered_model future",
        "READ for ada on registered_model sales",
        "READ for ada on prompt hello",
        "user bob",
        "READ for bob on experiment later",
    ]
    assert run(server, ada, bob, check=True).plan == plan
    assert server.writes == [] and "later" not in server.experiments
    assert run(server, ada, bob).plan == plan
    number = server.experiments["later"]
    assert {key: level for key, level in server.grants.items() if key[2] in (number, "future")} == {
        ("admin", "experiment", number): "MANAGE",
        ("admin", "registered_model", "future"): "MANAGE",
        ("ada", "experiment", number): "EDIT",
        ("ada", "registered_model", "future"): "READ",
        ("bob", "experiment", number): "READ",
    }
    assert "never" not in [*server.experiments, *server.models] and "hello" not in server.models
    server.writes.clear()
    assert run(server, ada, bob).plan == [] == server.writes


def test_a_deleted_experiment_is_reported():
    """MLflow finds it by its name, and refuses whoever would log to it. Who may delete it is who
    holds MANAGE, so it is no reason to keep the front from getting another certificate.
    """
    server = Server()
    ada = user(permissions={"experiment": {"forecast": "EDIT"}})
    assert run(server, ada).deleted == []
    server.deleted = set(server.experiments.values())
    assert run(server, ada).deleted == ["forecast (7)"]


def test_who_was_taken_out_of_the_list_is_reported():
    """They can log in as before, and nobody would know."""
    server = Server()
    run(server, user("ada"), user("bob"))
    assert run(server, user("ada")).others == ["bob"]
    assert run(server, user("ada"), user("bob", state="absent")).others == []
    # Where there is no list, users are made in MLflow's pages.
    run(server, user("bob"))
    assert run(server).others == []


def test_each_name_is_looked_up_once_and_all_permissions_come_by_one_request():
    """Each takes the server some milliseconds, and a team has many users of few experiments."""
    server = Server()
    permissions = {"experiment": {"forecast": "EDIT"}, "registered_model": {"sales": "READ"}}
    team = [user(name, permissions=permissions) for name in ("ada", "bob", "eve")]
    run(server, *team)
    server.asked.clear()
    run(server, *team)
    # The names first: whoever has made what they stand for is in the list by then.
    assert server.asked == ["experiments/get-by-name", "registered-models/get", "users/list"]


def test_what_somebody_made_just_before_is_not_taken_for_the_administrators():
    server = Server()
    ada = user(permissions={"experiment": {"later": "EDIT"}})
    answers = server.write

    def write(what, fields):
        server.experiments.setdefault("later", "9")
        return answers(what, fields)

    server.write = write
    with pytest.raises(Refused, match="experiments/create for later; .*it exists"):
        run(server, ada)
    assert "ada" not in server.passwords


@pytest.mark.parametrize(
    ("made", "kind", "name"),
    [
        ("experiment", "experiment", "later"),
        ("registered_model", "registered_model", "later"),
        # A prompt is a model with a tag, which its owner may take away.
        ("prompt", "registered_model", "later"),
    ],
)
@pytest.mark.parametrize("level", ["READ", "EDIT", "DENY"])
def test_what_is_named_and_somebody_elses_is_refused_before_anything_is_changed(
    made, kind, name, level
):
    """He would see, change and share what those do whom the list lets in."""
    server = Server()
    server.passwords["mallory"] = "his own"
    server.make("mallory", made, name)
    ada = user(permissions={kind: {name: level, "other": "EDIT"}})
    for check in (True, False):
        with pytest.raises(Refused) as refused:
            run(server, ada, check=check)
        assert f"found that mallory holds MANAGE on {made} {name}; " in str(refused.value)
        assert "give the user a line with the permission MANAGE" in str(refused.value)
    with pytest.raises(Refused):
        run(server, ada, user("mallory", password="his own"))
    assert server.writes == []
    nothing = user(permissions={kind: {name: "NONE"}})
    assert run(server, nothing).plan == ["user ada"], "who is given nothing shows nothing"


@pytest.mark.parametrize("level", ["MANAGE", "EDIT", "NONE"])
def test_who_is_listed_for_what_he_made_has_what_is_listed(level):
    """Whatever that is, the operator has thought of it; a second run changes nothing."""
    server = Server()
    server.passwords["maker"] = "the user's password"
    number = server.make("maker", "experiment", "later")[1]["experiment_id"]
    server.make("maker", "registered_model", "future")
    listed = {"experiment": {"later": level}, "registered_model": {"future": level}}
    ada = user(
        permissions={"experiment": {"later": "READ"}, "registered_model": {"future": "READ"}}
    )
    maker = user("maker", permissions=listed)
    run(server, ada, maker)
    has = {key[2]: value for key, value in server.grants.items() if key[0] == "maker"}
    assert has == ({} if level == "NONE" else {number: level, "future": level})
    assert run(server, ada, maker).plan == []


@pytest.mark.parametrize("who", ["admin", "second", "former", "team", "leaver", "friend"])
def test_who_may_own_what_is_named_is_not_in_the_way(who):
    """Administrators may do everything, a role is theirs, who is removed owns nothing, and who has
    less than MANAGE was let in by an owner."""
    server = Server()
    server.passwords |= dict.fromkeys(
        ("second", "former", "leaver", "friend"), "the user's password"
    )
    server.admins.add("former")
    if who == "team":
        server.roles["team"] = ({"friend"}, {("experiment", "7"): "MANAGE"})
    else:
        server.grants[who, "experiment", "7"] = "READ" if who == "friend" else "MANAGE"
    ada = user(permissions={"experiment": {"forecast": "EDIT"}})
    others = [user("second", admin=True), user("leaver", state="absent")]
    assert "EDIT for ada on experiment forecast" in run(server, ada, *others).plan


def test_an_administrator_who_is_to_be_none_is_a_user_as_others_are():
    server = Server()
    server.passwords["former"] = "the user's password"
    server.admins.add("former")
    server.grants["former", "experiment", "7"] = "MANAGE"
    server.grants["former", "prompt", "*"] = "EDIT"
    ada = user(permissions={"experiment": {"forecast": "EDIT"}})
    with pytest.raises(Refused, match="former holds MANAGE on experiment forecast"):
        run(server, ada, user("former"))
    assert run(server, user("former")).unlisted == ["EDIT for former on prompt *"]


def test_permissions_on_everything_that_nobody_has_listed_are_told_and_left_alone():
    """Of users who are listed without them and who are not listed, their own and those of roles."""
    server = Server()
    server.passwords |= dict.fromkeys(("ada", "mallory", "second"), "the user's password")
    server.grants = {
        ("admin", "experiment", "*"): "MANAGE",
        ("second", "experiment", "*"): "MANAGE",
        ("ada", "experiment", "*"): "EDIT",
        ("ada", "prompt", "*"): "READ",
        ("ada", "scorer", "*"): "READ",
        ("mallory", "registered_model", "*"): "MANAGE",
        ("mallory", "run", "*"): "READ",
        ("mallory", "experiment", "*"): "DENY",
        ("mallory", "experiment", "7"): "READ",
    }
    rows = {("registered_model", "*"): "EDIT", ("workspace", "*"): "MANAGE", ("scorer", "*"): "USE"}
    server.roles["team"] = ({"ada", "admin"}, rows)
    server.roles["nobody's"] = (set(), rows)
    before = dict(server.grants)
    listed = {"prompt": {"*": "READ"}, "registered_model": {"*": "EDIT"}, "scorer": {"*": "READ"}}
    ada, second = user(permissions=listed), user("second", admin=True)
    unlisted = [
        "EDIT for ada on experiment *",
        "MANAGE for ada on workspace * by the role team",
        "USE for ada on scorer * by the role team",
        "MANAGE for mallory on registered_model *",
        "READ for mallory on run *",
    ]
    assert run(server, ada, second, check=True).unlisted == unlisted
    assert run(server, ada, second).unlisted == unlisted
    assert {key: server.grants[key] for key in before} == before
    taken = user(permissions=listed | {"experiment": {"*": "NONE"}, "scorer": {"*": "DENY"}})
    mallory = user("mallory", state="absent")
    for check in (True, False):
        assert run(server, taken, second, mallory, check=check).unlisted == unlisted[1:2]


def test_who_only_sets_the_administrators_password_is_told_nothing_of_others():
    """The playbook that does has no list of them."""
    server = Server()
    server.passwords["former"] = "still good"
    server.admins.add("former")
    server.grants["ada", "experiment", "*"] = "READ"
    given = {"admin": "admin", "admin_password": "a new password", "users": []}
    made = mlflow_users.Users(server, given | {"only_admin": True}, False)
    made.run()
    assert (made.plan, made.administrators, made.unlisted) == (["password of admin"], [], [])
    assert server.asked == []


def test_what_a_role_permits_is_not_taken_for_the_users_own():
    """It ends with the role, and the user would be left without what the list says."""
    server = Server()
    server.roles["team"] = ({"ada"}, {("experiment", "*"): "READ"})
    ada = user(permissions={"experiment": {"*": "READ"}})
    assert run(server, ada).plan == ["user ada", "READ for ada on experiment *"]
    assert server.grants == {("ada", "experiment", "*"): "READ"}
    assert run(server, ada).plan == []
    run(server, user(permissions={"experiment": {"*": "NONE"}}))
    assert server.grants == {}
    assert run(server, user(permissions={"experiment": {"*": "NONE"}})).plan == []


@pytest.mark.parametrize(
    ("kind", "name"), [("experiment", "forecast"), ("registered_model", "sales")]
)
def test_what_the_server_cannot_look_up_is_an_error(kind, name):
    """Taken for one that is not there, it would be made, and the error be another one."""
    server = Server()
    server.broken = True
    with pytest.raises(Refused, match=f"{kind} {name}; found.*500.*away"):
        run(server, user(permissions={kind: {name: "EDIT"}}))
    assert server.writes == []


def test_a_server_that_is_not_there_is_refused_but_not_in_check_mode():
    server = Server()
    server.serves = False
    assert run(server, check=True).plan == ["all users"]
    with pytest.raises(Refused, match="run site.yml"):
        run(server)


@pytest.mark.parametrize(
    ("users", "problem"),
    [
        ([{"name": "ada"}], "ada with no password"),
        ([{"name": "ada", "password": 123456789012, "permissions": None}], ""),
        ([{"name": "ada", "password": "short"}], "ada with a password of 5 characters"),
        ([{"name": "ada", "password": "example-change-me"}], "ada with the example's password"),
        ([{"name": "ada", "password": "password1234"}], "ada with a password that everybody knows"),
        (
            [{"name": "ada", "password": "lang genug für alle"}],
            "ada with a password beyond ASCII, which MLflow does not take everywhere",
        ),
        ([{"name": "a:b", "password": "long enough it is"}], "the name 'a:b'"),
        ([{"name": "admin", "password": "long enough it is"}], "admin 2 times"),
        ([{"name": "ada", "state": "absent"}], ""),
        (
            [
                {
                    "name": "ada",
                    "password": "long enough it is",
                    "permissions": {"run": {"*": "READ"}},
                }
            ],
            "ada with the resource type run, none of experiment/registered_model/prompt/scorer/"
            "gateway_secret/gateway_endpoint/gateway_model_definition/mcp_server",
        ),
        (
            [
                {
                    "name": "ada",
                    "password": "long enough it is",
                    "permissions": {"experiment": {"a": "read"}},
                }
            ],
            "ada with read on a, none of READ/USE/EDIT/MANAGE/DENY/NONE",
        ),
        (
            [
                {
                    "name": "ada",
                    "password": "long enough it is",
                    "permissions": {"experiment": "READ"},
                }
            ],
            "ada with permissions on experiment that are not by name",
        ),
    ],
)
def test_bad_users_are_told_before_anything_is_changed(users, problem):
    assert problems_of_users(users, "admin", "long enough it is") == ([problem] if problem else [])


def test_no_problem_has_a_password_in_it():
    """It is shown to whoever runs the playbook, and in its log."""
    assert problems_of_users([], "admin", "secret") == ["admin with a password of 6 characters"]


# What it says to Ansible, and asks of a real server and a real probe.


def test_who_runs_it_is_warned_of_what_nobody_else_would_see(monkeypatch, capsys):
    """A permission on everything, and an administrator, whom nobody has listed."""
    server = Server()
    server.passwords["mallory"] = "his own"
    server.grants["mallory", "registered_model", "*"] = "MANAGE"
    server.admins.add("former")
    server.passwords["former"] = "still good"
    monkeypatch.setattr(mlflow_users, "Host", lambda instance: server)
    ada = {"name": "ada", "password": "the user's password"}
    unlisted = ["MANAGE for mallory on registered_model *"]
    given = {"admin_password": "the admin's password", "users": [ada]}
    warnings = []
    monkeypatch.setattr(mlflow_users.AnsibleModule, "warn", lambda _, text: warnings.append(text))
    for plan in (["user ada"], []):
        with patch_module_args(given), pytest.raises(SystemExit):
            mlflow_users.main()
        said = json.loads(capsys.readouterr().out)
        assert (said["changed"], said["plan"]) == (bool(plan), plan)
        assert said["unlisted"] == unlisted
        first, other, second = (warnings.pop(0) for _ in range(3))
        assert "found that mallory can log in, too" in other
        assert "found that former are" in first
        assert f"found {unlisted[0]}; list them, or take them away" in second
    server.serves = False
    with patch_module_args(given), pytest.raises(SystemExit):
        mlflow_users.main()
    assert "run site.yml" in json.loads(capsys.readouterr().out)["msg"]


@pytest.fixture
def slot(tmp_path, monkeypatch):
    """A host whose link names a slot, below a folder of its own."""
    instance = Instance("mlflow", tmp_path)
    (instance.config / "green").mkdir(parents=True)
    instance.current.symlink_to("/run/mlflow/green/server.sock")
    monkeypatch.setattr(mlflow_users, "probe_command", lambda *words: list(map(str, words)))
    return mlflow_users.Host(instance)


def test_a_server_has_users_if_its_slot_has_their_settings(slot):
    assert slot.link.parent / "green" == slot.slot() and not slot.serves_with_users()
    (slot.slot() / "mlflow_auth_config_path").touch()
    assert slot.serves_with_users()
    slot.link.unlink()
    assert not slot.serves_with_users()
    slot.link.symlink_to("/run/other/server.sock")
    assert not slot.serves_with_users(), "another one that somebody has linked"


def test_a_probe_gets_passwords_on_its_input_and_no_error_shows_one(slot, monkeypatch):
    """SQLAlchemy puts the parameters of a statement into its errors."""
    ran = []

    def run(command, **more):
        ran.append((command, more["input"]))
        return SimpleNamespace(returncode=0, stdout='["bob"]', stderr="")

    monkeypatch.setattr(mlflow_users.subprocess, "run", run)
    assert slot.wrong_passwords({"ada": "p@ss", "bob": "w0rd"}) == ["bob"]
    slot.set_admin("admin", "canary")
    assert [json.loads(ran[0][1]), ran[1][1]] == [{"ada": "p@ss", "bob": "w0rd"}, "canary"]
    assert not [word for command, _ in ran for word in command if "p@ss" in word or "can" in word]

    def fail(command, **more):
        return SimpleNamespace(returncode=1, stdout="", stderr="no such column: ('canary',)\n")

    monkeypatch.setattr(mlflow_users.subprocess, "run", fail)
    with pytest.raises(Refused, match=r"found: no such column: \('\*{8}',\); fix"):
        slot.set_admin("admin", "canary")


@pytest.mark.parametrize("status", [403, 500])
def test_a_server_that_answers_with_an_error_is_not_taken_for_another_password(status, monkeypatch):
    """The administrator's would be set anew, in vain, each time the database is away."""
    server = Server()
    monkeypatch.setattr(server, "ask", lambda *_, **__: (status, {"message": "away"}))
    with pytest.raises(Refused, match=f"can log in; found.*{status}: away"):
        run(server)
    assert server.passwords == {"admin": "the admin's password"}


def test_a_password_that_the_server_does_not_take_is_told(monkeypatch):
    """As of a server that has another database of users than its slot says."""
    server = Server()
    monkeypatch.setattr(server, "set_admin", lambda *_: None)
    with pytest.raises(Refused, match="with the new password; found.*refuses it"):
        run(server, admin_password="a new password")


def test_a_call_that_is_refused_is_told_with_its_user(monkeypatch):
    server = Server()
    monkeypatch.setattr(server, "write", lambda *_: (400, {"message": "Invalid username"}))
    with pytest.raises(Refused, match="users/create for ada; found.*400: Invalid"):
        run(server, user())


def test_a_request_has_its_login_and_fields_as_mlflow_reads_them(tmp_path):
    """In UTF-8, of a GET in the address; what is no JSON, such as nginx's, is told as it is."""
    asked, answers = [], [b'{"users": []}', b"<html>no"]

    class Answer(http.server.BaseHTTPRequestHandler):
        def answer(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            asked.append((self.path, self.headers["Authorization"], body))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answers.pop(0))

        do_GET = do_POST = answer

        def log_message(self, *_):
            pass

    host = mlflow_users.Host(Instance("mlflow", tmp_path))
    host.link.parent.mkdir(parents=True)
    with socketserver.UnixStreamServer(str(host.link), Answer) as serves:
        threading.Thread(target=serves.serve_forever, args=[0.01]).start()
        login = ("ada", "pä:ss")
        assert host.ask("GET", "/users/list", login, name="a b") == (200, {"users": []})
        assert host.ask("POST", "/users", login, name="a b") == (200, {"message": "<html>no"})
        serves.shutdown()
    basic = "Basic " + base64.b64encode("ada:pä:ss".encode()).decode()
    assert asked == [("/users/list?name=a+b", basic, b""), ("/users", basic, b'{"name": "a b"}')]
