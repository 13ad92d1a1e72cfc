"""A PostgreSQL server, on a host of the imagination: every refusal, and a kill before each step."""

import datetime
import errno
import json
import os
import re
import ssl
import struct
import time
from ipaddress import ip_address
from pathlib import Path

import postgresql_server
import pytest
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.refusals import Refused
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from kills import Killable, Killed
from postgresql_server import BEGIN, END, MARKER, Server, network, quoted, with_block

HBA = "local all postgres peer\r\n# Jos\xe9's\nhost all all 127.0.0.1/32 scram-sha-256\n"
FIXED = {"listen_addresses", "port", "shared_buffers"}


def pair(name="db.example.com"):
    """Return a certificate and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    who = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(who, who, key.public_key(), x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return certificate.public_bytes(pem).decode(), key.private_bytes(pem, *form).decode()


class FakeHost(Killable):
    """Files, packages, systemd and PostgreSQL of one host, killed before its n-th action.

    As the real one does, the server keeps what it loaded last, takes some settings only when it is
    started, and does not start with settings that the machine cannot give.
    """

    def __init__(self, root: Path, monkeypatch):
        super().__init__()
        self.root = root
        self.packages = {"postgresql-17": "installed", "python3-psycopg2": "installed"}
        self.clusters, self.enabled = ["main"], True
        self.auto, self.hba_errors, self.included = {}, [], True
        self.others, self.databases = {}, []
        self.psql_error = ""
        self.folder = root / "etc/postgresql/17/main"
        self.data = root / "var/lib/postgresql/17/main"
        # The databases of initdb: template1, template0 and postgres.
        inside = [self.data / name for name in ("base/1", "base/4", "base/5", "pg_tblspc")]
        for folder in (self.folder / "conf.d", *inside, root / "proc/77", root / "proc/net"):
            folder.mkdir(parents=True)
        (root / "etc/os-release").write_text('ID=ubuntu\nID_LIKE="debian"\n')
        (self.folder / "pg_hba.conf").write_bytes(HBA.encode("latin-1"))
        (self.folder / "pg_hba.conf").chmod(0o640)
        self.conf = self.folder / "conf.d/zz-ansible.conf"
        self.hba = self.folder / "pg_hba.conf"
        self.log = root / "var/log/postgresql.log"
        self.alive = False
        self.listen({})
        self.start()
        # What the distribution wrote is older than the start.
        os.utime(self.hba, (0, 0))
        for name in ("replace", "unlink"):
            monkeypatch.setattr(Path, name, self.counted(name, getattr(Path, name)))
        monkeypatch.setattr(postgresql_server, "bind_error", self.bind_error)
        monkeypatch.setattr(postgresql_server, "served_certificate", self.served)
        monkeypatch.setattr(postgresql_server, "WAIT_SECONDS", 0)
        monkeypatch.setattr(postgresql_server.time, "sleep", lambda seconds: None)

    def counted(self, name, method):
        def wrapped(path, *args, **more):
            if path.is_relative_to(self.root) and (name == "replace" or path.exists()):
                self.act(f"{name} {path.name}")
            return method(path, *args, **more)

        return wrapped

    def listen(self, holders):
        """Let processes listen on port 5432, by {IPv6 address: (name, pid)}."""
        self.holders, lines = holders, ["sl local_address\n"]
        for address, (name, pid) in holders.items():
            words = struct.unpack("=4I", ip_address(address).packed)
            packed = "".join(f"{word:08X}" for word in words)
            lines.append(f"0: {packed}:{5432:04X} 0:0 0A 0 0 0 0 0 {pid}\n")
            folder = self.root / f"proc/{pid}"
            (folder / "fd").mkdir(parents=True, exist_ok=True)
            (folder / "comm").write_text(f"{name}\n")
            (folder / "fd/6").unlink(missing_ok=True)
            (folder / "fd/6").symlink_to(f"socket:[{pid}]")
        (self.root / "proc/net/tcp6").write_text("".join(lines))

    def bind_error(self, address, port):
        if address == ip_address("192.0.2.1"):
            return errno.EADDRNOTAVAIL
        ours = self.alive and port == int(self.running["port"])
        return errno.EADDRINUSE if ours or self.holders else 0

    def served(self, address, port, postgresql):
        if not self.alive or port != int(self.running["port"]):
            return b""
        return self.certificate

    # The server.

    def on_disk(self):
        """Return {name: (value, file)} of the settings, the last one winning."""
        found = {"listen_addresses": ("localhost", "main"), "port": ("5432", "main")}
        found |= {name: (value, "main") for name, value in self.others.items()}
        if self.conf.exists() and self.included:
            for name, value in re.findall(r"(?m)^(\w+) = '(.*)'$", self.conf.read_text()):
                found[name] = (value, "/etc/postgresql/17/main/conf.d/zz-ansible.conf")
        for name, value in self.auto.items():
            found[name] = (value, "/var/lib/postgresql/17/main/postgresql.auto.conf")
        return found

    def load(self, at_start=False):
        self.loaded = time.time()
        for name, (value, _) in self.on_disk().items():
            if at_start or name not in FIXED:
                self.running[name] = value
        self.access = self.hba.read_bytes()
        file = self.running.get("ssl_cert_file")
        text = Path(file).read_text() if file else ""
        self.certificate = ssl.PEM_cert_to_DER_cert(text) if text else b"snakeoil"

    def start(self):
        self.alive, self.running = False, {}
        if self.on_disk().get("shared_buffers", ("", ""))[0] == "4TB":
            self.log.parent.mkdir(parents=True, exist_ok=True)
            self.log.write_text("x LOG:  statement: SELECT 'canary'\nx FATAL:  no such memory\n")
            (self.data / "postmaster.pid").open("w").close()
            return 1
        self.load(at_start=True)
        self.alive = True
        lines = ["77", "data", "0", self.running["port"], "/run/postgresql", "localhost"]
        (self.data / "postmaster.pid").write_text("\n".join(lines))
        return 0

    def stop(self):
        self.alive = False
        (self.data / "postmaster.pid").unlink()

    def look(self):
        settings = [
            {"name": name, "file": file, "seqno": at}
            for at, (name, (_, file)) in enumerate(self.on_disk().items())
        ]
        values = {name: value for name, (value, _) in self.on_disk().items()}
        pending = [n for n in sorted(FIXED) if values.get(n) != self.running.get(n)]
        fixed = {"shared_buffers": "16384"} | {
            name: value for name, value in self.running.items() if name in FIXED
        }
        more = {
            "loaded": self.loaded,
            "hba_file": "/etc/postgresql/17/main/pg_hba.conf",
            "pending": pending or None,
            "fixed": fixed,
            "hba_errors": self.hba_errors or None,
            "databases": self.databases or None,
        }
        return f"{json.dumps(settings)}\n{json.dumps(more)}\n"

    def run(self, command, pass_fds=()):
        words = " ".join(command)
        self.act(words)
        if command[0] == "dpkg-query":
            return 0, "".join(f"{name} {state}\n" for name, state in self.packages.items()), ""
        if command[0] == "pg_lsclusters":
            cluster = {"version": 17, "configdir": "/etc/postgresql/17/main"}
            cluster |= {"pgdata": "/var/lib/postgresql/17/main", "logfile": str(self.log)}
            cluster |= {"owneruid": os.geteuid(), "ownergid": os.getegid()}
            return 0, json.dumps([cluster | {"cluster": name} for name in self.clusters]), ""
        if "-C" in command:
            with open(f"/proc/self/fd/{pass_fds[0]}") as file:
                text = file.read()
            return (1, "", 'x LOG:  invalid "nope"\n') if "nope" in text else (0, "5432\n", "")
        if "psql" in words and self.psql_error:
            return 2, "", self.psql_error
        if "psql" in words:
            return (0, self.look(), "") if self.alive else (2, "", "no server")
        if command[:2] == ["systemctl", "is-enabled"]:
            return 0, "enabled\n" if self.enabled else "disabled\n", ""
        if command[:2] == ["systemctl", "enable"]:
            self.enabled = True
        elif command[:2] == ["systemctl", "reload"]:
            self.load()
        elif command[:2] in (["systemctl", "start"], ["systemctl", "restart"]):
            return self.start(), "", "Job failed."
        else:
            raise AssertionError(f"no such command: {words}")
        return 0, "", ""

    def ensure(self, **wanted):
        """Run the module, as Ansible would; return what it did."""
        params = {
            "listen_addresses": ["*"],
            "port": 5432,
            "allowed_networks": ["10.0.0.0/16"],
            "settings": {},
            "tls_certificate": "",
            "tls_key": "",
        }
        server = Server(params | wanted, self.run, self.root)
        plan = server.plan()
        if plan and "install" not in plan:
            server.carry_out(plan)
        return plan

    def files(self):
        return {path: path.read_bytes() for path in self.folder.rglob("*") if path.is_file()}


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A host on which PostgreSQL runs as the distribution left it."""
    return FakeHost(tmp_path, monkeypatch)


