"""A database server and the databases in it: who gets in, who may what, and what is left alone."""

import contextlib
import datetime
import ipaddress
import os
import re
import threading

import psycopg2
import pytest
import scenario
import testinfra
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.postgresql_roles import ask
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.refusals import Refused
from ansible_collections.mlflow_ansible.tracking.plugins.modules.postgresql_database import Database
from ansible_collections.mlflow_ansible.tracking.plugins.modules.postgresql_turn import Turn
from control import Control
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from kills import Killed
from testinfra.utils.ansible_runner import AnsibleRunner

group = "database"

# One made on the server's host, one there for another host, one from afar by who is no superuser.
DATABASES = ["mlflow", "delegated", "remote"]
PLAYBOOK = "playbooks/database.yml"
INVENTORY = os.path.dirname(os.environ.get("MOLECULE_INVENTORY_FILE", ""))
# It asks ansible-inventory once, which takes a second.
RUNNER = AnsibleRunner(INVENTORY)


class Server:
    """The server of a host, as its superuser, its clients and the role's module see it."""

    def __init__(self, host):
        self.host, self.name = host, host.backend.name
        self.address = host.check_output("hostname -I").split()[0]
        known = RUNNER.get_variables(self.name)
        self.admin_password = known["test_admin_password"]
        owner, logins = known["postgresql_owner_password"], known["postgresql_logins"]
        self.password = {"owner": owner, "a": logins[0]["password"], "b": logins[1]["password"]}

    def sql(self, statement, database="postgres"):
        """Return what the superuser is answered on the host."""
        command = "runuser -u postgres -- psql --no-psqlrc --quiet --tuples-only --no-align"
        return self.host.check_output(f"{command} -d %s -c %s", database, statement)

    def connect(self, user, password, database, **more):
        """Log in over the network."""
        where = {"host": self.address, "dbname": database, "user": user, "password": password}
        where |= {"sslmode": "require", "connect_timeout": 10}
        connection = psycopg2.connect(**where | more)
        connection.autocommit = True
        return connection

    def log_in(self, database, role):
        """Log in as `owner`, `a` or `b` of a database."""
        return self.connect(f"{database}_{role}", self.password[role], database)

    def make(self, check=False, **more):
        """Make the database `lab` as the module does, as an administrator who is no superuser.

        With `turn` let its logins take turns.
        """
        given = {"name": "lab", "owner": "lab_owner", "group": "lab_readwrite"}
        given |= {"logins": ["lab_a", "lab_b"], "passwords": self.passwords()}
        given |= {"admin_host": self.address, "admin_port": 5432, "admin_user": "master"}
        given |= {"admin_password": self.admin_password, "admin_database": "postgres"}
        given |= {"sslmode": "require", "ca": "", "python": ""}
        given |= {"serving": [], "kept": [], "patience": 5}
        return ask(Turn if "turn" in more else Database, given | more, check).plan

    def passwords(self, **more):
        """Return the passwords of the roles of `lab`, with others for `owner`, `a` or `b`."""
        return {f"lab_{role}": word for role, word in (self.password | more).items()}

    def everything(self):
        """Return all roles, their rights and comments, and all databases."""
        return self.sql(
            "SELECT * FROM pg_roles ORDER BY oid; SELECT rolname, rolpassword, "
            "shobj_description(oid, 'pg_authid') FROM pg_authid ORDER BY oid; "
            "SELECT * FROM pg_auth_members ORDER BY roleid, member; "
            "SELECT datname, datdba, datacl FROM pg_database ORDER BY oid"
        )

    def clean(self):
        """Remove whatever is called `lab`."""
        self.host.check_output(
            "runuser -u postgres -- psql --quiet -c 'DROP DATABASE IF EXISTS lab WITH (FORCE)' -c "
            "'DROP SCHEMA IF EXISTS theirs CASCADE' -c "
            "'DROP ROLE IF EXISTS lab_a, lab_b, lab_owner, lab_readwrite'"
        )


@pytest.fixture
def server(host):
    return Server(host)


@pytest.fixture
def lab(server):
    """Return the server, in which whatever is called `lab` is gone before and after the test."""
    server.clean()
    yield server
    server.clean()


@pytest.fixture
def servers():
    """Return the servers of all hosts, for what a playbook does on each of them at once."""
    names = scenario.hosts_of(group)
    return [Server(testinfra.get_host(f"podman://{name}")) for name in names]


