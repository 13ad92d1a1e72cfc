"""Look for secrets wherever somebody other than their owner could read them on a host.

In argv, in the environment of processes that are neither the service's nor root's, in units, in
the journal and all other logs, in folders for passing things, and in every file that others can
read. A secret is found as it is, and as base64, a URL or JSON would write it.

Each search of a host first plants a word of its own in every kind of place, and fails unless it
finds that, too: nothing found says nothing of a search that is blind.
"""

import base64
import json
import secrets as random
import subprocess
from urllib.parse import quote

# Runs as root on the host's own Python. Secrets come by stdin: here argv is searched.
CODE = r"""
import contextlib, json, mmap, os, pwd, stat, subprocess, sys, time

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
        # What is older than the host is of its image, which has no secret.
        elif stat.S_ISREG(found.st_mode) and found.st_size and found.st_ctime >= asked["created"]:
            if not others or found.st_mode & stat.S_IROTH:
                file(entry.path)

@contextlib.contextmanager
def planted(word):
    # In argv, environment, unit and journal of a service of `nobody`, and in a readable file.
    unit, path = f"canary-{os.getpid()}", f"/srv/canary-{os.getpid()}"
    start = ["systemd-run", "--quiet", "--collect", "--uid=nobody", f"--unit={unit}"]
    start += [f"--setenv=CANARY={word}", "sh", "-c", 'echo "$CANARY"; sleep 600; :', word]
    try:
        subprocess.run(start, check=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o644), "w") as opened:
            opened.write(word)
        logged = ["journalctl", "--output=cat", f"--unit={unit}"]
        until = time.monotonic() + 60
        while word not in subprocess.check_output(logged, text=True).splitlines():
            if time.monotonic() > until:
                sys.exit(f"{unit} has not written into the journal")
            time.sleep(0.1)
        yield
    finally:
        subprocess.run(["systemctl", "stop", unit])
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)

def search():
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

with planted(asked["control"]):
    search()
print(json.dumps(sorted(hits)))
"""

# Where each search has to find what it has planted.
CONTROLS = ("argv of ", "environment of ", "systemctl show", "systemctl cat", "the journal")
CONTROLS += ("/run/", "/srv/")


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
    control = f"control-{random.token_hex(12)}"
    wanted = {name: forms(secret) for name, secret in secrets.items()} | {control: [control]}
    form = "--format={{.Created.Unix}}"
    created = subprocess.check_output(["podman", "inspect", form, host], text=True)
    asked = {"forms": wanted, "users": users, "allowed": allowed, "control": control}
    asked["created"] = int(created)
    done = subprocess.run(
        ["podman", "exec", "--interactive", host, "python3", "-c", CODE],
        input=json.dumps(asked),
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    found = [(place, name) for place, name in json.loads(done.stdout)]
    seen = [place for place, name in found if name == control]
    blind = [place for place in CONTROLS if not any(each.startswith(place) for each in seen)]
    assert not blind, f"the search of {host} is blind to {blind}: it saw its own word in {seen}"
    return [(place, name) for place, name in found if name != control]