def refusal(host, **wanted):
    """Return the words of a refusal, after seeing that nothing but looks was done."""
    before, host.actions = host.files(), []
    with pytest.raises(Refused) as refused:
        host.ensure(**wanted)
    assert host.files() == before
    assert not [a for a in host.actions if a.startswith(("replace", "unlink", "systemctl re"))]
    text = str(refused.value)
    assert text.startswith("Wanted ") and "; found" in text
    return text


def test_the_first_run_opens_the_server_and_the_second_does_nothing(host):
    """Addresses need a restart, and only they and their like do."""
    assert host.ensure() == ["settings", "access", "reload", "restart"]
    assert host.running["listen_addresses"] == "*" and host.running["ssl"] == "on"
    assert host.ensure() == []
    host.actions = []
    assert host.ensure(settings={"log_statement": "ddl"}) == ["settings", "reload"]
    assert not [action for action in host.actions if action.startswith("systemctl restart")]
    assert host.running["log_statement"] == "ddl"


def test_everything_else_in_pg_hba_stays_to_the_byte(host):
    """Line ends, an umlaut in another encoding, the mode: an operator finds his file again."""
    host.ensure()
    text = host.hba.read_bytes().decode("latin-1")
    block = "\n".join(
        [
            BEGIN,
            "hostssl all all samehost scram-sha-256",
            "hostssl all all 10.0.0.0/16 scram-sha-256",
            END,
            "",
        ]
    )
    assert text == HBA + block
    assert host.hba.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", f"{BEGIN}\nnew\n{END}\n"),
        ("no end", f"no end\n{BEGIN}\nnew\n{END}\n"),
        (f"a\n{BEGIN}\nold\n{END}\nb\n", f"a\n{BEGIN}\nnew\n{END}\nb\n"),
    ],
)
def test_the_block_is_replaced_where_it_stands(text, expected):
    """The first line that fits decides, so the order is the operator's."""
    assert with_block(text, ["new"]) == expected


