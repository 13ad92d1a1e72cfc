#!/usr/bin/python
"""Settings, access rules and certificate of Debian's PostgreSQL server, in one round trip."""

from __future__ import annotations

DOCUMENTATION = r"""
module: postgresql_server
short_description: Settings, access rules and certificate of Debian's PostgreSQL server
description:
  - Writes a file of its own into C(conf.d), one marked block into C(pg_hba.conf), and the
    certificate with its key. Everything else of the server is left alone.
  - The server reads the files before they take effect; if it finds an error in them the former ones
    are put back.
  - It is reloaded if the files are newer than what it runs with, and restarted only for a setting
    that needs it. So a run that was cut off is finished by the next.
options:
  settings:
    description: Settings of postgresql.conf.
    type: dict
    required: true
  access:
    description: Lines of pg_hba.conf.
    type: list
    elements: str
    required: true
  certificate:
    description: Text of the server's certificate (PEM). The server keeps the one it has if empty.
    type: str
    default: ''
  key:
    description: Text of its key.
    type: str
    default: ''
author: mlflow-ansible
"""

EXAMPLES = r"""
- name: Configure the server
  postgresql_server:
    settings: {listen_addresses: "*"}
    access: ["hostssl all all 10.0.0.0/8 scram-sha-256"]
"""

RETURN = r"""
changes: {description: "What was done, a phrase each.", type: list, returned: always}
"""

import os
import pwd
import re
import subprocess
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

BEGIN, END = "# mlflow-ansible: begin", "# mlflow-ansible: end"
HEADER = "# Ansible managed\n"
START_TIMEOUT = 60


class Refusal(Exception):
    """What was wanted, what was found and what to do."""


def run(*words: str) -> str:
    """Run a command and return its output.

    Raises:
        Refusal: It failed.
    """
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        said = " ".join((done.stderr + done.stdout).split())
        raise Refusal(f"Wanted '{words[0]} …' to succeed; found: {said}; mend that and run again.")
    return done.stdout


def quoted(value: object) -> str:
    """Return a value as postgresql.conf wants it."""
    text = {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)
    return "'" + text.replace("'", "''") + "'"


def with_block(text: str, lines: list[str]) -> str:
    """Return pg_hba.conf with our block at its end, in the place of a former one."""
    block = "\n".join([BEGIN, *lines, END]) + "\n"
    former = re.compile(f"^{re.escape(BEGIN)}$.*?^{re.escape(END)}\n", re.DOTALL | re.MULTILINE)
    if former.search(text):
        return former.sub(lambda _: block, text, count=1)
    return text + ("" if text.endswith("\n") else "\n") + block


