"""The database server and its roles, by themselves: what is ours, what is not, and who may what."""

import pytest
import testinfra

group = "database"

LOGINS = [
    {"name": "lab_a", "password": "p@ss%/:w\"'\\canary-a"},
    {"name": "lab_b", "password": "пароль-Ω ß canary-b"},
]
ADMIN = "canary-admin $'x"

# Logs in over the network and runs statements; prints a word or an error for each.
CODE = """
import psycopg2, sys
where, *statements = sys.argv[1:]
try:
    connection = psycopg2.connect(where, connect_timeout=10)
except psycopg2.OperationalError as error:
    sys.exit(print(error))
connection.autocommit = True
for statement in statements:
    try:
        connection.cursor().execute(statement)
        print("done")
    except psycopg2.Error as error:
        print(type(error).__name__)
"""


@pytest.fixture
def client():
    """Another host, which logs in over the network."""
    return testinfra.get_host("podman://tutorial-direct")


def try_as(client, user, password, *statements, sslmode="require", database="lab"):
    """Return what the statements came to, as that role from another host."""
    password = password.replace("\\", "\\\\").replace("'", "\\'")
    where = f"host=tutorial-database dbname={database} user={user} password='{password}'"
    words = [CODE, f"{where} sslmode={sslmode}", *statements]
    python = "/etc/mlflow/wanted/release/bin/python"
    return client.check_output(f"{python} -c " + " ".join(["%s"] * len(words)), *words)


def psql(host, statement, database="postgres"):
    command = f"runuser -u postgres -- psql --tuples-only --no-align --dbname={database}"
    return host.check_output(command + " --command=%s", statement)


def make(control, on, **variables):
    """Make the database as an administrator who works on a host; return what Ansible says."""
    limit = f"--limit={on}"
    code, said = control.playbook(
        limit, playbook="molecule/tutorial/database.yml", test_host=on, **variables
    )
    return code, said


LAB = {
    "postgresql_database": "lab",
    "postgresql_owner_password": "owner canary-owner",
    "postgresql_logins": LOGINS,
}


@pytest.fixture(scope="module")
def rds(request):
    """Variables of an administrator as RDS gives one: over the network, and not a superuser."""
    host = testinfra.get_host("podman://tutorial-database")
    quoted = ADMIN.replace("'", "''")
    psql(host, f"CREATE ROLE rds_admin LOGIN CREATEDB CREATEROLE PASSWORD '{quoted}'")
    return LAB | {
        "postgresql_admin_host": "tutorial-database.dns.podman",
        "postgresql_admin_user": "rds_admin",
        "postgresql_admin_password": ADMIN,
        "postgresql_python": "/etc/mlflow/wanted/release/bin/python",
    }


def test_an_administrator_who_is_no_superuser_makes_it_from_afar(control, host, client, rds):
    """RDS gives no superuser, and often only the tracking server's own host reaches it."""
    code, said = make(control, "tutorial-direct", **rds)
    assert code == 0, said
    assert "changed=0" in make(control, "tutorial-direct", **rds)[1]
    for login in LOGINS:
        assert try_as(client, login["name"], login["password"], "SELECT 1") == "done"
        assert "authentication failed" in try_as(client, login["name"], "another")
    assert "canary" not in said


def test_the_superuser_on_the_host_finds_the_same_in_order(control, rds):
    """Both ways lead to one state, so a database can be handed from one to the other."""
    code, said = make(control, "tutorial-database", **LAB)
    assert code == 0 and "changed=0" in said, said


def test_a_login_reads_and_writes_what_the_owner_makes_later(client, rds):
    """A migration adds tables; nobody should have to think of the grants then."""
    make_table = "CREATE TABLE IF NOT EXISTS later (i serial, t text)"
    assert try_as(client, "lab_owner", "owner canary-owner", make_table) == "done"
    said = try_as(
        client,
        *LOGINS[1].values(),
        "INSERT INTO later (t) VALUES ('x')",
        "UPDATE later SET t = 'y'",
        "DELETE FROM later",
        "CREATE TABLE mine (i int)",
        "DROP TABLE later",
        "TRUNCATE later",
    )
    assert said.split() == ["done"] * 3 + ["InsufficientPrivilege"] * 3


def test_nobody_else_gets_into_the_database(client, rds):
    """By default every role of a server may connect to every database."""
    password = "p@ss%/:w\"'\\canary-proxied"
    assert "permission denied for database" in try_as(client, "proxied_a", password)


def test_nobody_gets_in_without_tls(client, rds):
    said = try_as(client, *LOGINS[1].values(), sslmode="disable")
    assert "no pg_hba.conf entry" in said and "no encryption" in said


def test_a_new_password_reaches_the_server_and_none_of_its_logs(control, host, client, rds):
    """A server that logs statements, as many on RDS do, must not learn the password."""
    psql(host, "ALTER SYSTEM SET log_statement = 'all'")
    psql(host, "SELECT pg_reload_conf()")
    other = [LOGINS[0] | {"password": "new canary-new"}, LOGINS[1]]
    code, said = make(control, "tutorial-direct", **rds | {"postgresql_logins": other})
    assert code == 0 and "changed=1" in said, said
    assert try_as(client, "lab_a", "new canary-new", "SELECT 1") == "done"
    assert "authentication failed" in try_as(client, *LOGINS[0].values())
    log = host.check_output("cat /var/log/postgresql/*.log")
    assert "SCRAM-SHA-256" in log and "canary-new" not in log


@pytest.mark.parametrize(
    ("variables", "phrase"),
    [
        ({"postgresql_admin_password": "wrong"}, "put the right password into the vault"),
        ({"postgresql_admin_host": "tutorial-s3"}, "Connection refused"),
        ({"postgresql_owner": "another"}, "Wanted another as the owner of the database lab"),
        (
            {"postgresql_logins": [{"name": "postgres", "password": "x"}]},
            "Wanted roles without the rights of an administrator; found that postgres has them",
        ),
    ],
)
def test_what_is_somebody_elses_is_refused(control, rds, variables, phrase):
    """A superuser whose password is reset by a slip of the pen is a bad day."""
    code, said = make(control, "tutorial-direct", **rds | variables)
    assert code != 0 and phrase in said, said


def test_a_setting_that_the_server_does_not_understand_is_taken_back(control, host):
    """Else the next restart, months later, would find a server that cannot start."""
    file = "/etc/postgresql/17/main/conf.d/mlflow-ansible.conf"
    before = host.check_output(f"cat {file}")
    code, said = control.playbook(
        playbook="playbooks/database.yml", postgresql_settings={"work_mem": "plenty"}
    )
    assert code != 0 and "The former files are back" in said and "work_mem" in said, said
    assert host.check_output(f"cat {file}") == before


def test_access_rules_of_the_host_stay(control, host):
    """Others may use that server too."""
    rule = "hostssl others others 192.0.2.0/24 scram-sha-256"
    host.check_output(f"echo '{rule}' >> /etc/postgresql/17/main/pg_hba.conf")
    networks = ["10.0.0.0/8", "198.51.100.0/24"]
    code, said = control.playbook(
        playbook="playbooks/database.yml", postgresql_allowed_networks=networks
    )
    assert code == 0, said
    rules = psql(host, "SELECT address FROM pg_hba_file_rules WHERE address IS NOT NULL").split()
    assert {"192.0.2.0", "198.51.100.0", "10.0.0.0", "samehost"} <= set(rules)
    code, said = control.playbook(playbook="playbooks/database.yml")
    assert code == 0 and "198.51" not in host.check_output(
        "cat /etc/postgresql/17/main/pg_hba.conf"
    )