@pytest.mark.parametrize("text", [f"{BEGIN}\nx\n", f"{END}\n", f"{BEGIN}\n{END}\n" * 2])
def test_half_a_block_is_refused(text):
    """A guess where it ends would eat lines of others."""
    with pytest.raises(Refused, match="found a part of one, or several"):
        with_block(text, ["new"])


@pytest.mark.parametrize(
    ("value", "expected"),
    [("a'b", "'a''b'"), ("a\\b", "'a\\\\b'"), ("a\nb", "'a\\nb'"), ("5432", "'5432'")],
)
def test_a_value_cannot_end_its_quotes(value, expected):
    assert quoted(value) == expected


@pytest.mark.parametrize("text", ["10.0.0.1/16", "all", "db.example.com", "0.0.0.0/0 trust"])
def test_what_is_no_network_is_refused(text):
    """A word too many in pg_hba.conf could be `trust`."""
    with pytest.raises(Refused, match="postgresql_allowed_networks; found"):
        network(text)


def test_a_certificate_is_loaded_renewed_and_given_back(host):
    """What counts is the certificate with which the server answers, not the file."""
    first, second = pair(), pair()
    plan = host.ensure(tls_certificate=first[0], tls_key=first[1])
    assert plan == ["certificate", "settings", "access", "reload", "restart"]
    assert (host.folder / "ansible.key").stat().st_mode & 0o777 == 0o600
    assert host.ensure(tls_certificate=first[0], tls_key=first[1]) == []
    assert host.ensure(tls_certificate=second[0], tls_key=second[1]) == ["certificate", "reload"]
    host.certificate = b"another"
    assert host.ensure(tls_certificate=second[0], tls_key=second[1]) == ["reload"]
    assert host.ensure() == ["certificate", "settings", "reload"]
    assert not (host.folder / "ansible.key").exists()