class Server:
    """The one cluster of this host."""

    def __init__(self, check: bool):
        self.check = check
        self.changes: list[str] = []
        clusters = [row.split() for row in run("pg_lsclusters", "--no-header").splitlines()]
        if len(clusters) != 1:
            names = ", ".join("/".join(row[:2]) for row in clusters) or "none"
            raise Refusal(
                f"Wanted one PostgreSQL cluster on this host; found {names}; drop what is not "
                "needed with pg_dropcluster, or take another host."
            )
        self.version, self.cluster, self.port, self.status = clusters[0][:4]
        self.folder = Path("/etc/postgresql", self.version, self.cluster)
        self.unit = f"postgresql@{self.version}-{self.cluster}"

    def sql(self, query: str) -> list[str]:
        """Return the rows of a query, asked as the administrator through the local socket."""
        command = ["runuser", "-u", "postgres", "--", "psql", "--no-psqlrc", "--tuples-only"]
        command += ["--no-align", f"--port={self.port}", "--dbname=postgres", f"--command={query}"]
        return run(*command).splitlines()

    def write(self, path: Path, text: str, mode: int) -> str | None:
        """Write a file of postgres, at once or not at all. Return the former text if it changed."""
        entry = pwd.getpwnam("postgres")
        former = path.read_text() if path.exists() else ""
        if path.exists():
            status = path.stat()
            if former == text and (status.st_mode & 0o777, status.st_uid) == (mode, entry.pw_uid):
                return None
        self.changes.append(f"write {path}")
        if not self.check:
            beside = path.with_name(f".{path.name}.new")
            beside.unlink(missing_ok=True)
            with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
                os.fchown(stream.fileno(), entry.pw_uid, entry.pw_gid)
                os.fchmod(stream.fileno(), mode)
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            beside.replace(path)
        return former

    def ensure(self, settings: dict, access: list[str], certificate: str, key: str) -> None:
        """Bring the server to the wanted state and note what that took."""
        if self.status != "online":
            self.restart("start", "start the server")
        own, hba = self.folder / "conf.d/mlflow-ansible.conf", self.folder / "pg_hba.conf"
        files = {hba: (with_block(hba.read_text(), access), 0o640)}
        if certificate:
            pair = {self.folder / "mlflow-ansible.pem": (certificate, 0o644)}
            pair |= {self.folder / "mlflow-ansible.key": (key, 0o600)}
            files = pair | files
            for name, path in zip(("ssl_cert_file", "ssl_key_file"), pair, strict=True):
                settings = settings | {name: str(path)}
        lines = [f"{name} = {quoted(value)}\n" for name, value in sorted(settings.items())]
        files[own] = (HEADER + "".join(lines), 0o644)
        former = {path: self.write(path, *wanted) for path, wanted in files.items()}
        if self.check:
            return
        self.refuse_errors({path: text for path, text in former.items() if text is not None})
        loaded = float(self.sql("SELECT extract(epoch FROM pg_conf_load_time())")[0])
        # The file system's clock is a few milliseconds behind.
        if any(path.stat().st_mtime > loaded - 0.1 for path in files):
            self.changes.append("reload the settings")
            self.sql("SELECT pg_reload_conf()")
            time.sleep(0.5)  # each process takes note by itself
        if pending := self.sql("SELECT name FROM pg_settings WHERE pending_restart"):
            if set(pending) & settings.keys():
                self.restart("restart", f"restart the server for {', '.join(pending)}")

    def refuse_errors(self, former: dict[Path, str]) -> None:
        """Let the server read the files as they are on disk; put the former back if it cannot."""
        errors = self.sql(
            "SELECT 'pg_hba.conf:' || line_number || ': ' || error FROM pg_hba_file_rules "
            "WHERE error IS NOT NULL"
        )
        # The view of the settings' errors does not tell a wrong one from one that wants a restart.
        program = f"/usr/lib/postgresql/{self.version}/bin/postgres"
        file = f"--config-file={self.folder / 'postgresql.conf'}"
        command = ["runuser", "-u", "postgres", "--", program, file, "-C", "data_directory"]
        read = subprocess.run(command, capture_output=True, text=True)
        if read.returncode:
            errors.append(" ".join(read.stderr.split()))
        if not errors:
            return
        for path, text in former.items():
            path.write_text(text)
        put_back = " The former files are back." if former else ""
        raise Refusal(
            f"Wanted settings and access rules that PostgreSQL {self.version} understands; found "
            f"{'; '.join(errors)}; mend that and run again.{put_back}"
        )

    def restart(self, verb: str, what: str) -> None:
        self.changes.append(what)
        if self.check:
            return
        run("systemctl", verb, self.unit)
        until = time.monotonic() + START_TIMEOUT
        while subprocess.run(
            ["runuser", "-u", "postgres", "--", "pg_isready", "--quiet", f"--port={self.port}"]
        ).returncode:
            if time.monotonic() > until:
                raise Refusal(
                    f"Wanted PostgreSQL to answer within {START_TIMEOUT} s of its {verb}; found "
                    f"that it does not; see /var/log/postgresql and 'journalctl -u {self.unit}'."
                )
            time.sleep(0.2)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "settings": {"type": "dict", "required": True},
            "access": {"type": "list", "elements": "str", "required": True},
            "certificate": {"type": "str", "default": ""},
            "key": {"type": "str", "default": "", "no_log": True},
        },
        supports_check_mode=True,
    )
    if module.check_mode and not module.get_bin_path("pg_lsclusters"):
        module.exit_json(changed=True, changes=["configure the server, once it is installed"])
    server = None
    try:
        server = Server(module.check_mode)
        server.ensure(**module.params)
    except Refusal as refusal:
        module.fail_json(msg=str(refusal), changes=server.changes if server else [])
    module.exit_json(changed=bool(server.changes), changes=server.changes)


if __name__ == "__main__":
    main()
