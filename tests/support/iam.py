"""IAM as tests see it: moto, which answers AWS's own API on a loopback port and checks who asks.

An S3 server accepts the keys that are active here, a moment later, as AWS does.
"""

import json
import logging
import os
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from moto.core import DEFAULT_ACCOUNT_ID
from moto.core.authorization import enable_iam_authentication
from moto.iam.models import AccessKeyLastUsed, iam_backends
from moto.server import ThreadedMotoServer

# Whose keys are rotated, and who rotates them.
USER, OPERATOR = "mlflow", "operator"
# All that the operator may do: what docs/rotation.md says that it takes.
ACTIONS = [
    "iam:ListAccessKeys",
    "iam:GetAccessKeyLastUsed",
    "iam:CreateAccessKey",
    "iam:UpdateAccessKey",
    "iam:DeleteAccessKey",
]


def policy(*actions: str) -> str:
    statement = {"Effect": "Allow", "Action": list(actions), "Resource": "*"}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


class IAM:
    """An account with a user for S3 and an operator.

    Args:
        url: Where its API answers.
        s3: The S3 server that accepts the active keys.
    """

    def __init__(self, url: str, s3):
        self.s3 = s3
        self.backend = iam_backends[DEFAULT_ACCOUNT_ID]["aws"]
        # Keys of other accounts that S3 accepts too: ids and secrets.
        self.others: dict[str, str] = {}
        self.without_rights: set[str] = set()
        for name, actions in ((USER, ["s3:*"]), (OPERATOR, ACTIONS)):
            self.backend.create_user("us-east-1", name)
            self.backend.put_user_policy(name, "rights", policy(*actions))
        operator = self.backend.create_access_key(OPERATOR)
        # Every secret that there ever was.
        self.secrets = {operator.secret_access_key}
        self.environment = {
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": operator.access_key_id,
            "AWS_SECRET_ACCESS_KEY": operator.secret_access_key,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "no_proxy": "127.0.0.1",
        }
        self.accepted: tuple | None = None
        self.stopped = threading.Event()

    def keys(self) -> dict:
        """Return the keys of the user by their ids: they have access_key_id and status."""
        return {key.access_key_id: key for key in self.backend.get_user(USER).access_keys}

    def status(self) -> dict[str, str]:
        """Return the status of each key of the user by its id: Active or Inactive."""
        return {name: key.status for name, key in self.keys().items()}

    def make_key(self, name: str = "", secret: str = "") -> tuple[str, str]:
        """Make a key for the user and return its id and secret, which may be given.

        S3 knows of it a moment later.
        """
        key = self.backend.create_access_key(USER)
        if name:
            del self.backend.access_keys[key.access_key_id]
            self.backend.access_keys[name] = key
            key.access_key_id, key.secret_access_key = name, secret
        return key.access_key_id, key.secret_access_key

    def delete_key(self, name: str) -> None:
        self.backend.get_user(USER).delete_access_key(name)

    def take_rights(self, name: str) -> None:
        """Let S3 know a key and allow it nothing, as that of a user without a policy."""
        self.without_rights.add(name)

    def note_use(self) -> None:
        """Note when S3 last saw each key, as AWS does."""
        keys = self.keys()
        for request in self.s3.requests():
            if request.key in keys and request.status != 403:
                when = datetime.fromtimestamp(request.time, UTC).replace(tzinfo=None)
                keys[request.key].last_used = AccessKeyLastUsed(when, "s3", "us-east-1")

    def grow_older(self, name: str, days: float) -> None:
        """Have a key made, and used for the last time, that many days earlier than it was."""
        key, earlier = self.keys()[name], timedelta(days=days)
        key.create_date -= earlier
        if key.last_used:
            key.last_used._timestamp -= earlier

    # What S3 accepts

    def wanted(self) -> tuple[dict, set]:
        """Return the keys that S3 is to accept, and the ids of those without rights."""
        keys = self.keys().values()
        active = {
            key.access_key_id: key.secret_access_key for key in keys if key.status == "Active"
        }
        self.secrets |= {key.secret_access_key for key in keys}
        return active | self.others, set(self.without_rights)

    def tell_s3(self) -> None:
        """Go on telling S3 which keys to accept."""
        while not self.stopped.wait(0.1):
            wanted = self.wanted()
            if wanted != self.accepted:
                self.s3.accept(*wanted)
                self.accepted = wanted

    def wait_for_s3(self) -> None:
        """Return once S3 knows what was changed here."""
        until = time.monotonic() + 30
        while self.accepted != self.wanted():
            assert time.monotonic() < until, "S3 was not told which keys to accept"
            time.sleep(0.05)


@contextmanager
def iam(s3, name: str, secret: str):
    """Serve IAM while the block runs, in a thread: it cannot outlive this process.

    Args:
        s3: The S3 server that accepts the active keys.
        name: Id of the key that the user has at first.
        secret: Its secret.
    """
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    account = IAM("http://{}:{}".format(*server.get_host_and_port()), s3)
    account.make_key(name, secret)
    threading.Thread(target=account.tell_s3, daemon=True).start()
    try:
        with enable_iam_authentication():
            yield account
    finally:
        account.stopped.set()
        server.stop()