def test_a_key_of_another_certificate_is_refused(host):
    """The server would go on with the old one, and not start the next time."""
    said = refusal(host, tls_certificate=pair()[0], tls_key=pair()[1])
    assert "found: " in said and "postgresql_tls_key" in said
    assert "found one of them" in refusal(host, tls_key="x")


@pytest.mark.parametrize(
    ("wanted", "phrase"),
    [
        ({"settings": {"port": 1}}, "found port; use postgresql_port instead"),
        ({"settings": {"a b": 1}}, "found a b; correct it"),
        ({"settings": {"log_statement": "nope"}}, 'found: invalid "nope"; correct that'),
        ({"port": 70000}, "found ['*'] and 70000"),
        ({"listen_addresses": []}, "found [] and 5432"),
        ({"listen_addresses": ["192.0.2.1"]}, "Cannot assign requested address"),
    ],
)
def test_a_variable_that_cannot_work_is_refused(host, wanted, phrase):
    assert phrase in refusal(host, **wanted)


def test_a_port_of_somebody_else_is_refused_with_the_holder(host):
    """Ours may be there already, at another address."""
    host.listen({"::1": ("postgres", 77)})
    assert host.ensure() != []
    host.listen({"::1": ("postgres", 77), "::2": ("pgbouncer", 88)})
    said = refusal(host, listen_addresses=["*"], allowed_networks=[])
    assert "found process 88 (pgbouncer) listening there" in said
    (host.root / "proc/88/fd/6").unlink()
    said = refusal(host, listen_addresses=["*"], allowed_networks=[])
    assert "found process 0 (unknown) listening there" in said, "one that nobody can see"


def test_a_host_of_another_family_is_refused(host):
    (host.root / "etc/os-release").write_text('ID="rocky"\nPRETTY_NAME="Rocky Linux 9.4"\n')
    assert "found Rocky Linux 9.4" in refusal(host)


@pytest.mark.parametrize(("clusters", "found"), [([], "none"), (["main", "b"], "17/main, 17/b")])
def test_other_than_one_cluster_is_refused(host, clusters, found):
    """Which of two is meant nobody can know."""
    host.clusters = clusters
    assert f"found {found};" in refusal(host)


def test_a_setting_that_others_overrule_is_refused_and_taken_back(host):
    """ALTER SYSTEM wins over every file: the operator would believe what does not hold."""
    host.auto = {"log_statement": "all"}
    before = host.files()
    with pytest.raises(Refused, match="set in .*auto.conf; remove it there, with ALTER SYSTEM"):
        host.ensure(settings={"log_statement": "ddl"})
    assert host.files() == before
    # Nothing is left to be loaded of what was put back.
    host.auto, host.actions = {}, []
    host.ensure()
    host.auto = {"ssl": "off"}
    assert "found it set in" in refusal(host)


