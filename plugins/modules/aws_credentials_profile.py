#!/usr/bin/python
"""Read, prove and write one profile of a user's ~/.aws, as that user."""

from __future__ import annotations

DOCUMENTATION = r"""
module: aws_credentials_profile
short_description: One profile of a user's ~/.aws, proven before it is written
description:
  - Becomes the user, so it can reach nothing that the user cannot, however Ansible is connected.
  - What is to be written is tried first, from memory. A rejected key changes nothing, and a program
    that starts in the meantime finds the old key or the new one, never a mixture.
  - Notes beside a key the id of the one that it replaces, until O(forget) is set. SDKs ignore
    unknown options.
options:
  user: {description: Login of the user., type: str, required: true}
  profile: {description: Name of the profile., type: str, default: default}
  state:
    description:
      - C(looked) only reads. C(proven) also tries what would be written. C(present) tries it and
        writes it.
    type: str
    choices: [looked, proven, present]
    default: present
  access_key_id:
    description: Id of the key. Empty removes a key; if omitted, the key stays as it is.
    type: str
  secret_access_key: {description: Its secret., type: str, default: ''}
  settings:
    description: Options of the profile in C(~/.aws/config). An empty one is removed.
    type: dict
    default: {}
  forget: {description: Remove the note of the replaced key., type: bool, default: false}
  probe_uri: {description: Argument of the script. Not run if empty., type: str, default: ''}
  probe_python:
    description: Python that runs the script. C(~) is the user's home.
    type: str
    default: /usr/bin/python3
  probe_script:
    description: Text of the script, which is called with C(artifacts) and the URI.
    type: str
    default: ''
author: The mlflow-ansible developers (@mlflow-ansible)
"""

EXAMPLES = r"""
- name: Give the user a key
  mlflow_ansible.tracking.aws_credentials_profile:
    user: ada
    access_key_id: AKIAIOSFODNN7EXAMPLE
    secret_access_key: "{{ vault_aws_secret_access_key }}"
    settings: {region: eu-central-1}
"""

RETURN = r"""
access_key_id: {description: "Id of the key in effect, or empty.", type: str, returned: success}
replaced_access_key_id:
  description: Id of the key before it, or empty.
  type: str
  returned: success
changed_at:
  description: When the file was last changed, in seconds since the epoch; 0 without a file.
  type: int
  returned: success
"""

import os
import pwd
import re
import subprocess
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.accounts import (
    as_user,
)
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.files import (
    in_memory,
    write,
)
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.refusals import (
    Refused,
    refusing,
)
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.system import (
    require_root,
)

REPLACED = "mlflow_ansible_replaced_access_key_id"


def blocks_of(text: str) -> list[list[str]]:
    """Return the lines of an INI text, from header to header."""
    blocks = [[]]
    for line in text.splitlines():
        if line.startswith("["):
            blocks.append([])
        blocks[-1].append(line)
    return blocks


def block_of(blocks: list[list[str]], section: str) -> list[str]:
    """Return the block of a section, or an empty one."""
    for block in blocks[1:]:
        if block[0][1:].partition("]")[0].split() == section.split():
            return block
    return []


def option(block: list[str], name: str) -> str:
    """Return the value of an option, or an empty text."""
    found = (re.match(rf"{name}\s*[=:](.*)", line, re.I) for line in block)
    return next((match[1].strip() for match in found if match), "")


def edited(text: str, section: str, options: dict[str, str]) -> str:
    """Return an INI text with these options set, empty ones removed, and the rest unchanged."""
    blocks = blocks_of(text)
    block = block_of(blocks, section)
    changes = {name: value for name, value in options.items() if option(block, name) != value}
    if not changes:
        return text
    if not block:
        blocks[-1] += [""] * bool(blocks[-1])
        block = [f"[{section}]"]
        blocks.append(block)
    for name, value in changes.items():
        block[:] = [line for line in block if not re.match(rf"{name}\s*[=:]", line, re.I)]
        # Below the last option, above the empty lines before the next header.
        end = max(i for i, line in enumerate(block) if line.strip()) + 1
        block[end:end] = [f"{name} = {value}"] * bool(value)
    return "".join(f"{line}\n" for block in blocks for line in block)


