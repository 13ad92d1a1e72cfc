#!/usr/bin/python
"""Return an IAM user's access keys, and what a rotation has to do with them next."""

from __future__ import annotations

DOCUMENTATION = r"""
module: aws_access_keys
short_description: The access keys of an IAM user, and what a rotation has to do next
description:
  - Asks IAM for the keys of a user, compares them with those on the hosts, and decides. Changes
    nothing.
  - Runs on the control side, with the credentials that boto3 finds there. Needs iam:ListAccessKeys
    and iam:GetAccessKeyLastUsed for that user.
  - Without a user, for a store without IAM, it decides by the keys on the hosts alone.
options:
  user: {description: Name of the IAM user., type: str, default: ''}
  wanted:
    description: Id of the key that every host is to hold. Without it nothing is decided.
    type: str
    default: ''
  minted: {description: "Whether new keys are made here, not given.", type: bool, default: false}
  stored:
    description:
      - Contents of the key file besides the secret, all optional. C(access_key_id); C(replaces),
        the key before it; and if a key was about to be made C(minting_since), seconds since the
        epoch, and C(known), the keys then.
    type: dict
    default: {}
  deployed: {description: Ids of the keys that hosts use., type: list, elements: str, default: []}
  retired:
    description: Ids of former keys that hosts have not dropped yet.
    type: list
    elements: str
    default: []
  soak_days:
    description: Days for which an inactive key has to be unused before it is deleted.
    type: float
    default: 1
author: The mlflow-ansible developers (@mlflow-ansible)
"""

EXAMPLES = r"""
- name: Decide
  mlflow_ansible.tracking.aws_access_keys:
    user: mlflow
    wanted: AKIAIOSFODNN7EXAMPLE
    deployed: [AKIAIOSFODNN7EXAMPLE]
  delegate_to: localhost
"""

RETURN = r"""
access_keys:
  description:
    - Each key's C(id), C(active), C(created) and C(last_used), the latter two as dates (ISO 8601);
      C(last_used) is null for a key that AWS has not seen in use yet.
  type: list
  elements: dict
  returned: always
mint: {description: Whether to make a new key., type: bool, returned: always}
lost:
  description: Keys whose secret was lost before it was saved, to be deleted before one is made.
  type: list
  elements: str
  returned: always
replaced:
  description: Active keys, to be deactivated once no host uses them.
  type: list
  elements: str
  returned: always
delete: {description: Inactive keys to be deleted., type: list, elements: str, returned: always}
waiting_until:
  description: When the last inactive key may be deleted, in seconds since the epoch, or 0.
  type: int
  returned: always
plan: {description: What this run does., type: str, returned: always}
next: {description: "What to do after it, and when.", type: str, returned: always}
"""

import time
from datetime import UTC, datetime

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.refusals import (
    Refused,
    refusing,
)

try:
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    has_boto3 = True
except ImportError:
    has_boto3 = False

DAY = 86400
# A key made within this many seconds of the noted intention was made by that run.
MINTING = 900


def short(keys) -> str:
    """Name keys by their last four characters."""
    return " and ".join(f"…{key[-4:]}" for key in sorted(keys)) or "none"


def is_lost(key: dict, stored: dict) -> bool:
    """Return whether a key was made by a run that was killed before it saved the secret."""
    since = stored.get("minting_since")
    return (
        since is not None
        and key["id"] not in (*stored["known"], stored.get("access_key_id"))
        and abs(key["created"] - since) <= MINTING
        and key["last_used"] is None
    )