def test_a_conf_d_that_is_not_included_is_refused(host):
    host.included = False
    before = host.files()
    with pytest.raises(Refused, match="include_dir = 'conf.d'"):
        host.ensure()
    assert host.files() == before


def test_errors_of_others_in_pg_hba_are_named(host):
    """The server ignores the whole file then, and says so in its log alone."""
    host.hba_errors = ["line 3: invalid IP mask"]
    assert "found line 3: invalid IP mask" in refusal(host)


def test_a_file_of_somebody_else_in_our_place_is_refused(host):
    host.conf.write_text("work_mem = '1GB'\n")
    assert "zz-ansible.conf to be this role's" in refusal(host)


def test_a_server_that_does_not_start_with_the_settings_goes_back(host):
    """What only a start shows: the former files return, and the server with them."""
    host.ensure()
    before = host.files()
    with pytest.raises(Refused) as refused:
        host.ensure(settings={"shared_buffers": "4TB"})
    assert "no such memory" in str(refused.value)
    assert "canary" not in str(refused.value), "what others asked the server"
    assert host.files() == before and host.alive
    assert host.ensure() == []


@pytest.mark.parametrize(
    ("theirs", "ours", "phrase"),
    [
        ("*", ["localhost"], "postgresql_listen_addresses: ['*']"),
        ("127.0.0.1, 192.0.2.7", ["127.0.0.1"], "postgresql_listen_addresses: ['127.0.0.1', '192"),
        ("0.0.0.0", ["::"], "postgresql_listen_addresses: ['0.0.0.0']"),
    ],
)
def test_an_address_of_a_server_that_others_use_is_not_closed(host, theirs, ours, phrase):
    """Our defaults would take it from `*` back to localhost, and its clients off it."""
    host.databases, host.others = ["shop"], {"listen_addresses": theirs}
    host.start()
    said = refusal(host, listen_addresses=ours)
    assert "found shop in one that listens" in said and phrase in said
    host.databases = []
    assert "settings" in host.ensure(listen_addresses=ours), "the distribution's own, with nothing"


def test_a_port_of_a_server_that_others_use_is_kept(host):
    """Its clients have the port in their settings."""
    host.databases, host.others = ["shop"], {"port": "5433"}
    host.start()
    assert "set postgresql_port: 5433" in refusal(host)
    host.ensure(port=5433)
    assert host.running["port"] == "5433"
    host.ensure(port=5434, listen_addresses=["localhost"])
    assert host.running["port"] == "5434", "whoever changes a variable later means it"


def test_more_addresses_for_a_server_that_others_use_are_no_loss(host):
    host.databases, host.others = ["shop"], {"listen_addresses": "localhost"}
    host.start()
    host.ensure(listen_addresses=["*"])
    assert host.running["listen_addresses"] == "*"


@pytest.mark.parametrize("place", ["base/16385", "pg_tblspc/16384"])
def test_a_stopped_server_with_databases_of_others_is_to_be_started_first(host, place):
    """In maintenance it cannot be asked whom our address and port would cut off. Whoever made a
    database, it has a folder or, in a tablespace, a link to one."""
    (host.data / place).mkdir()
    host.databases, host.others = ["shop"], {"listen_addresses": "*"}
    host.stop()
    said = refusal(host, listen_addresses=["localhost"])
    assert "found it stopped, and databases of others in /" in said and "; start it" in said
    assert not host.alive
    host.start()
    host.psql_error = "FATAL:  the database system is starting up"
    assert "found FATAL:  the database system is starting up, and" in refusal(host)
    host.psql_error = ""
    assert "found shop in one" in refusal(host, listen_addresses=["localhost"])
    host.ensure()
    host.stop()
    assert host.ensure() == ["start"], "ours has been asked"


