"""Runs a shell command at a point of a playbook, so that a test can break something there."""

import os
import subprocess

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: at_point
type: aggregate
short_description: Run a shell command at a point of a playbook
description:
  - For tests, which set C(AT_EVENT) (C(start), a task begins; C(changed), a host reports a change),
    C(AT_WORD) (only if it is in the task's name and module, and for C(changed) the host's name),
    C(AT_COUNT) (the how many-th time) and C(AT_COMMAND), of which $PPID is the control process.
"""


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "at_point"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self):
        super().__init__()
        self.left = int(os.environ["AT_COUNT"])

    def at(self, event: str, task, host="") -> None:
        if event != os.environ["AT_EVENT"]:
            return
        if os.environ["AT_WORD"] not in f"{task.get_name()} {task.action} {host}":
            return
        self.left -= 1
        if self.left == 0:
            # Ansible has closed its own.
            quiet = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
            subprocess.run(["sh", "-c", os.environ["AT_COMMAND"]], check=True, **quiet)

    def v2_playbook_on_task_start(self, task, is_conditional):
        self.at("start", task)

    def v2_runner_on_ok(self, result):
        if result.is_changed():
            self.at("changed", result.task, result.host)