@pytest.fixture
def labs(servers):
    """Return the servers, as `lab` does."""
    for server in servers:
        server.clean()
    yield servers
    for server in servers:
        server.clean()


@pytest.fixture
def control():
    """The control side of all hosts."""
    return Control(INVENTORY, group)


def attempt(connection, *statements):
    """Return what becomes of each statement: `done`, or the name of the error."""
    said = []
    for statement in statements:
        try:
            connection.cursor().execute(statement)
            said.append("done")
        except psycopg2.Error as error:
            said.append(type(error).__name__)
    return said


def refusal(function, *words, **more):
    """Return the words of a refusal, which are never a secret."""
    with pytest.raises(Refused) as refused:
        function(*words, **more)
    text = str(refused.value)
    assert text.startswith("Wanted ") and "; found" in text and "canary" not in text
    return text


@pytest.mark.parametrize("database", DATABASES)
def test_a_login_uses_the_tables_that_the_owner_makes_later(server, database):
    """A migration makes tables; nobody should have to think of rights then. But whoever gets hold
    of a login must not be able to change or drop any, or to make some elsewhere."""
    owner = server.log_in(database, "owner")
    make = "CREATE TABLE later (id serial PRIMARY KEY, name text)"
    assert attempt(owner, "DROP TABLE IF EXISTS later", make) == ["done"] * 2
    allowed = [
        "INSERT INTO later (name) VALUES ('Ω')",
        "UPDATE later SET name = 'ß'",
        "SELECT * FROM later",
        "DELETE FROM later",
    ]
    denied = [
        "CREATE TABLE mine (id int)",
        "CREATE TEMPORARY TABLE mine (id int)",
        "CREATE SCHEMA mine",
        "ALTER TABLE later ADD COLUMN more int",
        "DROP TABLE later",
        "TRUNCATE later",
        f"SET ROLE {database}_owner",
    ]
    login = server.log_in(database, "a")
    assert attempt(login, *allowed) == ["done"] * len(allowed)
    assert attempt(login, *denied) == ["InsufficientPrivilege"] * len(denied)


