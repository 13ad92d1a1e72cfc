#!/usr/bin/python
"""Make a release of MLflow on a host, an immutable virtualenv, and remove old ones."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mlflow_release
short_description: One immutable virtualenv of MLflow, complete or absent
description:
  - Makes C(<releases>/<version>-<cpXYZ>-<digest of the lock>/) with the packages of the lock,
    byte-compiled. A file C(.complete) is written last. A release without it does not count, is
    removed by the next run, and made again if it is wanted.
  - Refuses, before any change, a host on which that cannot work.
  - Removes the oldest releases beyond a number, but none in use.
  - Two runs on one host wait for each other.
options:
  version: {description: Version of MLflow., type: str, required: true}
  lock: {description: Text of its lock file., type: str, required: true}
  python: {description: Interpreter of the release., type: path, default: /usr/bin/python3}
  keep: {description: Maximum number of complete releases to keep., type: int, default: 3}
  in_use:
    description: Patterns of links. A release that a link points to is in use.
    type: list
    elements: str
    default: []
  installer:
    description: Installer of the packages. C(uv) needs O(uv_lock).
    type: str
    choices: [uv, pip]
    default: uv
  uv_lock: {description: Requirement of uv with its hashes., type: str, default: ''}
  index_url: {description: Package index instead of the host's own., type: str, default: ''}
  proxy: {description: Proxy instead of the host's own., type: str, default: ''}
  releases: {description: Folder of the releases., type: path, default: /opt/mlflow/releases}
author: The mlflow-ansible developers (@mlflow-ansible)
"""

EXAMPLES = r"""
- name: Make a release
  mlflow_ansible.tracking.mlflow_release:
    version: 3.17.2
    lock: "{{ lookup('ansible.builtin.file', 'mlflow-3.17.2.txt') }}"
    uv_lock: "{{ lookup('ansible.builtin.file', 'uv.txt') }}"
"""

RETURN = r"""
version: {description: Version of MLflow., type: str, returned: success}
path: {description: Path of the release., type: str, returned: success}
packages:
  description: Debian packages that it needs and that are missing.
  type: list
  elements: str
  returned: success
plan:
  description: What was done, or in check mode would be.
  type: list
  elements: str
  returned: success
  sample: [install python3-venv, make 3.17.2-cp311-0a1b2c3d, remove 3.15.0-cp311-4e5f6a7b]
"""

import ast
import contextlib
import glob
import hashlib
import os
import platform
import re
import shutil
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.locks import (
    locked,
)
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.pythons import (
    MACHINES,
    require_python,
)
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.refusals import (
    Refused,
    refusing,
)
from ansible_collections.mlflow_ansible.tracking.plugins.module_utils.system import (
    execute,
    explain,
    redact,
    require_debian,
    require_packages,
    require_root,
)

# Disk space that a release needs while it is made.
NEED_MB = 1200
# Seconds to wait for another run that makes a release.
LOCK_SECONDS = 900
# The certificates that the host trusts.
CA_BUNDLE = "etc/ssl/certs/ca-certificates.crt"
# Not imported by the server. Compiling it as well would take twice the time.
NOT_COMPILED = (
    r"/tests/|/site-packages/(databricks|fontTools|git|gunicorn|joblib|matplotlib|mpl_toolkits"
    r"|narwhals|PIL|pyasn1_modules|scipy/(?!_|sparse)\w+|sklearn|skops|wcwidth)/"
)
NAME = re.compile(r"\d[\w.]*-cp\d+-[0-9a-f]{8}")

# Error messages of the installers, what they mean and what to do, the most specific first.
FAILURES = [
    (
        r"No space left on device|Disk quota exceeded",
        "a full disk",
        f"free {NEED_MB} MB on the file system of the releases",
    ),
    (
        r"certificate|CERTIFICATE_VERIFY_FAILED",
        "a certificate that the host does not trust",
        "put your authority's certificate into /usr/local/share/ca-certificates, run "
        "update-ca-certificates, or correct mlflow_venv_index_url",
    ),
    (
        r"\b(401|403) (Error|Client Error)|Unauthorized|Forbidden|Proxy Authentication",
        "an index or proxy that refuses the host",
        "correct the name and password in mlflow_venv_index_url or mlflow_venv_proxy",
    ),
    (
        r"DO NOT MATCH THE HASHES|[Hh]ash mismatch",
        "a package that is not the locked one",
        "find out who changed it on the index; do not install it",
    ),
    (
        r"error sending request|Connection|dns error|timed? ?out|NewConnectionError|resolution"
        r"|Failed to (fetch|download)|unreachable|ProxyError|Temporary failure",
        "that no package index can be reached",
        "open the way, or set mlflow_venv_index_url or mlflow_venv_proxy",
    ),
    (
        r"no version of|not found in the (package registry|provided package locations)"
        r"|No matching distribution|no (usable )?wheels|Could not find a version|No solution",
        "an index without a wheel that the lock names",
        "make sure that mlflow_venv_index_url is right and the index lets the host in, add the "
        "wheel to it, or lock what it has with `make lock`",
    ),
]