def check(user, keys, wanted, deployed, unknown) -> None:
    """Refuse states that a rotation could only make worse."""
    has = f"IAM user {user} has {short(keys)}"
    if wanted not in keys:
        raise Refused(
            f"Wanted {short([wanted])}, the key to be used, in IAM user {user}; found that "
            f"{has}; correct aws_credentials_iam_user or the key; if it was deleted, put another "
            "of that user into the vault, move the key file away if there is one, and run site.yml."
        )
    others = [key for key in deployed if key != wanted and keys.get(key, {}).get("active")]
    if not keys[wanted]["active"]:
        # A retired key that is brought back would replace its successor.
        away = (
            f", while hosts carry {short(others)}, which is active; if {short([wanted])} was "
            "rotated away, bring the vault or the key file up to date; if not, "
            if others
            else "; "
        )
        raise Refused(
            f"Wanted {short([wanted])}, the key to be used, to be active; found it inactive{away}"
            f"activate it ('aws iam update-access-key --user-name {user} --access-key-id {wanted} "
            f"--status Active') and run again."
        )
    if not deployed:
        raise Refused("Wanted a host that carries a key; found none; run site.yml.")
    if foreign := set(deployed) - set(keys):
        raise Refused(
            f"Wanted the hosts to carry keys of IAM user {user}; found {short(foreign)} on one of "
            f"them, while {has}; correct aws_credentials_iam_user, or run site.yml, which gives "
            f"every host {short([wanted])}."
        )
    if unknown:
        raise Refused(
            f"Wanted no active key of IAM user {user} but those that the hosts carry; found "
            f"{short(unknown)}, which may be in use elsewhere; find out by whom ('aws iam "
            f"get-access-key-last-used --access-key-id {min(unknown)}'), then deactivate it, or "
            "give its user an IAM user of their own."
        )


def decide(
    keys: list[dict] | None,
    user: str,
    wanted: str,
    minted: bool,
    stored: dict,
    deployed: list[str],
    retired: list[str],
    soak_days: float,
    now: float,
) -> dict:
    """Decide what a rotation has to do next, from the state of IAM and the hosts alone.

    One run does one of these, and the next run goes on from there: replace keys on the hosts by
    the wanted one; make a new one; delete an old one; nothing.

    Args:
        keys: The keys in IAM, or None for a store without IAM.

    Raises:
        Refused: An operator has to investigate first.
    """
    if keys is None:
        ids = sorted({wanted, *deployed, *retired})
        keys = [{"id": each, "active": True, "created": 0, "last_used": None} for each in ids]
    by_id = {key["id"]: key for key in keys}
    ours = {wanted, *deployed, *retired, stored.get("replaces")}
    lost = [key["id"] for key in keys if key["id"] not in ours and is_lost(key, stored)]
    others = [key for key in keys if key["id"] not in (wanted, *lost)]
    replaced = [key["id"] for key in others if key["active"]]
    check(user, by_id, wanted, deployed, set(replaced) - ours)
    settled = {*deployed, *retired, *replaced} == {wanted}

    # AWS has no date of deactivation; a key was active until its successor existed.
    unused_since = {
        key["id"]: max(key["last_used"] or key["created"], by_id[wanted]["created"])
        for key in others
        if not key["active"]
    }
    ends = {key: since + soak_days * DAY for key, since in unused_since.items()}
    mint = minted and settled and not ends
    decision = {
        "mint": mint,
        "lost": lost if mint else [],
        "replaced": [wanted] if mint else replaced,
        "delete": [key for key, end in ends.items() if settled and end <= now],
        "waiting_until": int(max(ends.values(), default=0)),
    }
    return decision | words(decision, user, wanted, minted, settled, ends)


