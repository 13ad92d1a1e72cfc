"""Programs and units that maintain an nginx site: its certificate and its audit trail."""

from __future__ import annotations

from pathlib import Path

from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.files import read, write
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.nginx_server import Nginx


class Helpers:
    """The programs and units of a site. Unwanted ones are removed.

    Args:
        name: The site's.
        texts: Texts of the wanted ones, by path.
        acme: Whether certbot renews the certificate, with its own timer.
        nginx: The nginx of the host.

    Attributes:
        paths: The paths of all that a site may have.
    """

    def __init__(self, name: str, texts: dict[str, str], acme: bool, nginx: Nginx):
        self.nginx, root = nginx, nginx.root
        self.texts = {root / path.lstrip("/"): text for path, text in texts.items()}
        self.timers = [path.name for path in self.texts if path.suffix == ".timer"]
        self.timers += ["certbot.timer"] * acme
        self.watch, rotation = f"nginx-certificate-{name}", f"nginx-audit-{name}"
        programs = [self.watch, rotation, f"nginx-acme-{name}"]
        units = [f"{unit}.{end}" for unit in (self.watch, rotation) for end in ("service", "timer")]
        self.paths = [root / f"usr/local/lib/{program}" for program in programs]
        self.paths += [root / f"etc/systemd/system/{unit}" for unit in units]

    def are_there(self) -> bool:
        """Return whether programs and units are as wanted, and the timers are active."""
        if any(read(path) != self.texts.get(path) for path in self.paths):
            return False
        wanted = {"ActiveState=active", "UnitFileState=enabled", "NeedDaemonReload=no"}
        for timer in self.timers:
            command = ["systemctl", "show", timer]
            command += ["--property=ActiveState,UnitFileState,NeedDaemonReload"]
            if not wanted <= set(self.nginx.run(command)[1].split()):
                return False
        return True

    def write(self) -> None:
        """Write programs and units and start the timers; remove unwanted ones."""
        for path in self.paths:
            if path not in self.texts:
                self.take_away(path)
        for path, text in self.texts.items():
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            write(path, text, 0o755 if text.startswith("#!") else 0o644)
        self.nginx.must("systemctl", "daemon-reload")
        if self.timers:
            self.nginx.must("systemctl", "enable", "--now", *self.timers)
        elif not self.texts:
            # The failure of a certificate that is no longer served does not matter.
            self.nginx.run(["systemctl", "reset-failed", f"{self.watch}.service"])

    def take_away(self, path: Path) -> None:
        """Remove a program or a unit, if it exists, and what it has left."""
        if not path.exists():
            return
        if path.suffix == ".timer":
            self.nginx.must("systemctl", "disable", "--now", path.name)
            # The time of its last run, which systemd keeps.
            stamp = self.nginx.root / f"var/lib/systemd/timers/stamp-{path.name}"
            stamp.unlink(missing_ok=True)
        path.unlink()