@pytest.mark.parametrize("database", DATABASES)
def test_any_password_logs_in_over_tls_and_no_other_does(server, database):
    """Quotes, spaces and letters of the world, through Ansible, SCRAM and libpq."""
    for role in "owner", "a":
        cursor = server.log_in(database, role).cursor()
        cursor.execute("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
        assert cursor.fetchone() == (True,)
        with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
            server.connect(f"{database}_{role}", server.password[role] + "x", database)


def test_nobody_gets_in_without_tls(server):
    """Metadata would pass every switch in clear."""
    with pytest.raises(psycopg2.OperationalError, match="no pg_hba.conf entry.* no encryption"):
        server.connect("mlflow_a", server.password["a"], "mlflow", sslmode="disable")


def test_others_cannot_even_connect(server):
    """By default every role of a server may connect to each of its databases."""
    with pytest.raises(psycopg2.OperationalError, match="permission denied for database"):
        server.connect("delegated_a", server.password["a"], "mlflow")


def test_text_of_the_world_is_kept(server):
    """A server that was made under a plain locale would give a database that knows ASCII alone."""
    cursor = server.log_in("mlflow", "a").cursor()
    cursor.execute("SELECT pg_encoding_to_char(encoding), 'Ä' ILIKE 'ä' FROM pg_database "
                   "WHERE datname = current_database()")  # fmt: skip
    assert cursor.fetchone() == ("UTF8", True)


def test_the_role_lets_logins_take_turns_on_the_servers_host(control, labs):
    """As the superuser there, whom no password leads in; and never back to a former password."""
    # The hosts have the same passwords.
    words = [{"name": f"lab_{role}", "password": labs[0].password[role]} for role in "ab"]
    turn = {"playbook": "molecule/postgresql/turn.yml", "postgresql_logins": words}
    control.converge(**turn, test_serving="lab_a")
    assert all(lab.log_in("lab", "b") for lab in labs)
    said = control.converge(**turn, test_serving="lab_b")
    assert re.findall(r"changed=(\d+)", said) == ["0", "0"] and "canary" not in said, said
    assert all(lab.log_in("lab", "b") for lab in labs)
    words[0]["password"] = "canary-new 'ß\""
    control.converge(**turn, test_serving="lab_b")
    for lab in labs:
        assert lab.connect("lab_a", "canary-new 'ß\"", "lab")
        with pytest.raises(psycopg2.OperationalError, match="not permitted to log in"):
            lab.log_in("lab", "b")


def test_the_journal_has_no_password(host):
    """Ansible notes a module's options there, and stars what it takes for user:password@host: here
    all between the first password's colon and the owner's @. So what follows that is looked for,
    too, as far as no quote is in it."""
    owner = RUNNER.get_variables(host.backend.name)["postgresql_owner_password"]
    shown = ["canary", owner.split("@")[1].split('"')[0]]
    journal = host.check_output("journalctl --no-pager --all")
    assert re.search(r"ansible-\S*postgresql_database\[\d+\]: Invoked with", journal)
    assert [each for each in shown if each in journal] == []


def test_no_log_and_no_file_has_a_password(lab):
    """The server notes every statement that makes a role."""
    lab.make()
    log = lab.host.check_output("cat /var/log/postgresql/*.log")
    assert re.search(r"CREATE ROLE \"?lab_a\"? LOGIN PASSWORD 'SCRAM-SHA-256", log), log[-3000:]
    assert "canary" not in log
    planted = "/var/tmp/planted"
    lab.host.check_output("echo canary > %s", planted)
    folders = "/etc /home /opt /root /tmp /var"
    # Not those of processes, which come and go.
    found = lab.host.check_output(f"grep -rl --exclude-dir=apt canary {folders}").split()
    lab.host.check_output("rm %s", planted)
    assert found == [planted]


def test_check_mode_tells_and_changes_nothing(lab):
    """On an empty server, where there is no database yet to look into, and later."""
    before = lab.everything()
    plan = lab.make(check=True)
    assert "database lab" in plan and "role lab_a" in plan
    assert lab.everything() == before
    lab.make()
    admin = lab.connect("master", lab.admin_password, "postgres")
    assert attempt(admin, "REVOKE lab_readwrite FROM lab_a") == ["done"]
    before = lab.everything()
    assert lab.make(check=True) == ["lab_a in lab_readwrite"]
    assert lab.everything() == before
    assert lab.make() == ["lab_a in lab_readwrite"]


def test_rights_that_were_taken_away_are_given_again(lab):
    """Also on tables that are older than the group's rights, as in a database that was restored."""
    lab.make()
    attempt(lab.log_in("lab", "owner"), 'CREATE TABLE "Odd ""one" (id serial)')
    lab.sql(
        "REVOKE ALL ON ALL TABLES IN SCHEMA public FROM lab_readwrite; "
        "REVOKE ALL ON ALL SEQUENCES IN SCHEMA public FROM lab_readwrite; "
        "REVOKE CONNECT ON DATABASE lab FROM lab_readwrite; "
        "ALTER DEFAULT PRIVILEGES FOR ROLE lab_owner IN SCHEMA public "
        "REVOKE ALL ON TABLES FROM lab_readwrite",
        "lab",
    )
    plan = ["CONNECT", "1 tables", "tables to come", "1 sequences"]
    assert lab.make(check=True) == plan
    assert lab.make() == plan
    assert lab.make() == []
    insert = 'INSERT INTO "Odd ""one" DEFAULT VALUES'
    assert attempt(lab.log_in("lab", "a"), insert) == ["done"]


def test_a_schema_that_everybody_may_write_to_is_closed(lab):
    """As in a database from before PostgreSQL 15; who may not close it says what to do."""
    lab.make()
    lab.sql("ALTER SCHEMA public OWNER TO postgres; GRANT CREATE ON SCHEMA public TO PUBLIC", "lab")
    assert "ALTER SCHEMA public OWNER TO pg_database_owner" in refusal(lab.make)
    lab.sql("ALTER SCHEMA public OWNER TO pg_database_owner", "lab")
    assert lab.make() == ["CREATE of PUBLIC"]
    assert attempt(lab.log_in("lab", "a"), "CREATE TABLE x ()") == ["InsufficientPrivilege"]
    assert attempt(lab.log_in("lab", "owner"), "CREATE TABLE x ()") == ["done"]


def test_a_new_password_of_the_owner_takes_the_place_of_the_old_one(lab):
    """Although it is the owner who then gives the rights."""
    lab.make()
    words = lab.passwords(owner="canary new-ß")
    assert lab.make(passwords=words) == ["password of lab_owner"]
    assert lab.make(passwords=words) == []
    lab.connect("lab_owner", "canary new-ß", "lab")
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        lab.log_in("lab", "owner")


def test_another_password_of_a_login_is_refused(lab):
    """A server that uses it would be locked out by a mere run of site.yml."""
    lab.make()
    before = lab.everything()
    said = refusal(lab.make, passwords=lab.passwords(a="canary new"))
    assert "rotate_database_password.yml" in said and lab.everything() == before


def test_a_login_at_rest_stays_at_rest(lab):
    """Of two logins that take turns one has lost its LOGIN for good reason."""
    lab.make()
    assert lab.sql("SELECT rolcanlogin FROM pg_roles WHERE rolname = 'lab_b'") == "f"
    before = lab.everything()
    assert lab.make() == []
    assert lab.make(passwords=lab.passwords(b="new")) == []
    assert lab.everything() == before


def test_two_logins_take_turns(lab):
    """Both log in between the halves, so servers can change over one by one; then only the new."""
    lab.make()
    for comes, leaves, words in (("b", "a", {}), ("a", "b", {"a": "canary new ß"})):
        words = lab.passwords(**words)
        given = {"serving": [f"lab_{leaves}"], "passwords": words}
        assert lab.make(turn="awake", check=True, **given) == lab.make(turn="awake", **given)
        lab.connect(f"lab_{comes}", words[f"lab_{comes}"], "lab").close()
        lab.connect(f"lab_{leaves}", words[f"lab_{leaves}"], "lab").close()
        assert lab.make(turn="awake", **given) == [], "it goes on after a kill"
        assert lab.make(passwords=words) == [], "site.yml does not mind"
        given |= {"serving": [f"lab_{comes}"], "kept": [f"lab_{leaves}"]}
        assert f"NOLOGIN of lab_{leaves}" in lab.make(turn="rest", **given)
        assert lab.make(turn="rest", **given) == []
        assert lab.make(passwords=words) == []
        lab.connect(f"lab_{comes}", words[f"lab_{comes}"], "lab").close()
        with pytest.raises(psycopg2.OperationalError, match="not permitted to log in"):
            lab.connect(f"lab_{leaves}", words[f"lab_{leaves}"], "lab")


def test_a_former_password_does_not_come_back(lab):
    """It is found without giving the role its LOGIN first."""
    lab.make()
    lab.make(turn="awake", serving=["lab_a"])
    lab.make(turn="rest", serving=["lab_b"])
    before = lab.everything()
    assert lab.make(turn="awake", serving=["lab_b"]) == []
    assert lab.everything() == before


def test_who_is_still_logged_in_is_named_and_goes_on(lab):
    """An administrator who is no superuser does not see by himself from where somebody comes."""
    lab.make()
    session = lab.connect("lab_a", lab.password["a"], "lab", application_name="notebook")
    here = session.cursor()
    here.execute("SELECT pg_backend_pid(), host(inet_client_addr())")
    process, address = here.fetchone()
    lab.make(turn="awake", serving=["lab_a"])
    before = lab.everything()
    said = refusal(lab.make, turn="rest", serving=["lab_b"], patience=1)
    assert f"after 1 s process {process} from {address} (notebook); end what" in said
    assert lab.everything() == before
    ends = threading.Timer(1, session.close)
    ends.start()
    assert "NOLOGIN of lab_a" in lab.make(turn="rest", serving=["lab_b"])


def test_the_password_of_a_login_in_use_stays(lab):
    """Somebody changes the vault in the middle of a rotation: servers that moved use the former."""
    lab.make()
    lab.make(turn="awake", serving=["lab_a"])
    before = lab.everything()
    session = lab.log_in("lab", "b")
    for serving in (["lab_a"], ["lab_a", "lab_b"]):
        words = lab.passwords(b="canary new")
        said = refusal(lab.make, turn="awake", serving=serving, passwords=words)
        assert "put the former password back" in said and lab.everything() == before
        session.close()


@pytest.mark.parametrize(
    ("theirs", "phrase"),
    [
        ("CREATE ROLE lab_a LOGIN SUPERUSER", "found that it is a superuser"),
        ("CREATE ROLE lab_a LOGIN PASSWORD 'x'", "found that it is no member of lab_readwrite"),
        ("CREATE ROLE lab_a LOGIN; CREATE SCHEMA theirs AUTHORIZATION lab_a", "it owns things"),
        ("CREATE ROLE lab_owner LOGIN CREATEDB", "found that it is a superuser, or may create"),
        ("CREATE ROLE lab_readwrite LOGIN", "found that it may log in"),
        ("CREATE DATABASE lab", "found that postgres owns it"),
    ],
)  # fmt: skip
def test_what_is_somebody_elses_is_refused_and_stays(lab, theirs, phrase):
    """A name that is taken is a slip of the pen, or an application whose password would change."""
    lab.sql(theirs)
    before = lab.everything()
    assert phrase in refusal(lab.make)
    assert lab.everything() == before


@pytest.mark.parametrize(
    ("more", "phrase"),
    [
        ({"admin_password": "canary-wrong"}, "correct postgresql_admin_password"),
        ({"admin_port": 9}, "found: connection to server at"),
        ({"admin_host": "nowhere.invalid"}, "correct postgresql_admin_host"),
        ({"sslmode": "disable"}, "no encryption; add the host's network"),
        ({"admin_user": "mlflow_a"}, "correct postgresql_admin_password"),
    ],
)
def test_an_administrator_who_does_not_get_in_is_told_why(lab, more, phrase):
    """Wanted, found and what to do, but never a password."""
    before = lab.everything()
    assert phrase in refusal(lab.make, **more)
    assert lab.everything() == before


@pytest.mark.parametrize("right", ["CREATEROLE", "CREATEDB"])
def test_an_administrator_who_lacks_a_right_is_told_which(lab, right):
    """Found out before the server says no in the middle."""
    lab.sql(f"ALTER ROLE master NO{right}")
    try:
        assert f"found that master lacks {right}; run ALTER ROLE" in refusal(lab.make)
    finally:
        lab.sql(f"ALTER ROLE master {right}")


def test_an_administrator_from_before_an_upgrade_is_told_what_he_lacks(lab):
    """From PostgreSQL 16 on CREATEROLE alone alters no role, and an upgrade adds nothing to it."""
    lab.make()
    lab.sql(
        "REVOKE lab_owner, lab_readwrite, lab_a, lab_b FROM master CASCADE; "
        "GRANT lab_readwrite TO lab_a, lab_b"
    )
    newer = int(lab.sql("SHOW server_version_num")) >= 160000
    before = lab.everything()
    assert lab.make() == [], "nothing is to be altered"
    turn = {"turn": "awake", "serving": ["lab_a"]}
    for check in (True, False) if newer else ():
        said = refusal(lab.make, check, **turn)
        assert "run `GRANT lab_a, lab_b TO master WITH ADMIN OPTION` as a superuser" in said
        assert lab.everything() == before
    if newer:
        lab.sql("GRANT lab_a, lab_b TO master WITH ADMIN OPTION")
    assert lab.make(check=True, **turn) == lab.make(**turn) != []
    assert "NOLOGIN of lab_a" in lab.make(turn="rest", serving=["lab_b"])


def test_a_server_that_asks_for_no_password_is_refused(lab):
    """Behind `trust` every password would pass for the wanted one, and stay as it is."""
    lab.make()
    hba = lab.sql("SHOW hba_file")
    lab.host.check_output(f"sed -i '1i hostssl all lab_a all trust' {hba}")
    lab.sql("SELECT pg_reload_conf()")
    try:
        assert "lets it in without one; replace trust" in refusal(lab.make)
    finally:
        lab.host.check_output(f"sed -i 1d {hba}")
        lab.sql("SELECT pg_reload_conf()")


def test_a_run_killed_anywhere_is_finished_by_the_next(lab, monkeypatch):
    """A database cannot be made in a transaction together with its roles and rights."""
    real, left = Database.carry_out, 0

    def carry_out(database, connection, steps, **more):
        nonlocal left
        if steps and left == 0:
            raise Killed
        left -= bool(steps)
        real(database, connection, steps, **more)

    monkeypatch.setattr(Database, "carry_out", carry_out)
    for kill in range(9):
        lab.clean()
        left = kill
        with contextlib.suppress(Killed):
            lab.make()
            break
        left = -1
        lab.make()
        assert lab.make() == []
        assert attempt(lab.log_in("lab", "owner"), "CREATE TABLE x ()") == ["done"]
        assert attempt(lab.log_in("lab", "a"), "SELECT FROM x") == ["done"]
    assert kill == 4, "roles; membership; database; rights"


def test_two_hosts_can_make_it_at_once(lab):
    """Tracking servers that share a database are set up side by side."""
    plans = []
    threads = [threading.Thread(target=lambda: plans.append(lab.make())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(bool, plans)) == [False, False, True]


def test_what_others_wrote_into_pg_hba_stays(control, servers):
    """It may be an existing server; and what was changed of ours by hand is put right."""
    ours = "hostssl all all samenet scram-sha-256"
    first, last = "# Theirs, the first\n", "hostssl theirs theirs 192.0.2.0/24 scram-sha-256\n"
    files = [(server, server.host.file(server.sql("SHOW hba_file"))) for server in servers]
    wanted = [file.content_string for _, file in files]
    for (server, file), text in zip(files, wanted, strict=True):
        assert ours in text
        drifted = first + text.replace(ours, "host all all all trust") + last
        server.host.check_output(f"printf %s %s > {file.path}", "%s", drifted)
    control.converge(playbook=PLAYBOOK)
    for (server, file), text in zip(files, wanted, strict=True):
        assert file.content_string == first + text + last
        assert server.sql("SELECT pg_conf_load_time() > modification FROM pg_stat_file("
                          "current_setting('hba_file'))") == "t"  # fmt: skip
        server.host.check_output(f"sed -i '1d;$d' {file.path}")
        server.sql("SELECT pg_reload_conf()")


def test_settings_with_which_it_does_not_start_are_taken_back(control, servers):
    """What only a start shows. The others of the server wait for half a second, not for a night."""
    for server in servers:
        server.sql("ALTER SYSTEM SET log_connections = off")
    settings = {"log_statement": "ddl", "shared_buffers": "4TB"}
    said = control.refuse(playbook=PLAYBOOK, postgresql_settings=settings)
    for server in servers:
        (told,) = re.findall(rf"\[{server.name}\]: FAILED! (.*?The former files are back)", said)
        assert "Cannot allocate memory" in told
        assert server.log_in("mlflow", "a")
    settings = {"log_statement": "ddl", "log_connections": True}
    said = control.refuse(playbook=PLAYBOOK, postgresql_settings=settings)
    for server in servers:
        server.sql("ALTER SYSTEM RESET log_connections")
    remedy = "postgresql.auto.conf; remove it there, with ALTER SYSTEM RESET"
    assert said.count(remedy) >= len(servers), said
    said = control.converge(playbook=PLAYBOOK)
    assert re.findall(r"changed=(\d+)", said) == ["0"] * len(servers)


def certificate(name, address):
    """Return a certificate that is its own authority, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    who = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName(name), x509.IPAddress(ipaddress.ip_address(address))]
    signed = (
        x509.CertificateBuilder(who, who, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return signed.public_bytes(pem).decode(), key.private_bytes(pem, *form).decode()


def test_a_certificate_of_our_own_is_served_and_verified(control, labs):
    """With Debian's own, whoever stands between could be the server. A client that knows the
    authority must get in, another must not."""
    pairs = {lab.name: certificate(lab.name, lab.address) for lab in labs}
    started = [lab.sql("SELECT pg_postmaster_start_time()") for lab in labs]
    of_the_host = "{{ test_pairs[inventory_hostname][%d] }}"
    control.converge(
        playbook=PLAYBOOK,
        test_pairs=pairs,
        postgresql_tls_certificate=of_the_host % 0,
        postgresql_tls_key=of_the_host % 1,
    )
    keys = [
        lab.host.file(f"{os.path.dirname(lab.sql('SHOW hba_file'))}/ansible.key") for lab in labs
    ]
    for lab, key in zip(labs, keys, strict=True):
        assert (key.user, key.mode) == ("postgres", 0o600)
        assert lab.make(sslmode="verify-full", ca=pairs[lab.name][0]) != []
        other, _ = certificate("db", lab.address)
        said = refusal(lab.make, sslmode="verify-full", ca=other)
        assert "certificate verify failed" in said and "postgresql_ca" in said
    assert control.converge(playbook=PLAYBOOK).count("changed=1") == len(labs)
    for lab, key in zip(labs, keys, strict=True):
        assert not key.exists
        said = refusal(lab.make, sslmode="verify-full", ca=pairs[lab.name][0])
        assert "certificate" in said
    now = [lab.sql("SELECT pg_postmaster_start_time()") for lab in labs]
    assert now == started, "it was restarted"
