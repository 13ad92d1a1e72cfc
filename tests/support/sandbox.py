"""Where on a host a unit could leave files, asked of a unit that has its sandbox and tries.

systemd's own measure of a sandbox hardly moves if ProtectSystem is missing.
"""

import re

# As everybody may write there, it is the sandbox alone that keeps a unit out.
FOLDERS = [f"{above}/of-everybody" for above in ("/etc", "/run", "/srv", "/usr/local", "/var/lib")]
UNIT = "sandbox-of-a-test.service"
# What a unit does, and with what.
TASK = r"(?m)^(Exec|Environment|RuntimeDirectory|Restart|RemainAfterExit|Type)\w*=(.*\\\n)*.*\n"
# Who it is, without a sandbox.
IDENTITY = r"(?m)^(?:User|Group)=.*\n"


def attempt(host, lines) -> tuple[str, list[str]]:
    """Have a unit write into each folder; return its exit code and where it has."""
    files = [f"{folder}/written" for folder in FOLDERS]
    text = f"[Service]\nType=oneshot\nExecStart=/usr/bin/touch {' '.join(files)}\n{lines}"
    host.check_output(f"printf %s %s > /run/systemd/system/{UNIT}", "%s", text)
    host.check_output("systemctl daemon-reload")
    host.run(f"systemctl start {UNIT}")
    status = host.check_output(f"systemctl show --value --property=ExecMainStatus {UNIT}")
    found = host.check_output(f"find {' '.join(FOLDERS)} -name written -printf '%h\\n' -delete")
    return status, found.split()


def writes(host, unit: str) -> list[str]:
    """Return into which of FOLDERS a unit could write.

    Raises:
        AssertionError: It did not try, or could not write there without a sandbox either.
    """
    text = host.check_output("cat /etc/systemd/system/%s", unit)
    service = re.search(r"(?ms)^\[Service\]\n(.*?)(?=^\[|\Z)", text)[1]
    host.check_output(f"install --directory --mode=1777 {' '.join(FOLDERS)}")
    try:
        assert attempt(host, "".join(re.findall(IDENTITY, service))) == ("0", FOLDERS)
        status, found = attempt(host, re.sub(TASK, "", service))
        # touch says that it failed; systemd has other codes for what it could not set up.
        assert status == ("0" if found == FOLDERS else "1"), host.check_output(
            f"journalctl --output=cat --lines=20 --unit={UNIT}"
        )
        return found
    finally:
        host.run(f"systemctl reset-failed {UNIT}")
        host.check_output(f"rm /run/systemd/system/{UNIT} && systemctl daemon-reload")
        host.check_output(f"rmdir {' '.join(FOLDERS)}")
