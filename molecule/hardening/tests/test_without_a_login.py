"""Users are taken away from a server and come back, and the run is killed in between. After the
search for secrets, as it leaves another server than that looks at.
"""

from fleet import At, Fleet
from test_users import ADMIN
from visitor import SEARCH, Visitor, anonymous, watched

group = "hardening-users"

# What the run is killed before: by then the server has stopped to ask.
AFTER_THE_SERVER = At("start", "Users | Make the administrator")
# What follows is one start after the other; it is the last test.
CHEAPER = {"mlflow_server_workers": 1}
NOBODY = CHEAPER | {
    "mlflow_server_authentication": "none",
    "mlflow_server_admin_password": "",
    "mlflow_server_users": [],
    "mlflow_server_listen_address": "127.0.0.1",
}


def test_a_login_that_is_taken_away_opens_nothing(control, ask):
    """The front is closed to others before the server stops to ask, also if the run ends there; and
    when users come back the server asks before the front is open again.
    """
    fleet = Fleet(control.inventory, [control.name], "hardening-s3", f"--limit={control.name}")
    with watched(control.name) as seen:
        code, said = fleet.start("site.yml", at=AFTER_THE_SERVER, **NOBODY).wait()
        assert code == -9, said[-4000:]
        assert ask(f"https://127.0.0.1{SEARCH}")["status"] == 200, "the server asks nobody any more"
        assert anonymous(control.name) is None
        fleet.succeed("site.yml", **CHEAPER)
        assert Visitor(control.name, ADMIN).whoami()["is_admin"]
    assert set(seen) == {401, None} and seen[0] == seen[-1] == 401
