"""How a module refuses: wanted, found, what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Refused(Exception):
    """What is wanted cannot be done. Its message is for the operator: wanted, found, what to do."""


@contextmanager
def refusing(module, wanted: str = "", answer: Callable[[], dict] = dict) -> Iterator[None]:
    """End the module with the message of a Refused raised within the context.

    Args:
        module: The AnsibleModule.
        wanted: What an OSError prevents: `Wanted <wanted>; found <the error>; …`.
            Without it an OSError is a bug in the module, and shows its traceback.
        answer: Returns further return values of the module, called after a refusal.
    """
    try:
        yield
    except Refused as refused:
        module.fail_json(msg=str(refused), **answer())
    except OSError as error:
        if not wanted:
            raise
        message = f"Wanted {wanted}; found {error}; fix that and run again."
        module.fail_json(msg=message, **answer())
