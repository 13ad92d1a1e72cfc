"""The users of an nginx site, who log in with a password."""

from __future__ import annotations

import ctypes
import hashlib
import re

from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.files import read, write
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.nginx_server import Nginx
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.refusals import Refused


def hashed(password: str, salt: str) -> str:
    """Return the hash of a password, by the library that nginx itself uses to verify it."""
    crypt = ctypes.CDLL("libcrypt.so.1").crypt
    crypt.restype = ctypes.c_char_p
    return crypt(password.encode(), f"$6${salt}".encode()).decode()


class Users:
    """The users of a site, in a file named by its contents.

    Args:
        site: The site's name.
        users: `name` and `password` of each.
        nginx: The nginx of the host.

    Attributes:
        all: The folder of the files of all sites.
        path: Once `choose` has been called, the file of these users; None if there are none.

    Raises:
        Refused: One could not log in, or has an example's password.
    """

    def __init__(self, site: str, users: list[dict], nginx: Nginx):
        self.site, self.users, self.nginx = site, users, nginx
        self.all = nginx.etc / "users"
        names = [user["name"] for user in users]
        bad = [name for name in names if not re.fullmatch(r"[^:\s#][^:\n]*", name)]
        bad += [name for name in names if names.count(name) > 1]
        bad += [user["name"] for user in users if not user["password"]]
        if bad:
            raise Refused(
                "Wanted users with a name of their own, without a colon, and with a password in "
                f"nginx_users; found otherwise for {bad[0] or 'one without a name'}; correct it."
            )
        if any("example-change-me" in user["password"] for user in users):
            raise Refused(
                "Wanted passwords of your own in nginx_users; found an example's; replace it."
            )

    def choose(self) -> None:
        """Find the lines of the file, which are the same in every run, and thus its name."""
        self.lines = "".join(f"{self.account(**user)}\n" for user in self.users)
        digest = hashlib.sha256(self.lines.encode()).hexdigest()[:16]
        self.path = self.all / f"{self.site}-{digest}" if self.lines else None

    def account(self, name: str, password: str) -> str:
        """Return a user's line. Equal passwords yield different lines, also on other hosts."""
        machine = read(self.nginx.root / "etc/machine-id") or ""
        salt = hashlib.sha256(f"{machine}:{self.site}:{name}".encode()).hexdigest()[:16]
        return f"{name}:{hashed(password, salt)}"

    def are_there(self) -> bool:
        """Return whether the file is as wanted."""
        return self.path is None or read(self.path) == self.lines

    def write(self) -> None:
        """Write the file, for nginx's workers to read."""
        self.all.mkdir(mode=0o755, exist_ok=True)
        write(self.path, self.lines, 0o640, group=self.nginx.user().pw_gid)
