#!/usr/bin/python
"""Write folders, files and links in one round trip, each file atomically."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mlflow_files
short_description: Write folders, files and links in one round trip
description:
  - Does what one C(copy), C(template) or C(file) task per entry would do, in one module run instead
    of one or two each.
  - A file is replaced in one step, with its owner and mode, so that readers never see half of it.
    What is already right is left alone.
options:
  group:
    description: Group of everything written.
    type: str
    required: true
  folders:
    description: Folders, in the order in which they are made. Their parents must exist.
    type: list
    elements: dict
    default: []
    suboptions:
      path: {description: Path of the folder., type: path, required: true}
      mode: {description: Its mode in octal., type: str, required: true}
      owner: {description: Its owner., type: str, default: root}
  into:
    description: Folder of the files and links. Anything else in it is removed.
    type: path
    required: true
  lock:
    description: File whose lock is held while files and links are written, no lock if empty.
    type: str
    default: ''
  files:
    description: Files.
    type: list
    elements: dict
    default: []
    suboptions:
      name: {description: Name of the file., type: str, required: true}
      mode: {description: Its mode in octal., type: str, required: true}
      owner: {description: Its owner., type: str, default: root}
      keep:
        description: Keep the text of an existing file, or take it from C(keep_from).
        type: bool
        default: false
      keep_from:
        description: Other places where the text of a lost file may still be.
        type: list
        elements: path
        default: []
  texts:
    description:
      - The text of each file, by name. Never shown, and kept out of the host's journal, where
        Ansible logs the other options as they are.
    type: dict
    default: {}
  links:
    description: Symbolic links.
    type: list
    elements: dict
    default: []
    suboptions:
      name: {description: Name of the link., type: str, required: true}
      target: {description: Where it points., type: path, required: true}
author: The mlflow-ansible developers (@mlflow-ansible)
"""

EXAMPLES = r"""
- name: Write what is wanted
  mlflow_ansible.tracking.mlflow_files:
    group: mlflow
    folders:
      - {path: /etc/mlflow, mode: "0750"}
    into: /etc/mlflow
    files:
      - {name: server.env, mode: "0600"}
    texts:
      server.env: "MLFLOW_WORKERS=2\n"
"""

RETURN = r"""
written: {description: Paths that were not as wanted., type: list, returned: always}
"""

import grp
import os
import pwd
import stat
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.files import (
    beside,
    write,
)
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.locks import hold