def pip_settings(listing: str) -> dict:
    """Return {option: value} from the output of `pip config list`, as `pip install` sees them."""
    found = {}
    # Later ones take precedence, and settings for `install` over global ones.
    for origin in ("global", "install", ":env:"):
        for line in listing.splitlines():
            key, _, value = line.partition("=")
            section, _, option = key.partition(".")
            if section == origin:
                found[option] = ast.literal_eval(value)
    return found


def uv_settings(pip: dict) -> tuple[dict, list[str]]:
    """Return the environment and options of uv that correspond to pip's settings."""
    env = {}
    for option, names in {
        "index-url": ["UV_DEFAULT_INDEX"],
        "extra-index-url": ["UV_INDEX"],
        "find-links": ["UV_FIND_LINKS"],
        "trusted-host": ["UV_INSECURE_HOST"],
        "cert": ["SSL_CERT_FILE"],
        "client-cert": ["SSL_CLIENT_CERT"],
        "proxy": ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"],
    }.items():
        if pip.get(option):
            between = "," if option == "find-links" else " "
            env |= dict.fromkeys(names, between.join(pip[option].split()))
    no_index = pip.get("no-index", "").lower() in ("1", "true", "yes", "on", "y", "t")
    return env, ["--no-index"] if no_index else []


class Host:
    """What a release needs from the host. The unit tests replace it.

    Args:
        root: Folder that stands for `/`.
    """

    def __init__(self, root: Path = Path("/")):
        self.root = root
        self.machine = platform.machine()

        self.run = execute


