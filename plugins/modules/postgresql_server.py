#!/usr/bin/python
"""Configure Debian's PostgreSQL and apply the settings, in one round trip."""

from __future__ import annotations

DOCUMENTATION = r"""
module: postgresql_server
short_description: Settings, access and certificate of the only PostgreSQL server on a Debian host
description:
  - Checks for obstacles before any change, and refuses to close an address or the port of a server
    with databases of others, which has to run for this check.
  - Writes one file in C(conf.d), one marked block in C(pg_hba.conf) and, if given, a certificate
    with its key. Nothing else of the server is changed.
  - Invalid settings never take effect, and the former files are restored. The server is restarted
    only for settings given here that cannot be reloaded. What is left to do is read from the host,
    so the next run finishes what an interrupted one began.
options:
  listen_addresses:
    description: Addresses on which the server listens, C(*) for all.
    type: list
    elements: str
    required: true
  port: {description: TCP port on which it listens., type: int, required: true}
  allowed_networks:
    description: Networks from which roles may log in, only over TLS and with SCRAM.
    type: list
    elements: str
    default: []
  settings: {description: Further settings of postgresql.conf., type: dict, default: {}}
  tls_certificate:
    description: Certificate and its chain in PEM. Without one the server keeps its own.
    type: str
    default: ''
  tls_key: {description: Key of the certificate in PEM., type: str, default: ''}
author: The mlflow-ansible developers (@mlflow-ansible)
"""

EXAMPLES = r"""
- name: Allow tracking servers to log in
  mlflow_ansible.tracking.postgresql_server:
    listen_addresses: ['*']
    port: 5432
    allowed_networks: [10.0.0.0/16]
"""

RETURN = r"""
missing: {description: Packages that are not installed., type: list, returned: success}
plan: {description: What is (to be) done., type: list, elements: str, returned: success}
"""

import contextlib
import errno
import ipaddress
import json
import os
import pwd
import re
import socket
import ssl
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils import locks
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.accounts import acting_as
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.certificates import (
    check_pair,
    der,
    served_certificate,
)
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.files import in_memory, write
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.network import (
    bind_error,
    holders,
    listeners,
)
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.refusals import (
    Refused,
    refusing,
)
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.system import (
    HALF,
    package_states,
    require_debian,
)

MARKER = "# Written by Ansible (role postgresql): edits are lost.\n"
BEGIN = "# BEGIN Ansible (role postgresql): edits up to END are lost."
END = "# END Ansible (role postgresql)"
# Read after others' files in conf.d; only ALTER SYSTEM is read later.
SETTINGS = "conf.d/zz-ansible.conf"
CERTIFICATE = "ansible.crt"
KEY = "ansible.key"
OWN = {
    "listen_addresses": "postgresql_listen_addresses",
    "port": "postgresql_port",
    "ssl": "nothing, as passwords travel over TLS alone",
    "ssl_cert_file": "postgresql_tls_certificate",
    "ssl_key_file": "postgresql_tls_key",
}
WAIT_SECONDS = 30

# One line of JSON each. The first reads the files on disk, after which pending_restart in the
# second shows which of their settings need a restart, loaded or not.
LOOK = [
    "SELECT json_agg(json_build_object('name', name, 'file', sourcefile, 'seqno', seqno))"
    " FROM pg_file_settings",
    "SELECT json_build_object("
    "'loaded', extract(epoch FROM pg_conf_load_time()),"
    "'hba_file', current_setting('hba_file'),"
    "'databases', (SELECT json_agg(datname ORDER BY datname) FROM pg_database"
    " WHERE NOT datistemplate AND datname <> 'postgres'),"
    "'pending', (SELECT json_agg(name) FROM pg_settings WHERE pending_restart),"
    "'fixed', (SELECT json_object_agg(name, setting) FROM pg_settings"
    " WHERE context = 'postmaster'),"
    "'hba_errors', (SELECT json_agg(format('line %s: %s', line_number, error))"
    " FROM pg_hba_file_rules WHERE error IS NOT NULL))",
]


def quoted(text: str) -> str:
    """Return a value in postgresql.conf's syntax."""
    for char, escaped in (("\\", "\\\\"), ("'", "''"), ("\n", "\\n")):
        text = text.replace(char, escaped)
    return f"'{text}'"


