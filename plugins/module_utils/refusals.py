"""How a module says no: wanted, found, what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Refused(Exception):
    """What is wanted cannot be done, in words for the operator: wanted, found, what to do."""


@contextmanager
def refusing(module, wanted: str = "", answer: Callable[[], dict] = dict) -> Iterator[None]:
    """End the module with the words of what was refused inside.

    Args:
        module: The AnsibleModule.
        wanted: What an OSError stands in the way of: `Wanted <wanted>; found <the error>; …`.
            Without it an OSError is a defect of the module's, and shows its traceback.
        answer: Gives what the module answers besides, asked once it is refused.
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