class Writer:
    """Bring paths into their wanted state and list those that were not.

    Args:
        group: Name of the group of everything.
        check: Change nothing, only report.
    """

    def __init__(self, group: str, check: bool):
        self.group = group
        self.check = check
        self.written: list[str] = []

    def ids(self, owner: str) -> tuple[int, int] | None:
        """Return uid and gid, or None in check mode if the user does not exist yet."""
        try:
            return pwd.getpwnam(owner).pw_uid, grp.getgrnam(self.group).gr_gid
        except KeyError:
            if self.check:
                return None
            raise

    def is_right(self, path: Path, kind: int, mode: int, ids: tuple[int, int] | None) -> bool:
        """Return whether a path has that kind (S_IFDIR, S_IFREG), mode and owner."""
        if not os.path.lexists(path):
            return False
        found = path.lstat()
        return found.st_mode == kind | mode and (found.st_uid, found.st_gid) == ids

    def folder(self, path: str, mode: str, owner: str) -> None:
        """Make a folder, or set owner and mode of an existing one."""
        place, ids = Path(path), self.ids(owner)
        if self.is_right(place, stat.S_IFDIR, int(mode, 8), ids):
            return
        self.written.append(path)
        if not self.check:
            place.mkdir(mode=0o700, exist_ok=True)
            os.chown(place, *ids)
            place.chmod(int(mode, 8))

    def file(
        self, path: str, content: str, mode: str, owner: str, keep: bool, keep_from: tuple = ()
    ) -> None:
        """Write a file; one to be kept with its existing text, here or elsewhere."""
        place, ids = Path(path), self.ids(owner)
        self.clear(place)
        there = place.is_file() and not place.is_symlink()
        data = content.encode()
        if there and (keep or place.read_bytes() == data):
            if self.is_right(place, stat.S_IFREG, int(mode, 8), ids):
                return
            data = place.read_bytes()
        elif keep:
            others = [Path(other) for other in keep_from if Path(other).is_file()]
            data = others[0].read_bytes() if others else data
        self.written.append(path)
        if not self.check:
            write(place, data, int(mode, 8), *ids)

    def clear(self, place: Path) -> None:
        """Remove what a killed run may have left beside a file or link."""
        if not self.check:
            beside(place).unlink(missing_ok=True)

    def only(self, folder: str, names: set[str]) -> None:
        """Remove entries of a folder with other names. A subfolder is unexpected: OSError."""
        for name in sorted(set(os.listdir(folder)) - names if os.path.isdir(folder) else ()):
            self.written.append(f"{folder}/{name}")
            if not self.check:
                os.unlink(f"{folder}/{name}")

    def link(self, path: str, target: str) -> None:
        """Make a symbolic link beside its place, then move it there."""
        place = Path(path)
        self.clear(place)
        if place.is_symlink() and os.readlink(place) == target:
            return
        self.written.append(path)
        if not self.check:
            beside(place).symlink_to(target)
            beside(place).replace(place)


def main() -> None:
    owned = {
        "mode": {"type": "str", "required": True},
        "owner": {"type": "str", "default": "root"},
    }
    folder = {"path": {"type": "path", "required": True}, **owned}
    file = {
        "name": {"type": "str", "required": True},
        **owned,
        "keep": {"type": "bool", "default": False},
        "keep_from": {"type": "list", "elements": "path", "default": [], "no_log": False},
    }
    link = {
        "name": {"type": "str", "required": True},
        "target": {"type": "path", "required": True},
    }
    module = AnsibleModule(
        argument_spec={
            "group": {"type": "str", "required": True},
            "folders": {"type": "list", "elements": "dict", "default": [], "options": folder},
            "into": {"type": "path", "required": True},
            "lock": {"type": "str", "default": ""},
            "files": {"type": "list", "elements": "dict", "default": [], "options": file},
            "texts": {"type": "dict", "default": {}, "no_log": True},
            "links": {"type": "list", "elements": "dict", "default": [], "options": link},
        },
        supports_check_mode=True,
    )
    given = module.params
    writer = Writer(given["group"], module.check_mode)
    path = ""
    try:
        for entry in given["folders"]:
            path = entry["path"]
            writer.folder(path, entry["mode"], entry["owner"])
        path = given["lock"]
        if path and not module.check_mode:
            # Also held by a roll that reads what is written here. Released when this process ends.
            Path(path).touch(0o600)
            hold(path)
        for entry in given["files"]:
            path, text = f"{given['into']}/{entry['name']}", given["texts"][entry["name"]]
            writer.file(
                path, text, entry["mode"], entry["owner"], entry["keep"], entry["keep_from"]
            )
        for entry in given["links"]:
            path = f"{given['into']}/{entry['name']}"
            writer.link(path, entry["target"])
        path = given["into"]
        writer.only(path, {entry["name"] for entry in [*given["files"], *given["links"]]})
    except KeyError as error:
        module.fail_json(
            msg=f"Wanted all that {path} needs; found none of {error.args[0]}; create the user and "
            "the group first, and give a text for each file."
        )
    except OSError as error:
        module.fail_json(
            msg=f"Wanted to write {path}; found {error}; free or fix that path and run again. "
            "Nothing that serves has changed."
        )
    module.exit_json(changed=bool(writer.written), written=writer.written)


if __name__ == "__main__":
    main()
