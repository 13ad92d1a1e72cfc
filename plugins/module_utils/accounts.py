"""Work done as a system user, who cannot interfere with anyone else this way."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import traceback
from collections.abc import Callable, Iterator

from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.refusals import Refused


@contextlib.contextmanager
def acting_as(uid: int, gid: int) -> Iterator[None]:
    """Become a user for a few system calls. For longer work see `as_user`."""
    former = os.geteuid(), os.getegid()
    try:
        os.setegid(gid)
        os.seteuid(uid)
        yield
    finally:
        os.seteuid(former[0])
        os.setegid(former[1])


def as_user(account: pwd.struct_passwd, wanted: str, work: Callable[[], dict]) -> dict:
    """Run `work` in a child process as that user, and return its result.

    Root must not follow what the user can write to: a link there can point anywhere. Without
    pipelining Ansible can become another user only by way of files that both can read, which some
    connections do not support (see its guide on privilege escalation).

    Args:
        account: The user.
        wanted: What an error prevents, for the message.
        work: Returns a value that JSON can represent.

    Raises:
        Refused: `work` raised it or failed, or becoming that user failed.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            try:
                if os.geteuid() == 0:
                    os.initgroups(account.pw_name, account.pw_gid)
                    os.setgid(account.pw_gid)
                    os.setuid(account.pw_uid)
                os.umask(0o077)
                kept = {k: v for k, v in os.environ.items() if k.lower().endswith("_proxy")}
                os.environ.clear()
                os.environ.update(kept, HOME=account.pw_dir, USER=account.pw_name, LANG="C.UTF-8")
                os.environ.update(LOGNAME=account.pw_name, PATH="/usr/local/bin:/usr/bin:/bin")
                os.chdir("/")
                result = {"done": work()}
            except Refused as refused:
                result = {"refused": str(refused)}
            except OSError as error:
                result = {"refused": f"Wanted {wanted}; found {error}; fix that and run again."}
            except Exception as error:
                line = traceback.extract_tb(error.__traceback__)[-1].lineno
                found = f"{type(error).__name__}: {error} (line {line})"
                result = {"refused": f"Wanted {wanted}; found {found}; fix that and run again."}
            with os.fdopen(writing, "w") as stream:
                json.dump(result, stream)
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as stream:
        said = stream.read()
    os.waitpid(child, 0)
    if not said:
        raise Refused(f"Wanted {wanted}; found that the process was killed; run again.")
    result = json.loads(said)
    if "refused" in result:
        raise Refused(result["refused"])
    return result["done"]
