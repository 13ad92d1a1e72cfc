"""Look for secrets wherever somebody other than their owner could read them on a host.

In argv, in the environment of processes that are neither the service's nor root's, in units, in
the journal and all other logs, in folders for passing things, and in every file that others can
read. A secret is found as it is, and as base64, a URL or JSON would write it.
"""

import base64
import json
import subprocess
from urllib.parse import quote

# Runs as root on the host's own Python. Secrets come by stdin: here argv is searched.
CODE = r"""
import json, mmap, os, pwd, stat, subprocess, sys

asked = json.load(sys.stdin)
forms = {name: [form.encode() for form in each] for name, each in asked["forms"].items()}
allowed = tuple(asked["allowed"])
uids = {0, *(user.pw_uid for user in pwd.getpwall() if user.pw_name in asked["users"])}
hits = set()

def look(place, content):
    for name, each in forms.items():
        if any(content.find(form) >= 0 for form in each):
            hits.add((place, name))

def said(place, *command):
    # Some units that are named by others are not there; that is said for each.
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    look(place, done.stdout)

def process(pid, file):
    try:
        with open(f"/proc/{pid}/{file}", "rb") as opened:
            return opened.read()
    except OSError:
        return b""  # gone, or the kernel's

def file(path):
    try:
        with open(path, "rb") as opened:
            with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
                look(path, content)
    except (OSError, ValueError):
        pass  # gone, or empty

def walk(folder, device, others):
    # `others`: only what others can read. Stays on one file system.
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return
    for entry in entries:
        try:
            found = entry.stat(follow_symlinks=False)
        except OSError:
            continue
        if found.st_dev != device or entry.path.startswith(allowed):
            continue
        if stat.S_ISDIR(found.st_mode):
            # What is behind a folder that others cannot enter, they cannot read.
            if not others or found.st_mode & stat.S_IXOTH:
                walk(entry.path, device, others)
        elif stat.S_ISREG(found.st_mode) and found.st_size:
            if not others or found.st_mode & stat.S_IROTH:
                file(entry.path)

for pid in filter(str.isdigit, os.listdir("/proc")):
    command = process(pid, "cmdline")
    try:
        uid = os.stat(f"/proc/{pid}").st_uid
    except OSError:
        continue
    shown = command.split(b"\0")[0].decode(errors="replace")
    look(f"argv of {shown}", command)
    if uid not in uids:
        look(f"environment of {shown}, of uid {uid}", process(pid, "environ"))
said("systemctl show", "systemctl", "show", "*")
said("systemctl cat", "systemctl", "cat", "*")
said("the journal", "journalctl", "--no-pager", "--all", "--output=export")
# Whoever may read them: nothing secret is ever left there.
for folder in ("/tmp", "/var/tmp", "/dev/shm", "/run", "/var/log", "/etc/systemd"):
    if os.path.isdir(folder):
        walk(folder, os.stat(folder).st_dev, False)
walk("/", os.stat("/").st_dev, True)
print(json.dumps(sorted(hits)))
"""


def forms(secret: str) -> list[str]:
    """Return the ways in which a secret may be written."""
    encoded = base64.b64encode(secret.encode()).decode()
    in_json = json.dumps(secret)[1:-1]
    return sorted({secret, quote(secret, safe=""), quote(secret), in_json, encoded})


def in_texts(secrets: dict[str, str], texts: dict[str, str]) -> list[tuple[str, str]]:
    """Return in which of the texts which secret stands: pairs of their names."""
    return sorted(
        (place, name)
        for place, text in texts.items()
        for name, secret in secrets.items()
        if any(form in text for form in forms(secret))
    )


def on_host(
    host: str, secrets: dict[str, str], users: tuple = (), allowed: tuple = ()
) -> list[tuple[str, str]]:
    """Return where on a host which secret stands: pairs of a place and a secret's name.

    Args:
        host: Name of its container.
        secrets: What to look for, by name. Part of a secret will do, if it is nowhere else.
        users: Whose processes may have a secret in their environment, apart from root's.
        allowed: Paths, or beginnings of paths, that may hold one.
    """
    asked = {
        "forms": {name: forms(secret) for name, secret in secrets.items()},
        "users": list(users),
        "allowed": list(allowed),
    }
    done = subprocess.run(
        ["podman", "exec", "--interactive", host, "python3", "-c", CODE],
        input=json.dumps(asked),
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return [(place, name) for place, name in json.loads(done.stdout)]