class Store:
    """The releases on a host, and the wanted one.

    Args:
        params: The module's parameters.
        host: The host.

    Raises:
        Refused: The host does not support the release.
    """

    def __init__(self, params: dict, host: Host):
        self.params, self.host = params, host
        self.folder = Path(params["releases"])
        self.python = params["python"]
        self.keep_open = ()
        self.check_system()
        self.check_lock()
        self.check_folders()
        version, library = self.find_python()
        digest = hashlib.sha256(params["lock"].encode()).hexdigest()[:8]
        self.path = self.folder / f"{params['version']}-cp{version[0]}{version[1]}-{digest}"
        self.pip_wheel = self.find_pip(library)
        self.packages = self.missing_packages()

    # State.

    def check_system(self):
        require_debian(self.host.root)
        if self.host.machine not in MACHINES:
            raise Refused(
                f"Wanted a machine for which there are wheels, {' or '.join(MACHINES)}; found "
                f"{self.host.machine}; take this host out of the inventory."
            )

    def check_lock(self):
        version = self.params["version"]
        if not re.search(rf"^mlflow=={re.escape(version)}\s", self.params["lock"], re.MULTILINE):
            raise Refused(
                f"Wanted the lock of mlflow_venv_version={version}; found one without "
                f"mlflow=={version}; run `make lock MLFLOW_VERSION={version}`."
            )

    def check_folders(self):
        for folder in (self.folder.parent, self.folder):
            if not folder.exists():
                continue
            found = folder.stat()
            if not folder.is_dir() or found.st_uid != os.geteuid() or found.st_mode & 0o022:
                raise Refused(
                    f"Wanted {folder} as a folder of root's that nobody else may write to; found "
                    f"{stat.filemode(found.st_mode)} of uid {found.st_uid}; move it away, or if "
                    f"its content is to be trusted, `chown -R root:root {folder}` and "
                    f"`chmod -R go-w {folder}`."
                )

    def find_python(self) -> tuple[tuple, Path]:
        """Return the version of the interpreter and the folder of its standard library."""
        code = "import os, sys; print(*sys.version_info[:3], os.path.dirname(os.__file__))"
        try:
            said = self.host.run([self.python, "-I", "-S", "-c", code]).stdout.split()
            version, library = tuple(map(int, said[:3])), Path(said[3])
        except (OSError, ValueError, IndexError):
            version, library = (), Path()
        remedy = "point mlflow_venv_python to such a one, or upgrade the host"
        require_python(version, f"mlflow_venv_python={self.python}", remedy)
        return version, library

    def find_pip(self, library: Path) -> Path | None:
        """Return the pip wheel of the interpreter's `ensurepip`, or None."""
        ensurepip = library / "ensurepip"
        places = [self.host.root / "usr/share/python-wheels", ensurepip / "_bundled"]
        wheels = [wheel for place in places for wheel in place.glob("pip-*.whl")]
        return wheels[-1] if wheels and ensurepip.exists() else None

    def missing_packages(self) -> list[str]:
        """Return the missing Debian packages that a release requires."""
        missing = []
        if not self.pip_wheel:
            python = Path(self.python)
            if python.parent != Path("/usr/bin"):
                raise Refused(
                    f"Wanted mlflow_venv_python={python} with its module ensurepip; found none; "
                    "install it, or point mlflow_venv_python to one that has it."
                )
            missing.append(f"{python.name}-venv")
        if not (self.host.root / CA_BUNDLE).exists():
            missing.append("ca-certificates")
        return missing

    def check_disk(self):
        """Refuse a disk without room for a release; leftovers of a killed run count as free."""
        folder = self.folder
        while not folder.exists():
            folder = folder.parent
        free = shutil.disk_usage(folder).free + sum(map(size, self.leftovers()))
        if free < NEED_MB * 1_000_000:
            raise Refused(
                f"Wanted {NEED_MB} MB free for a release in {self.folder}; found "
                f"{free // 1_000_000} MB; free some, or give that file system more."
            )

    @staticmethod
    def completed(release: Path) -> float:
        """Return when a release became complete, in seconds since the epoch, or 0 if it is not."""
        try:
            return (release / ".complete").stat().st_mtime
        except FileNotFoundError:
            return 0

    def releases(self) -> list[Path]:
        """Return all releases, complete or not. Other kinds of names are not ours."""
        names = sorted(os.listdir(self.folder)) if self.folder.exists() else []
        return [self.folder / name for name in names if NAME.fullmatch(name)]

    def leftovers(self) -> list[Path]:
        """Return what killed runs have left."""
        return [release for release in self.releases() if not self.completed(release)]

    def old(self) -> list[Path]:
        """Return the complete releases that are neither kept, wanted nor in use."""
        ages = {release: self.completed(release) for release in self.releases()}
        others = [release for release, age in ages.items() if age and release != self.path]
        others.sort(key=ages.get, reverse=True)
        surplus = others[max(self.params["keep"] - 1, 0) :]
        used = self.used() if surplus else b""
        return [r for r in surplus if os.fsencode(f"{os.path.realpath(r)}/") not in used]

    def used(self) -> bytes:
        """Return a text with the targets of `in_use` links and the paths of running processes."""
        links = [link for pattern in self.params["in_use"] for link in glob.glob(pattern)]
        text = [os.fsencode(f"{os.path.realpath(link)}/") for link in links]
        # A process may run from a release that no link names any more.
        for name in ("cmdline", "maps"):
            for file in self.host.root.glob(f"proc/[0-9]*/{name}"):
                with contextlib.suppress(OSError):
                    text.append(file.read_bytes())
        return b"\n".join(text)

    def plan(self) -> list[str]:
        """Check the requirements, and describe what there is to do."""
        plan = [f"install {package}" for package in self.packages]
        if not self.completed(self.path):
            self.check_disk()
            plan.append(f"make {self.path.name}")
        gone = [release for release in self.leftovers() if release != self.path] + self.old()
        return plan + [f"remove {release.name}" for release in gone]

    # Changes.

    def apply(self) -> list[str]:
        """Make the release, remove what is not needed, and describe what was done."""
        os.umask(0o022)
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder, LOCK_SECONDS, self.refusal, self.host.root) as lock:
            # What a killed run has started still holds the lock until it ends.
            self.keep_open = (lock,)
            plan = self.plan()
            require_packages(self.packages)
            for release in self.leftovers():
                self.remove(release)
            if not self.completed(self.path):
                self.make()
            for release in self.old():
                self.remove(release)
        return plan

    def refusal(self, holder: str) -> str:
        return (
            f"Wanted the lock of {self.folder}; found it taken by {holder} for {LOCK_SECONDS} s; "
            "wait for it, or end it."
        )

    def remove(self, release: Path):
        # From here on the release does not count, in case this run is cut off.
        (release / ".complete").unlink(missing_ok=True)
        shutil.rmtree(release)

    def make(self):
        try:
            with ThreadPoolExecutor() as pool:
                self.build(pool)
            (self.path / ".complete").touch()
        except BaseException:
            shutil.rmtree(self.path, ignore_errors=True)
            raise

    def build(self, pool: ThreadPoolExecutor):
        """Make everything but the file that completes the release."""
        self.must("a virtualenv", [self.python, "-I", "-m", "venv", "--without-pip", self.path])

        # The installers' files are inside, so that they go with the leftovers of a killed run, and
        # so that uv's cache is on the release's file system, where uv can link instead of copy.
        work = self.path / ".build"
        work.mkdir()
        self.install(pool, work)
        # Compiling goes on while that is removed and the rest is written to disk.
        cleared = pool.submit(self.clear, work)
        # Compiled but not imported: no package code runs as root.
        command = [self.python, "-I", "-m", "compileall", "-q", "-j0", "-x", NOT_COMPILED]
        command += self.path.glob("lib/python*/site-packages")
        self.must("byte-compiled packages", command)
        cleared.result()
        self.sync()

    def clear(self, work: Path):
        shutil.rmtree(work)
        # uv's world-writable lock on the virtualenv.
        (self.path / ".lock").unlink(missing_ok=True)
        self.sync()

    def sync(self):
        """Write the release to disk, so that .complete holds even after a power cut."""
        self.must("the release on the disk", ["sync", "--file-system", self.path])

    def install(self, pool: ThreadPoolExecutor, work: Path):
        """Install the lock's packages, from the index of the options or of the host's settings."""
        (work / "lock.txt").write_text(self.params["lock"])
        (work / "uv.txt").write_text(self.params["uv_lock"])
        python, env = self.path / "bin/python", self.environment(work)
        pip = [python, "-I", self.pip_wheel / "pip"]
        exact = ["install", "--no-deps", "--require-hashes", "--only-binary=:all:", "--requirement"]
        index = redact(self.params["index_url"]) or "the host's package index"
        packages = f"the locked packages from {index}"
        if self.params["installer"] == "pip":
            self.must(packages, [*pip, *exact, work / "lock.txt", "--no-compile"], env)
            return
        listing = pool.submit(self.must, "pip's settings", [*pip, "config", "list"], env)
        target = ["--target", work / "uv", "--no-compile"]
        self.must(f"the locked uv from {index}", [*pip, *exact, work / "uv.txt", *target], env)
        settings, options = uv_settings(pip_settings(listing.result()))
        uv = [work / "uv/bin/uv", "pip", *exact, work / "lock.txt", "--python", python, *options]
        self.must(packages, uv, env | settings)

    def environment(self, work: Path) -> dict:
        """Return the environment of the installers. Secrets are in there, not in argv."""
        env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        env |= {
            "TMPDIR": str(work),
            "PIP_NO_CACHE_DIR": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_NO_INPUT": "1",
            # Host settings that the lock makes moot.
            "PIP_CONSTRAINT": os.devnull,
            "PIP_USER": "0",
            "UV_CACHE_DIR": str(work / "cache"),
            "UV_SYSTEM_CERTS": "1",
            "UV_PYTHON_DOWNLOADS": "never",
            # Safe as the lock has hashes, so any index will do, as with pip.
            "UV_INDEX_STRATEGY": "unsafe-best-match",
        }
        env.setdefault("REQUESTS_CA_BUNDLE", str(self.host.root / CA_BUNDLE))
        for name, value in (("INDEX_URL", "index_url"), ("PROXY", "proxy")):
            if self.params[value]:
                env[f"PIP_{name}"] = self.params[value]
        return env

    def must(self, wanted: str, command: list, env: dict | None = None) -> str:
        """Run a command and return its output; raise Refused if it fails."""
        done = self.host.run(command, env, self.keep_open)
        if done.returncode:
            said = done.stderr or done.stdout
            raise explain(f"{wanted} for {self.path.name}", said, FAILURES)
        return done.stdout