def with_block(text: str, lines: list[str]) -> str:
    """Return the text of pg_hba.conf with this role's block, in its former place or at the end.

    The first matching line decides, so at the end it overrides nothing.
    """
    block = "\n".join([BEGIN, *lines, END, ""])
    whole = re.compile(rf"(?ms)^{re.escape(BEGIN)}\n.*?^{re.escape(END)}\n")
    found = len(whole.findall(text))
    if found > 1 or not found == text.count(BEGIN) == text.count(END):
        raise Refused(
            f"Wanted one block from '{BEGIN}' to '{END}' in pg_hba.conf, or none; found a part of "
            "one, or several; remove all of these lines and run again."
        )
    if found:
        return whole.sub(lambda _: block, text)
    return text + "\n" * (text != "" and not text.endswith("\n")) + block


def network(text: str) -> str:
    """Return a network in pg_hba.conf's syntax."""
    if text in ("samehost", "samenet"):
        return text
    try:
        return str(ipaddress.ip_network(text))
    except ValueError as error:
        raise Refused(
            "Wanted networks such as 10.0.0.0/16, or samenet, in postgresql_allowed_networks; "
            f"found {text} ({error}); correct it."
        ) from None


def check_certificate(certificate: str, key: str) -> None:
    """Refuse a certificate and a key that do not match."""
    if bool(certificate) != bool(key):
        raise Refused(
            "Wanted postgresql_tls_certificate and postgresql_tls_key, or neither; found one of "
            "them; give the other too."
        )
    if certificate:
        try:
            check_pair(certificate, key)
        except (ssl.SSLError, ValueError) as error:
            raise Refused(
                "Wanted a certificate in PEM and its key, without a passphrase; found: "
                f"{error}; correct postgresql_tls_certificate or postgresql_tls_key."
            ) from None


def resolve(
    name: str, setting: str = "postgresql_listen_addresses", remedy: str = "correct it"
) -> list:
    """Return the addresses that PostgreSQL resolves one of its listen_addresses to.

    Args:
        setting, remedy: For errors: where the name is set, and what to do.
    """
    if name == "*":
        return [ipaddress.ip_address("0.0.0.0"), ipaddress.ip_address("::")]
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise Refused(
            f"Wanted addresses of the host in {setting}; found {name} ({error}); {remedy}."
        ) from None
    return sorted({ipaddress.ip_address(entry[4][0]) for entry in found}, key=str)