def words(decision, user, wanted, minted, settled, ends) -> dict[str, str]:
    """Describe a decision: what this run does, and what comes next."""
    old, gone = short(decision["replaced"]), short(decision["delete"])
    again = (
        "To rotate, run this playbook again."
        if minted
        else "To rotate, make another key"
        + (f" (aws iam create-access-key --user-name {user})" if user else "")
        + ", put it into the vault in the place of this one and run this playbook again."
    )
    until = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(decision["waiting_until"]))
    if decision["mint"]:
        plan = f"A new key of IAM user {user} replaces {old}."
    elif decision["replaced"]:
        plan = f"{short([wanted])} replaces {old}."
    elif decision["delete"]:
        return {"plan": f"{gone} is deleted.", "next": again}
    elif not settled:
        plan = f"What is left of a rotation to {short([wanted])} is finished."
    else:
        plan = f"Nothing is to be done: every host carries {short([wanted])}."
    if decision["replaced"] and user:
        after = (
            f"{old} is inactive now. A later run deletes it, aws_credentials_soak_days after AWS "
            "last saw it. If somebody misses it till then, activate it again."
        )
    elif decision["replaced"]:
        after = f"Revoke {old} at your store: no host of yours carries it any more."
    elif ends:
        after = f"{short(ends)} is inactive. A run after {until} deletes it."
    else:
        after = again
    return {"plan": plan, "next": after}


def dated(keys: list[dict] | None) -> list[dict]:
    """Return keys with human-readable dates."""

    def date(seconds):
        return seconds and datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")

    times = ("created", "last_used")
    return [key | {name: date(key[name]) for name in times} for key in keys or []]


def ask(iam, user: str) -> list[dict]:
    """Return a user's keys from IAM."""

    def seconds(moment):
        return moment.timestamp() if moment else None

    keys = []
    for page in iam.get_paginator("list_access_keys").paginate(UserName=user):
        for key in page["AccessKeyMetadata"]:
            used = iam.get_access_key_last_used(AccessKeyId=key["AccessKeyId"])
            keys.append(
                {
                    "id": key["AccessKeyId"],
                    "active": key["Status"] == "Active",
                    "created": seconds(key["CreateDate"]),
                    "last_used": seconds(used["AccessKeyLastUsed"].get("LastUsedDate")),
                }
            )
    return keys


def refusal(error, user: str) -> str:
    """Return the message for an error of IAM or of the connection to it."""
    wanted = f"Wanted to ask AWS for the access keys of IAM user {user}; found"
    if not isinstance(error, ClientError):
        return (
            f"{wanted} {error}; give the machine that runs Ansible credentials for IAM, such as "
            "AWS_PROFILE, and a way to it."
        )
    code, message = error.response["Error"]["Code"], error.response["Error"]["Message"]
    remedy = "fix that"
    if code in ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation"):
        remedy = (
            f"add iam:{error.operation_name} for that user to the policy of who runs Ansible "
            "('aws sts get-caller-identity' tells who that is)"
        )
    elif code == "NoSuchEntity":
        remedy = "correct aws_credentials_iam_user, or take credentials of the right account"
    elif code in ("InvalidClientTokenId", "SignatureDoesNotMatch", "ExpiredToken"):
        remedy = "log in again, or correct the credentials of who runs Ansible"
    return f"{wanted} that {error.operation_name} was answered with {code}: {message}; {remedy}."


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "user": {"type": "str", "default": ""},
            "wanted": {"type": "str", "default": ""},
            "minted": {"type": "bool", "default": False},
            "stored": {"type": "dict", "default": {}},
            "deployed": {"type": "list", "elements": "str", "default": []},
            "retired": {"type": "list", "elements": "str", "default": []},
            "soak_days": {"type": "float", "default": 1},
        },
        supports_check_mode=True,
    )
    user = module.params["user"]
    keys = None
    with refusing(module, answer=lambda: {"access_keys": dated(keys)}):
        if user and not has_boto3:
            raise Refused(
                "Wanted boto3, to ask AWS for access keys; found none in the Python that runs "
                "Ansible; run `make setup`, or install boto3 there."
            )
        if user:
            try:
                keys = ask(boto3.client("iam"), user)
            except (BotoCoreError, ClientError) as error:
                raise Refused(refusal(error, user)) from None
        if not module.params["wanted"]:
            module.exit_json(changed=False, access_keys=dated(keys))
        decision = decide(keys, now=time.time(), **module.params)
    module.exit_json(changed=False, access_keys=dated(keys), **decision)


if __name__ == "__main__":
    main()