def size(folder: Path) -> int:
    """Return the size of a folder on disk in bytes; a file with several links counts once."""
    found = {}
    for at, _, files in os.walk(folder):
        for file in files:
            # Another run may be at work in there.
            with contextlib.suppress(FileNotFoundError):
                status = os.lstat(os.path.join(at, file))
                found[status.st_ino] = status.st_blocks * 512
    return sum(found.values())


def main():
    module = AnsibleModule(
        argument_spec={
            "version": {"type": "str", "required": True},
            # Not a secret, but its hundreds of lines do not belong in the host's journal.
            "lock": {"type": "str", "required": True, "no_log": True},
            "python": {"type": "path", "default": "/usr/bin/python3"},
            "keep": {"type": "int", "default": 3},
            "in_use": {"type": "list", "elements": "str", "default": []},
            "installer": {"type": "str", "choices": ["uv", "pip"], "default": "uv"},
            "uv_lock": {"type": "str", "default": ""},
            "index_url": {"type": "str", "default": "", "no_log": True},
            "proxy": {"type": "str", "default": "", "no_log": True},
            "releases": {"type": "path", "default": "/opt/mlflow/releases"},
        },
        supports_check_mode=True,
    )
    with refusing(module, "a release"):
        require_root()
        store = Store(module.params, Host())
        plan = store.plan() if module.check_mode else store.apply()
    module.exit_json(
        changed=bool(plan),
        version=module.params["version"],
        path=str(store.path),
        packages=store.packages,
        plan=plan,
    )


if __name__ == "__main__":
    main()