class Server:
    """The PostgreSQL server of a host.

    Args:
        params: The module's parameters.
        run: Runs a command, given as a list, and returns (rc, stdout, stderr).
        root: Folder that stands for `/`.
    """

    def __init__(self, params: dict, run, root: Path = Path("/")):
        self.params, self.run, self.root = params, run, root
        self.port, self.listen = params["port"], params["listen_addresses"]
        self.cluster: dict = {}
        self.error = ""
        if taken := sorted(OWN.keys() & params["settings"].keys()):
            raise Refused(
                f"Wanted further settings in postgresql_settings; found {taken[0]}; use "
                f"{OWN[taken[0]]} instead."
            )
        if bad := [n for n in params["settings"] if not re.fullmatch(r"[A-Za-z_][\w.]*", n)]:
            raise Refused(
                f"Wanted names of settings in postgresql_settings; found {bad[0]}; correct it."
            )
        if not self.listen or not 0 < self.port < 65536:
            raise Refused(
                "Wanted an address in postgresql_listen_addresses and a postgresql_port from 1 to "
                f"65535; found {self.listen} and {self.port}; correct it."
            )
        check_certificate(params["tls_certificate"], params["tls_key"])
        networks = ["samehost", *map(network, params["allowed_networks"])]
        self.access = [f"hostssl all all {net} scram-sha-256" for net in dict.fromkeys(networks)]

    # State.

    def look(self) -> None:
        """Find the packages and the cluster."""
        other = "use such a host, or a server that is there already (entry point database)"
        require_debian(self.root, other)
        states = package_states(self.run, "postgresql*", "python3-psycopg2")
        there = {name for name, state in states.items() if state == "installed"}
        half = HALF & set(states.values())
        # Any version will do; without one the distribution's is installed.
        server = any(re.fullmatch(r"postgresql-\d+", name) for name in there) and not half
        wanted = {"postgresql": server, "python3-psycopg2": "python3-psycopg2" in there}
        self.missing = [name for name, ok in wanted.items() if not ok]
        self.cluster = self.find_cluster() if server else {}

    def find_cluster(self) -> dict:
        """Return pg_lsclusters' entry of the only cluster, and note its paths."""
        clusters = json.loads(self.must("pg_lsclusters", "--json"))
        if len(clusters) != 1:
            found = ", ".join(f"{each['version']}/{each['cluster']}" for each in clusters) or "none"
            raise Refused(
                f"Wanted one PostgreSQL cluster on the host; found {found}; make one with "
                "pg_createcluster, or drop those that nobody needs with pg_dropcluster."
            )
        cluster = clusters[0]
        self.binaries = f"/usr/lib/postgresql/{cluster['version']}/bin"
        self.unit = f"postgresql@{cluster['version']}-{cluster['cluster']}.service"
        self.user = pwd.getpwuid(cluster["owneruid"])
        self.folder = self.root / cluster["configdir"].lstrip("/")
        self.hba, self.conf = self.folder / "pg_hba.conf", self.folder / SETTINGS
        self.data = self.root / cluster["pgdata"].lstrip("/")
        return cluster

    def running(self) -> list[str]:
        """Return postmaster.pid: line 1 is the pid, 4 the port, 5 the socket's folder."""
        file = self.data / "postmaster.pid"
        lines = file.read_text().splitlines() if file.exists() else []
        alive = lines and (self.root / "proc" / lines[0]).exists()
        return lines if alive and len(lines) > 4 else []

    def psql(self, *statements: str) -> list[str]:
        """Return the server's output for its administrator, empty if it does not answer."""
        lines = self.running()
        if not lines:
            return []
        command = [f"{self.binaries}/psql", "--no-psqlrc", "--no-password", "--quiet"]
        command += ["--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1", f"--port={lines[3]}"]
        command += [f"--host={lines[4]}", f"--username={self.user.pw_name}", "--dbname=postgres"]
        command += [f"--command={statement}" for statement in statements]
        code, said, error = self.run(["/usr/sbin/runuser", "-u", self.user.pw_name, "--", *command])
        if code and ("authentication failed" in error or "no password supplied" in error):
            raise Refused(
                f"Wanted the system's user {self.user.pw_name} to be admitted through the socket; "
                f"found: {error.strip()}; write `local all {self.user.pw_name} peer` as the first "
                f"line of {self.hba}."
            )
        self.error = error.strip()
        return [] if code else said.splitlines()

    def state(self) -> dict:
        """Return what the server reports about its files, empty if it does not answer."""
        answer = self.psql(*LOOK)
        if not answer:
            return {}
        found = {name: value or [] for name, value in json.loads(answer[1]).items()}
        return found | {"settings": json.loads(answer[0]) or []}

    def want(self) -> None:
        """Note the wanted settings, and text and mode of each file, None if it must not exist."""
        certificate, key = self.folder / CERTIFICATE, self.folder / KEY
        values = {"listen_addresses": ", ".join(self.listen), "port": self.port, "ssl": True}
        self.files: dict[Path, tuple[str, int] | None] = {certificate: None, key: None}
        if self.params["tls_certificate"]:
            values |= {"ssl_cert_file": certificate, "ssl_key_file": key}
            self.files[certificate] = (self.params["tls_certificate"].strip() + "\n", 0o644)
            self.files[key] = (self.params["tls_key"].strip() + "\n", 0o600)
        values |= self.params["settings"]
        on = {True: "on", False: "off"}
        self.settings = {
            name: on[value] if isinstance(value, bool) else str(value)
            for name, value in values.items()
        }
        lines = [f"{name} = {quoted(value)}\n" for name, value in self.settings.items()]
        self.files[self.conf] = (MARKER + "".join(lines), 0o644)
        hba, mode = self.content(self.hba)
        self.files[self.hba] = (with_block(hba, self.access), mode)
        former = self.content(self.conf)[0] if self.conf.exists() else MARKER
        if not former.startswith(MARKER):
            raise Refused(
                f"Wanted {self.conf} to be this role's, or absent; found another's; move it away."
            )
        self.former_names = set(re.findall(r"(?m)^(\w[\w.]*) = ", former))

    def differing(self) -> list[Path]:
        """Return the files that differ from what is wanted."""
        return [
            path
            for path, wanted in self.files.items()
            if wanted != (self.content(path) if path.exists() else None)
        ]

    @staticmethod
    def content(path: Path) -> tuple[str, int]:
        # Byte by byte, whatever encoding others use.
        text = path.read_bytes().decode("utf-8", "surrogateescape")
        return text, path.stat().st_mode & 0o777

    def is_loaded(self, state: dict) -> bool:
        """Return whether the running server has loaded the current files."""
        newest = max(path.stat().st_mtime for path in self.files if path.exists())
        return bool(state) and state["loaded"] > newest

    def pending(self, state: dict) -> list[str]:
        """Return our present or former settings for which the server has to be restarted."""
        return sorted((self.settings.keys() | self.former_names) & set(state["pending"]))

    def will_be_pending(self, state: dict) -> list[str]:
        """Return the settings that will require a restart once the files are written."""
        fixed, gone = state["fixed"], self.former_names - self.settings.keys()
        changed = {name for name, value in self.settings.items() if fixed.get(name, value) != value}
        return sorted(changed | gone & fixed.keys())

    def answers_over_tls(self) -> bool:
        """Return whether the server answers at the first address, and with the certificate."""
        served = served_certificate(self.listen[0], self.port, postgresql=True)
        wanted = self.params["tls_certificate"]
        return bool(served) and (not wanted or served == der(wanted))

    # Checks.

    def check_port(self) -> None:
        """Refuse an address that is not the host's, or that another process uses."""
        proc = self.root / "proc"
        lines = self.running() if self.cluster else []
        ours = holders(proc, int(lines[0])) if lines else {}
        there = [at for at in listeners(proc / "net").values() if at[1] == self.port]
        foreign = [at for at in there if at not in ours]
        for name in self.listen:
            for address in resolve(name):
                if (address, self.port) in ours:
                    continue
                error = bind_error(address, self.port)
                if error == errno.EADDRINUSE and foreign:
                    pid = holders(proc).get(foreign[0], 0)
                    file = proc / f"{pid}/comm"
                    command = file.read_text().strip() if file.exists() else "unknown"
                    raise Refused(
                        f"Wanted PostgreSQL to listen on {address} port {self.port}; found process "
                        f"{pid} ({command}) listening there; stop that, or choose another "
                        "postgresql_port."
                    )
                # Without IPv6 on the host `*` and localhost still work.
                if error == errno.EADDRNOTAVAIL and name not in ("*", "localhost"):
                    raise Refused(
                        f"Wanted PostgreSQL to listen on {address}; found that the host says "
                        f"'{os.strerror(error)}'; use addresses of the host as "
                        "postgresql_listen_addresses."
                    )

    def check_settings(self) -> None:
        """Refuse settings that PostgreSQL rejects, before they are written to disk."""
        main = self.cluster["configdir"] + "/postgresql.conf"
        with in_memory(f"include {quoted(main)}\n{self.files[self.conf][0]}") as (path,):
            command = ["/usr/sbin/runuser", "-u", self.user.pw_name, "--"]
            command += [f"{self.binaries}/postgres", "-C", "port", f"--config-file={path}"]
            code, _, error = self.run(command, pass_fds=[int(Path(path).name)])
        if code:
            said = re.findall(r"\b(?:LOG|HINT|FATAL): +(?!configuration file)(.*)", error)
            found = "; ".join(said) or error.strip()
            raise Refused(
                "Wanted settings that PostgreSQL accepts; found: "
                + found.replace(f'"{path}"', "of the variables postgresql_...")
                + "; correct that."
            )

    def check_state(self, state: dict, written: bool) -> None:
        """Refuse whatever keeps the server from using the files on disk."""
        if state["hba_file"] != f"{self.cluster['configdir']}/pg_hba.conf":
            raise Refused(
                f"Wanted access to be decided in {self.hba}; found that the server reads "
                f"{state['hba_file']}; take the setting hba_file back to the distribution's."
            )
        if state["hba_errors"]:
            raise Refused(
                f"Wanted {self.hba} to have no errors, as the server ignores all of it otherwise; "
                f"found {'; '.join(state['hba_errors'])}; correct that."
            )
        ours = f"{self.cluster['configdir']}/{SETTINGS}"
        # The last one counts.
        last = {entry["name"]: entry["file"] for entry in state["settings"]}
        for name in sorted(self.settings) if written else ():
            if last.get(name) != ours:
                found = last.get(name, "no file, so conf.d is not included by postgresql.conf")
                raise Refused(
                    f"Wanted {name} to be what {ours} says; found it set in {found}; remove it "
                    "there, with ALTER SYSTEM RESET if that is postgresql.auto.conf, or add "
                    "`include_dir = 'conf.d'` at the end of postgresql.conf."
                )

    def check_who_is_cut_off(self, state: dict) -> None:
        """Refuse to close an address or the port of a server that others have set up and use.

        Only until our first file exists: later changes of a variable are intended.
        """
        if self.conf.exists():
            return
        if not state and self.has_databases():
            raise Refused(
                "Wanted an answer of the PostgreSQL server that is there already, to see whom "
                "another address or port would cut off; found "
                f"{self.error or 'it stopped'}, and databases of others in {self.data}; start it "
                "and run again."
            )
        if not state or not state["databases"]:
            return
        names = state["fixed"]["listen_addresses"].replace(" ", "").split(",")
        own = "the server's own listen_addresses", "correct it there and restart the server"
        there = {address for name in filter(None, names) for address in resolve(name, *own)}
        wanted = {address for name in self.listen for address in resolve(name)}
        all_of = {address.version for address in wanted if address.is_unspecified}
        lost = {address for address in there - wanted if address.version not in all_of}
        port = state["fixed"]["port"]
        for variable, found, closed in (
            ("postgresql_listen_addresses", names, bool(lost)),
            ("postgresql_port", port, port != str(self.port)),
        ):
            if closed:
                raise Refused(
                    "Wanted clients of a PostgreSQL server that is there already to reach it as "
                    f"before; found {', '.join(state['databases'])} in one that listens on "
                    f"{', '.join(names)} port {port}; set {variable}: {found}, or, once nobody "
                    "comes that way, change the server's own settings and restart it."
                )

    def has_databases(self) -> bool:
        """Return, from its files, whether a server has other databases than initdb's."""
        # initdb's have ids below FirstNormalObjectId; one in a tablespace is not in base.
        names = [path.name for path in (self.data / "base").iterdir()]
        made = [name for name in names if name.isdigit() and int(name) >= 16384]
        return bool(made) or any((self.data / "pg_tblspc").iterdir())

    # Changes.

    def plan(self) -> list[str]:
        """Return what is to be done, or raise Refused. Changes nothing."""
        self.look()
        self.check_port()
        if not self.cluster:
            return ["install", "settings", "access", "reload", "restart"]
        with self.as_owner():
            self.want()
            differing = self.differing()
        self.check_settings()
        state = self.state()
        plan = ["install"] if self.missing else []
        names = {self.hba: "access", self.conf: "settings"}
        plan += dict.fromkeys(names.get(path, "certificate") for path in differing)
        enabled = self.run(["systemctl", "is-enabled", "postgresql.service"])[1]
        plan += ["enable"] * (enabled.strip() == "disabled")
        if state:
            self.check_state(state, written=not differing)
        with self.as_owner():
            self.check_who_is_cut_off(state)
        if not state:
            return [*plan, "start"]
        if self.pending(state) or (differing and self.will_be_pending(state)):
            return [*plan, "reload", "restart"]
        if differing or not self.is_loaded(state) or not self.answers_over_tls():
            return [*plan, "reload"]
        return plan

    def as_owner(self):
        """Access files as their owner, who then cannot redirect root to other files."""
        return acting_as(self.cluster["owneruid"], self.cluster["ownergid"])

    def carry_out(self, plan: list[str]) -> None:
        """Carry out the plan. If the server rejects the files, the former ones are restored."""
        if self.missing:
            raise Refused(
                f"Wanted the Debian packages {' and '.join(self.missing)}; found them missing; run "
                f"`apt-get install {' '.join(self.missing)}`."
            )
        if "enable" in plan:
            self.must("systemctl", "enable", "postgresql.service")
        with self.former_files_on_failure():
            with self.as_owner():
                for path in self.differing():
                    if self.files[path]:
                        write(path, *self.files[path])
            if "start" in plan:
                self.must("systemctl", "start", self.unit)
                self.wait(self.state, "answer")
            self.check_state(self.state(), written=True)
            if "reload" in plan:
                self.must("systemctl", "reload", self.unit)
                self.wait(lambda: self.is_loaded(self.state()), "load its settings")
            if self.pending(self.state()):
                self.must("systemctl", "restart", self.unit)
                self.wait(self.state, "answer")
            self.wait(self.answers_over_tls, "answer over TLS with its certificate")
        with self.as_owner():
            for path in [path for path, wanted in self.files.items() if not wanted]:
                path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def former_files_on_failure(self):
        """Restore the former files, and make the server use them, if it rejects ours."""
        alive = bool(self.running())
        with self.as_owner():
            there = [path for path in self.files if path.exists()]
            former = {path: (self.content(path), path.stat()) for path in there}
        try:
            yield
        except Refused as refused:
            with self.as_owner():
                for path in [p for p in self.files if p.exists()]:
                    if path not in former:
                        path.unlink()
                        continue
                    content, status = former[path]
                    if content != self.content(path):
                        write(path, *content)
                    # Otherwise the next run would take it for a change to load.
                    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
            if alive and not self.running():
                self.run(["systemctl", "start", self.unit])
            elif alive:
                self.run(["systemctl", "reload", self.unit])
            raise Refused(f"{refused}\nThe former files are back.") from None

    def wait(self, condition, what: str) -> None:
        """Wait for a condition, at most WAIT_SECONDS."""
        end = time.monotonic() + WAIT_SECONDS
        while not condition():
            if time.monotonic() > end:
                found = f"not so after {WAIT_SECONDS} seconds {self.error}".strip()
                self.fail(f"PostgreSQL to {what}", found)
            time.sleep(0.1)

    def must(self, *command: str) -> str:
        """Return the output of a command; raise Refused if it fails."""
        code, said, error = self.run(list(command))
        if code:
            self.fail(f"`{' '.join(command)}` to succeed", error.strip())
        return said

    def fail(self, wanted: str, found: str) -> None:
        """Raise Refused, with the end of the server's log."""
        tail = []
        if self.cluster and os.path.exists(self.cluster["logfile"]):
            with self.as_owner():
                lines = Path(self.cluster["logfile"]).read_text(errors="replace").splitlines()
            # Not the queries of others, which may be logged, too.
            own = re.compile(r"\b(LOG|WARNING|FATAL|HINT): +(?! |statement|duration|execute|AUDIT)")
            tail = [line for line in lines if own.search(line)][-9:]
        raise Refused(
            f"Wanted {wanted}; found: {found}; correct what PostgreSQL's log says (values of the "
            f"variables postgresql_... are in {SETTINGS}). It ends with:\n" + "\n".join(tail)
        )


def main():
    names = {"type": "list", "elements": "str"}
    module = AnsibleModule(
        argument_spec={
            "listen_addresses": {**names, "required": True},
            "port": {"type": "int", "required": True},
            "allowed_networks": {**names, "default": []},
            "settings": {"type": "dict", "default": {}},
            "tls_certificate": {"type": "str", "default": ""},
            "tls_key": {"type": "str", "default": "", "no_log": True},
        },
        supports_check_mode=True,
    )
    locks.hold()
    with refusing(module, "the server's files"):
        server = Server(module.params, module.run_command)
        plan = server.plan()
        if plan and not module.check_mode:
            server.carry_out(plan)
    module.exit_json(changed=bool(plan), plan=plan, missing=server.missing)


if __name__ == "__main__":
    main()
