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
        self.writes: list[str] = []
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
        if what == "users/list":
            listed = [{"username": n, "is_admin": n in self.admins} for n in self.passwords]
            return 200, {"users": listed}
        if what == "users/permissions/list":
            keys = ("role_name", "resource_type", "resource_pattern")
            own = [
                dict(zip(keys, ("__user_1__", *key[1:]), strict=True), permission=value)
                for key, value in self.grants.items()
                if key[0] == fields["username"]
            ]
            of_a_role = dict(zip(keys, ("team", "experiment", "*"), strict=True), permission="READ")
            return 200, {"permissions": [*own, of_a_role]}
        if what == "experiments/get-by-name":
            if self.broken:
                return 500, {"message": "the database is away"}
            number = self.experiments.get(fields["experiment_name"])
            found = {"experiment": {"experiment_id": number}} if number else {"message": "none"}
            return 200 if number else 404, found
        return self.write(what, fields)

    def write(self, what, fields):
        self.writes.append(what.removeprefix("users/"))
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
    assert run(server).mighty == ["former"]
    assert run(server, user("former", password="still good", admin=True)).mighty == []


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
    server.in_the_way = mlflow_users.Refused("no database")
    with pytest.raises(mlflow_users.Refused, match="no database"):
        run(server, admin_password="a new password")


def test_a_password_that_a_worker_only_remembers_is_not_taken_for_the_right_one():
    """Back to a former one within half a minute: who logs in with it proves nothing."""
    server = Server()
    run(server, user())
    server.remembered = dict(server.passwords)
    server.passwords = dict.fromkeys(server.passwords, "a newer password")
    assert run(server, user()).plan == ["password of admin", "password of ada"]
    assert server.passwords == server.remembered


def test_an_experiment_that_is_not_there_holds_up_nobody():
    """At the first run there is none yet, and the next one gives the permission."""
    server = Server()
    ada = user(permissions={"experiment": {"later": "EDIT", "forecast": "READ"}})
    assert run(server, ada).missing == ["later (for ada)"]
    assert server.grants == {("ada", "experiment", "7"): "READ"}
    server.experiments["later"] = "8"
    assert run(server, ada).plan == ["EDIT for ada on experiment later"]


def test_what_a_role_permits_is_not_taken_for_the_users_own():
    """It ends with the role, and the user would be left without what the list says."""
    server = Server()
    ada = user(permissions={"experiment": {"*": "READ"}})
    assert run(server, ada).plan == ["user ada", "READ for ada on experiment *"]
    assert server.grants == {("ada", "experiment", "*"): "READ"}
    assert run(server, ada).plan == []
    run(server, user(permissions={"experiment": {"*": "NONE"}}))
    assert server.grants == {}
    assert run(server, user(permissions={"experiment": {"*": "NONE"}})).plan == []


def test_an_experiment_that_the_server_cannot_look_up_is_an_error():
    """Taken for one that is not there, the user would be without the permission in silence."""
    server = Server()
    server.broken = True
    with pytest.raises(mlflow_users.Refused, match="experiment forecast; found.*500.*away"):
        run(server, user(permissions={"experiment": {"forecast": "EDIT"}}))


def test_a_server_that_is_not_there_is_refused_but_not_in_check_mode():
    server = Server()
    server.serves = False
    assert run(server, check=True).plan == ["all users"]
    with pytest.raises(mlflow_users.Refused, match="run site.yml"):
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
    """A permission that could not be given yet, and an administrator whom nobody has listed."""
    server = Server()
    server.admins.add("former")
    server.passwords["former"] = "still good"
    monkeypatch.setattr(mlflow_users, "Host", lambda instance: server)
    ada = {"name": "ada", "password": "the user's password"}
    ada["permissions"] = {"experiment": {"later": "EDIT"}}
    given = {"admin_password": "the admin's password", "users": [ada]}
    warnings = []
    monkeypatch.setattr(mlflow_users.AnsibleModule, "warn", lambda _, text: warnings.append(text))
    for plan in (["user ada"], []):
        with patch_module_args(given), pytest.raises(SystemExit):
            mlflow_users.main()
        said = json.loads(capsys.readouterr().out)
        assert (said["changed"], said["plan"]) == (bool(plan), plan)
        first, second = warnings.pop(0), warnings.pop(0)
        assert "found none named later (for ada)" in first and "found that former may" in second
    server.serves = False
    with patch_module_args(given), pytest.raises(SystemExit):
        mlflow_users.main()
    assert "run site.yml" in json.loads(capsys.readouterr().out)["msg"]


@pytest.fixture
def slot(tmp_path, monkeypatch):
    """A host whose link names a slot, below a folder of its own."""
    host = mlflow_users.Host("mlflow")
    host.link = tmp_path / "current.sock"
    host.link.symlink_to("/run/mlflow/green/server.sock")
    (tmp_path / "green").mkdir()
    monkeypatch.setattr(mlflow_users, "probe_command", lambda *words: list(map(str, words)))
    return host


def test_a_server_has_users_if_its_slot_has_their_settings(slot):
    assert slot.link.parent / "green" == slot.slot() and not slot.serves_with_users()
    (slot.slot() / "mlflow_auth_config_path").touch()
    assert slot.serves_with_users()
    slot.link.unlink()
    assert not slot.serves_with_users()


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
    with pytest.raises(mlflow_users.Refused, match=r"found: no such column: \('\*{8}',\); fix"):
        slot.set_admin("admin", "canary")


@pytest.mark.parametrize("status", [403, 500])
def test_a_server_that_answers_with_an_error_is_not_taken_for_another_password(status, monkeypatch):
    """The administrator's would be set anew, in vain, each time the database is away."""
    server = Server()
    monkeypatch.setattr(server, "ask", lambda *_, **__: (status, {"message": "away"}))
    with pytest.raises(mlflow_users.Refused, match=f"can log in; found.*{status}: away"):
        run(server)
    assert server.passwords == {"admin": "the admin's password"}


def test_a_password_that_the_server_does_not_take_is_told(monkeypatch):
    """As of a server that has another database of users than its slot says."""
    server = Server()
    monkeypatch.setattr(server, "set_admin", lambda *_: None)
    with pytest.raises(mlflow_users.Refused, match="with the new password; found.*refuses it"):
        run(server, admin_password="a new password")


def test_a_call_that_is_refused_is_told_with_its_user(monkeypatch):
    server = Server()
    monkeypatch.setattr(server, "write", lambda *_: (400, {"message": "Invalid username"}))
    with pytest.raises(mlflow_users.Refused, match="users/create for ada; found.*400: Invalid"):
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

    host = mlflow_users.Host("mlflow")
    host.link = tmp_path / "current.sock"
    with socketserver.UnixStreamServer(str(host.link), Answer) as serves:
        threading.Thread(target=serves.serve_forever, args=[0.01]).start()
        login = ("ada", "pä:ss")
        assert host.ask("GET", "/users/list", login, name="a b") == (200, {"users": []})
        assert host.ask("POST", "/users", login, name="a b") == (200, {"message": "<html>no"})
        serves.shutdown()
    basic = "Basic " + base64.b64encode("ada:pä:ss".encode()).decode()
    assert asked == [("/users/list?name=a+b", basic, b""), ("/users", basic, b'{"name": "a b"}')]