def test_a_server_that_was_never_started_is_started_whatever_kills_the_run(tmp_path, monkeypatch):
    """Where a host lets no package start its service, there is nobody yet to be cut off."""
    for steps in range(1000):
        host = FakeHost(tmp_path / str(steps), monkeypatch)
        host.stop()
        (host.data / "base/pgsql_tmp").mkdir()
        host.left = steps
        try:
            assert host.ensure()[-1] == "start"
            break
        except Killed:
            host.left = None
        host.ensure()
        assert host.alive and host.running["listen_addresses"] == "*"
        assert host.ensure() == []
    assert 5 < steps < 1000


def test_a_name_that_no_longer_resolves_is_told_with_its_setting(host, monkeypatch):
    """Else the operator looks for it in his variable, which does not have it."""

    def getaddrinfo(name, *args, **more):
        if name == "gone.example":
            raise OSError("Name or service not known")
        return ask(name, *args, **more)

    ask = postgresql_server.socket.getaddrinfo
    monkeypatch.setattr(postgresql_server.socket, "getaddrinfo", getaddrinfo)
    said = refusal(host, listen_addresses=["gone.example"])
    assert "in postgresql_listen_addresses; found gone.example (Name" in said
    host.databases, host.others = ["shop"], {"listen_addresses": "localhost, gone.example"}
    host.start()
    said = refusal(host)
    assert "in the server's own listen_addresses; found gone.example (Name" in said
    assert "postgresql_listen_addresses" not in said and "restart the server" in said


def test_what_is_not_installed_is_installed_first(host):
    """Nothing can be read of a server that is not there; check mode ends well."""
    host.packages = {"python3-psycopg2": "installed"}
    assert host.ensure()[0] == "install"
    host.packages = {"postgresql-17": "half-configured"}
    assert host.ensure()[0] == "install"
    host.packages = {"postgresql-16": "installed"}
    assert host.ensure()[0] == "install"


def test_a_stopped_server_is_started_and_a_disabled_one_enabled(host):
    host.ensure()
    host.stop()
    host.enabled = False
    assert host.ensure() == ["enable", "start"]
    assert host.alive and host.enabled


def test_what_was_written_and_not_loaded_is_loaded(host):
    """A run may be killed between the two; the files alone then look as if all were done."""
    host.ensure()
    with pytest.raises(Killed):
        host.fatal = "systemctl reload"
        host.ensure(settings={"log_statement": "ddl"})
    assert "log_statement" in host.conf.read_text() and "log_statement" not in host.running
    assert host.ensure(settings={"log_statement": "ddl"}) == ["reload"]
    assert host.running["log_statement"] == "ddl"


def test_an_administrator_whom_the_socket_does_not_let_in_is_told_the_line(host):
    """Where somebody asks for a password on the socket too, it is not `not running`."""
    host.psql_error = 'FATAL:  Peer authentication failed for user "postgres"'
    assert "write `local all " in refusal(host)


def test_a_run_killed_anywhere_is_finished_by_the_next(tmp_path, monkeypatch):
    """Before every single step: the next run ends where an undisturbed one does."""
    certificate, key = pair()
    wanted = {
        "tls_certificate": certificate,
        "tls_key": key,
        "settings": {"log_statement": "ddl"},
        "port": 5433,
    }
    for steps in range(1000):
        host = FakeHost(tmp_path / str(steps), monkeypatch)
        host.left = steps
        try:
            host.ensure(**wanted)
            break
        except Killed:
            host.left = None
        host.ensure(**wanted)
        assert host.running["port"] == "5433" and host.running["log_statement"] == "ddl"
        assert host.access == host.hba.read_bytes() and END in host.hba.read_text("latin-1")
        assert host.certificate != b"snakeoil"
        assert host.conf.read_text().startswith(MARKER)
        assert host.ensure(**wanted) == []
    assert 14 < steps < 1000
