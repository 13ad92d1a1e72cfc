"""Fresh hosts that a benchmark measures, in the engine of tools/hosts, reached over SSH."""

import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Logs, inventory and the key of the hosts, which is made anew by every run.
WORK = ROOT / ".cache/bench"
BASE = "localhost/mlflow-ansible/debian-13"
IMAGE = "localhost/mlflow-ansible/bench"
PORT = 5000
READY_SECONDS = 300

# A bare host, as a cloud image is: sshd, a user with sudo, no package lists.
PREPARE = """
set -eu
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update
apt-get -qq install --no-install-recommends openssh-server >/dev/null
echo LogLevel VERBOSE >/etc/ssh/sshd_config.d/bench.conf
useradd --create-home --shell /bin/bash admin
echo 'admin ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/admin
mkdir -m 700 /home/admin/.ssh
echo "$KEY" >/home/admin/.ssh/authorized_keys
chown -R admin: /home/admin
apt-get clean
rm -rf /var/lib/apt/lists/*
"""

# Bytes of memory of all processes in the control groups of some units.
PSS = """
total=0
for unit; do
    for pid in $(find "/sys/fs/cgroup/system.slice/$unit" -name cgroup.procs -exec cat {} +); do
        kb=$(awk '/^Pss:/ {print $2}' "/proc/$pid/smaps_rollup")
        total=$((total + ${kb:-0}))
    done
done
echo $((total * 1024))
"""


def say(text: str) -> None:
    print(f"==> {text}", flush=True)


def output(*words: str) -> str:
    """Run a command and return its output; end with what it said if it fails."""
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"Wanted `{' '.join(words)}` to succeed; found: {done.stderr or done.stdout}")
    return done.stdout.strip()


def podman(*words: str) -> str:
    return output("podman", *words)


def make_image() -> None:
    """Make the image of the bare hosts, and the key to them."""
    subprocess.run([ROOT / "tools/apt", "openssh-client"], check=True)
    WORK.mkdir(parents=True, exist_ok=True)
    for name in ("key", "key.pub", "known_hosts"):
        (WORK / name).unlink(missing_ok=True)
    output("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "bench", "-f", str(WORK / "key"))
    key = (WORK / "key.pub").read_text().strip()
    podman("rm", "--force", "--ignore", "bench-image")
    podman("run", "--name=bench-image", "--network=mlflow-ansible", f"--env=KEY={key}",
           BASE, "sh", "-c", PREPARE)  # fmt: skip
    podman("commit", "--quiet", '--change=CMD ["/sbin/init"]', "bench-image", IMAGE)
    podman("rm", "bench-image")


class Host:
    """A fresh host, booted.

    Args:
        name: Its name, `bench-` before it.
        image: What it is made from.
    """

    def __init__(self, name: str, image: str = IMAGE):
        self.name = f"bench-{name}"
        podman("rm", "--force", "--ignore", "--time=0", self.name)
        podman("run", "--detach", f"--name={self.name}", f"--hostname={self.name}",
               "--systemd=always", "--privileged", "--network=mlflow-ansible", image)  # fmt: skip
        networks = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        self.address = podman("inspect", f"--format={networks}", self.name)
        booted = "until systemctl is-system-running --wait 2>/dev/null; do sleep 0.2; done"
        self.run("timeout", "60", "sh", "-c", booted)
        with (WORK / "known_hosts").open("a") as known:
            known.write(f"{self.address} {self.run('cat', '/etc/ssh/ssh_host_ed25519_key.pub')}\n")

    def run(self, *words: str) -> str:
        return podman("exec", self.name, *words)

    @property
    def url(self) -> str:
        return f"http://{self.address}:{PORT}"

    @property
    def variables(self) -> dict:
        """How Ansible reaches the host."""
        return {
            "ansible_host": self.address,
            "ansible_user": "admin",
            "ansible_ssh_private_key_file": str(WORK / "key"),
            "ansible_ssh_common_args": f"-o UserKnownHostsFile={WORK / 'known_hosts'}",
        }

    def is_served(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False

    def wait_until_served(self, process: subprocess.Popen, log: Path) -> None:
        """Return once /health is answered.

        Args:
            process: What is to bring that about.
            log: What it says.
        """
        until = time.monotonic() + READY_SECONDS
        while not self.is_served():
            if process.poll() or time.monotonic() > until:
                end = log.read_text()[-3000:]
                sys.exit(f"Wanted {self.url}/health answered; found that it is not:\n{end}")
            time.sleep(0.1)

    def memory(self, *units: str) -> int:
        """Return the memory of some units at rest, in bytes: once it no longer grows."""
        former, now = 0, self.pss(*units)
        while now > former * 1.01:
            time.sleep(10)
            former, now = now, self.pss(*units)
        return now

    def pss(self, *units: str) -> int:
        return int(self.run("sh", "-c", PSS, "sh", *units))

    def commands(self) -> int:
        """Return how many commands sshd has been asked to run."""
        journal = self.run("journalctl", "--unit=ssh", "--output=cat", "--no-pager")
        return len(re.findall(r"(?m)^Starting session: command for admin", journal))
