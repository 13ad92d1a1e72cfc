"""Requirements of modules on their host: root, Debian's family, packages."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.refusals import Refused

# States of a package for which dpkg was interrupted.
HALF = {"half-installed", "unpacked", "half-configured", "triggers-awaited", "triggers-pending"}


def require_root() -> None:
    """Refuse to run as another user than root.

    Raises:
        Refused: This process does not run as root.
    """
    if os.geteuid() != 0:
        raise Refused(f"Wanted root; found uid {os.geteuid()}; set `become: true`.")


def require_debian(
    root: Path = Path("/"),
    remedy: str = "take this host out of the inventory, or install Debian 12 or newer on it",
) -> None:
    """Refuse a system without Debian's packages and paths, by its os-release.

    Args:
        root: Folder that stands for `/`.
        remedy: What to do on another system.

    Raises:
        Refused: The system is not of Debian's family.
    """
    file = root / "etc/os-release"
    text = file.read_text() if file.exists() else ""
    found = dict(re.findall(r"^(\w+)=[\"']?(.*?)[\"']?$", text, re.MULTILINE))
    if "debian" not in f"{found.get('ID')} {found.get('ID_LIKE')}".split():
        name = found.get("PRETTY_NAME", "another" if text else "no /etc/os-release")
        raise Refused(f"Wanted a system of Debian's family; found {name}; {remedy}.")


def package_states(run: Callable[[list[str]], tuple], *names: str) -> dict[str, str]:
    """Return dpkg's {package: state}, such as `installed` or one of HALF.

    Args:
        run: Runs a command, given as a list, and returns its exit code and output first.
        names: Package names or patterns; all packages without any.
    """
    show = "--showformat=${Package} ${db:Status-Status}\n"
    # Unknown names are reported in sentences, on standard error.
    lines = run(["dpkg-query", "--show", show, *names])[1].splitlines()
    return dict(line.split() for line in lines if line.count(" ") == 1)


def require_packages(missing: list[str]) -> None:
    """Refuse to go on if Debian packages are missing.

    Args:
        missing: Their names.

    Raises:
        Refused: There are some.
    """
    if missing:
        raise Refused(
            f"Wanted the Debian packages {' and '.join(missing)}; found them missing; run "
            f"`apt-get install {' '.join(missing)}`."
        )


def execute(
    command: list, env: dict[str, str] | None = None, keep_open: tuple[int, ...] = ()
) -> subprocess.CompletedProcess:
    """Run a command without input and return its result, whatever its exit code.

    Args:
        env: Its whole environment; None for that of this process.
        keep_open: Descriptors that the command inherits, and with them their locks.
    """
    return subprocess.run(
        [str(word) for word in command],
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        pass_fds=keep_open,
    )


def explain(
    wanted: str, said: str, failures: list[tuple[str, str, str]], last: list[str] | None = None
) -> Refused:
    """Return the refusal for the output of a program that failed.

    Args:
        failures: Patterns of its output, what each means and what to do; the first match counts.
        last: Lines to show the end of, instead of all output.
    """
    known = ((found, remedy) for pattern, found, remedy in failures if re.search(pattern, said))
    found, remedy = next(known, ("an error", "fix what it says"))
    lines = redact("\n".join((last or said.strip().splitlines())[-6:]))
    return Refused(f"Wanted {wanted}; found {found}; {remedy}. The last lines:\n{lines}")


def redact(text: str) -> str:
    """Return a text with names and passwords removed from its URLs."""
    return re.sub(r"://[^/\s@'\"]+@", "://****@", text)