class Profile:
    """One profile of a user's files.

    Args:
        home: The user's home.
        name: Name of the profile.
    """

    def __init__(self, home: str, name: str):
        self.home, self.name = home, name
        self.paths = [Path(home, ".aws", each) for each in ("credentials", "config")]
        self.texts = [path.read_text() if path.exists() else "" for path in self.paths]

    def key(self) -> dict:
        """Return the key in effect, the one before it, and when it was changed."""
        block = block_of(blocks_of(self.texts[0]), self.name)
        return {
            "access_key_id": option(block, "aws_access_key_id"),
            "replaced_access_key_id": option(block, REPLACED),
            "changed_at": int(self.paths[0].stat().st_mtime) if self.paths[0].exists() else 0,
        }

    def wanted(self, key_id: str | None, secret: str, settings: dict, forget: bool) -> list[str]:
        """Return the wanted texts of both files."""
        now, key = self.key(), {}
        if key_id is not None:
            key = {"aws_access_key_id": key_id, "aws_secret_access_key": secret}
            if now["access_key_id"] not in ("", key_id):
                key[REPLACED] = now["access_key_id"] if key_id else ""
        if forget:
            key[REPLACED] = ""
        section = "default" if self.name == "default" else f"profile {self.name}"
        return [
            edited(self.texts[0], self.name, key),
            edited(self.texts[1], section, {k: str(v) for k, v in settings.items()}),
        ]

    def prove(self, texts: list[str], python: str, script: str, uri: str) -> None:
        """Run the probe with these texts as files; raise Refused with its output if it fails."""
        with in_memory(*texts) as (credentials, config):
            done = subprocess.run(
                [python, "-", "artifacts", uri],
                input=script,
                capture_output=True,
                text=True,
                errors="replace",
                cwd="/",
                pass_fds=[int(Path(path).name) for path in (credentials, config)],
                env=os.environ
                | {
                    "HOME": self.home,
                    "AWS_PROFILE": self.name,
                    "AWS_SHARED_CREDENTIALS_FILE": credentials,
                    "AWS_CONFIG_FILE": config,
                },
            )
        if done.returncode:
            raise Refused(done.stderr.strip() or f"The probe ended with code {done.returncode}.")

    def write(self, texts: list[str]) -> None:
        """Write what differs; the key last, as it depends on the settings."""
        for path, former, text in reversed(list(zip(self.paths, self.texts, texts, strict=True))):
            if text != former:
                # A user's link stays a link.
                path = Path(os.path.realpath(path))
                path.parent.mkdir(mode=0o700, exist_ok=True)
                write(path, text, 0o600)
            elif path.exists() and path.stat().st_mode & 0o077:
                path.chmod(0o600)
        self.texts = texts

    def differs(self, texts: list[str]) -> bool:
        """Return whether `write` would change something."""
        open_to_others = [p for p in self.paths if p.exists() and p.stat().st_mode & 0o077]
        return texts != self.texts or bool(open_to_others)


def ensure(params: dict, account, check: bool) -> dict:
    """Read, try and write a profile as its user.

    Args:
        params: The module's options.
        account: The user's entry in pwd.
        check: Change nothing and try nothing.

    Returns:
        Whether something changed, and the key in effect.

    Raises:
        Refused: The probe failed; nothing was written.
    """
    changed = False
    profile = Profile(account.pw_dir, params["profile"])
    if params["state"] != "looked":
        texts = profile.wanted(
            params["access_key_id"],
            params["secret_access_key"],
            params["settings"],
            params["forget"],
        )
        # In check mode the probe's requirements may not exist yet.
        if params["probe_uri"] and not check:
            python = re.sub("^~(?=/)", account.pw_dir, params["probe_python"])
            profile.prove(texts, python, params["probe_script"], params["probe_uri"])
        changed = params["state"] == "present" and profile.differs(texts)
        if changed and not check:
            profile.write(texts)
    return {"changed": changed, **profile.key()}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "user": {"type": "str", "required": True},
            "profile": {"type": "str", "default": "default"},
            "state": {
                "type": "str",
                "choices": ["looked", "proven", "present"],
                "default": "present",
            },
            "access_key_id": {"type": "str"},
            "secret_access_key": {"type": "str", "default": "", "no_log": True},
            "settings": {"type": "dict", "default": {}},
            "forget": {"type": "bool", "default": False},
            "probe_uri": {"type": "str", "default": ""},
            "probe_python": {"type": "str", "default": "/usr/bin/python3"},
            # Not a secret, but its hundreds of lines do not belong in the host's journal.
            "probe_script": {"type": "str", "default": "", "no_log": True},
        },
        supports_check_mode=True,
    )
    params = module.params
    with refusing(module):
        require_root()
        try:
            account = pwd.getpwnam(params["user"])
        except KeyError:
            raise Refused(
                f"Wanted the user {params['user']}, whose key it is; found none; make them, or "
                "correct the name."
            ) from None
        wanted = f"to read, try and write the files in ~/.aws of {account.pw_name}"
        found = as_user(account, wanted, lambda: ensure(params, account, module.check_mode))
    module.exit_json(**found)


if __name__ == "__main__":
    main()
