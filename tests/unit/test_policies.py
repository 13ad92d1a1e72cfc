"""Rules of this repository that a linter does not know."""

import configparser
import functools
import importlib
import os
import re
import subprocess
import unittest.mock
from pathlib import Path

import ansible_collections
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
TASK_FILES = sorted(ROOT.glob("roles/*/tasks/*.yml"))
SITE = ROOT / "playbooks/site.yml"
PLAYBOOKS = sorted(ROOT.glob("playbooks/*.yml"))
OF_PLAYBOOKS = [*PLAYBOOKS, *sorted(ROOT.glob("playbooks/tasks/*.yml"))]


def load(path):
    return yaml.safe_load(path.read_text()) or []


def tasks_of(path):
    """Return every task of a task file or of a playbook's plays, those in blocks included."""
    waiting = list(load(path))
    found = []
    while waiting:
        item = waiting.pop()
        lists = ("tasks", "pre_tasks", "post_tasks", "handlers", "block", "rescue", "always")
        inner = [key for key in lists if key in item]
        for key in inner:
            waiting += item[key]
        if not inner:
            found.append(item)
    return found


ALL_TASKS = [
    pytest.param(task, id=f"{path.relative_to(ROOT)}: {task.get('name')}")
    for path in [*TASK_FILES, *PLAYBOOKS]
    for task in tasks_of(path)
]


@pytest.mark.parametrize("path", TASK_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_tasks_name_begins_with_its_file(path):
    """So that a line of output tells where to look."""
    if path.name == "main.yml":
        return
    for task in tasks_of(path):
        assert task["name"].startswith(f"{path.stem.capitalize()} | "), task["name"]


@pytest.mark.parametrize("path", sorted(ROOT.glob("roles/*/tasks/main.yml")), ids=str)
def test_main_is_a_table_of_contents(path):
    """A reader finds in ten seconds which file does what."""
    for task in load(path):
        assert {"ansible.builtin.import_tasks", "ansible.builtin.include_tasks"} & task.keys()


@pytest.mark.parametrize("task", ALL_TASKS)
def test_no_task_hides_a_failure_or_shows_a_secret(task):
    """An error that is swallowed comes back at night; an environment is shown at -vvv."""
    assert not task.get("ignore_errors")
    assert task.get("failed_when", True) is not False
    assert "{{" not in str(task.get("environment", ""))


def mentions(names, value):
    """Return those of some variables that stand in a value."""
    return {name for name in names if re.search(rf"\b{name}\b", str(value))}


def spread(secrets, variables):
    """Return secrets and the variables that are made of them."""
    while more := {name for name in variables if mentions(secrets, variables[name])} - secrets:
        secrets = secrets | more
    return secrets


def is_hidden(option):
    """Tell whether an option of a role or module, or one of its suboptions, is never shown."""
    return bool(option.get("no_log")) or any(map(is_hidden, option.get("options", {}).values()))


@functools.cache
def secrets_of(role):
    """Return the role's options that are marked as secret, and its variables made of them."""
    entries = load(role / "meta/argument_specs.yml")["argument_specs"].values()
    options = {name: option for entry in entries for name, option in entry["options"].items()}
    variables = {}
    for file in (role / "defaults/main.yml", role / "vars/main.yml"):
        variables |= load(file) if file.exists() else {}
    return frozenset(spread({name for name in options if is_hidden(options[name])}, variables))


@functools.cache
def spec_of(module):
    """Return the options of one of our modules, as it gives them to Ansible when it is run."""
    code = importlib.import_module(module)
    with pytest.MonkeyPatch.context() as patch:
        given = unittest.mock.Mock(side_effect=InterruptedError)
        patch.setattr(code, "AnsibleModule", given)
        with pytest.raises(InterruptedError):
            code.main()
    return given.call_args.kwargs["argument_spec"]


FILES = "mlflow_ansible.tracking.mlflow_files"
# Options that get no more than the names of secrets, or the public half of a key.
NAMES = [
    ("mlflow_files", "files"),
    ("postgresql_database", "logins"),
    ("postgresql_turn", "logins"),
    ("aws_credentials_profile", "access_key_id"),
]


def shown_secrets(task, secrets):
    """Say what a task would show of secrets at -vvv or with --diff: pairs of module and option.

    Args:
        secrets: Names of variables.
    """
    secrets = spread(set(secrets), task.get("vars", {}))
    (module,) = (key for key in task if "." in key)
    # What assert shows is its fail_msg, which is written for the operator and has tests of its own.
    others = ["loop", "args", "until"]
    if module == "ansible.builtin.assert" or not mentions(
        secrets, [task[module], *map(task.get, others)]
    ):
        return []
    if task.get("diff") is not False:
        return [(module, "diff")]
    if task.get("no_log"):
        return []
    given = task[module] if isinstance(task[module], dict) else {"": task[module]}
    # One of ours may hide some of its options.
    own = module.removeprefix("mlflow_ansible.tracking.")
    spec = spec_of(own) if own != module else {}
    found = [option for option in given if mentions(secrets, given[option])]
    found = [option for option in found if not is_hidden(spec.get(option, {}))]
    found += [other for other in others if mentions(secrets, task.get(other))]
    return [(module, option) for option in found if (own, option) not in NAMES]


@pytest.mark.parametrize("path", TASK_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_task_with_a_secret_keeps_it(path):
    """What argument_specs marks as secret, and what is made of it, may be passed only with diff:
    false, and with no_log or to an option that the module itself never shows."""
    role = path.parents[1]
    for task in tasks_of(path):
        assert shown_secrets(task, secrets_of(role)) == [], task["name"]


@pytest.mark.parametrize("path", OF_PLAYBOOKS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_playbooks_task_with_a_secret_keeps_it(path):
    """A playbook has all roles' secrets, and variables of its own that are made of them."""
    roles = [path.parents[1] for path in ROOT.glob("roles/*/meta/argument_specs.yml")]
    secrets = set().union(*map(secrets_of, roles))
    assert "mlflow_server_admin_password" in secrets
    variables = {}
    for play in load(path):
        variables |= play.get("vars", {})
    for task in tasks_of(path):
        # Not a play that has roles alone.
        if "hosts" not in task:
            assert shown_secrets(task, spread(secrets, variables)) == [], task["name"]


@pytest.mark.parametrize(
    ("task", "shown"),
    [
        ({"ansible.builtin.command": "echo {{ made_of_it }}", "diff": False}, ""),
        ({"ansible.builtin.command": {"cmd": "echo {{ its }}"}, "diff": False}, "cmd"),
        ({"ansible.builtin.command": "true", "loop": "{{ its }}", "diff": False}, "loop"),
        ({"ansible.builtin.command": "a", "args": {"stdin": "{{ its }}"}, "diff": False}, "args"),
        ({"ansible.builtin.copy": {"content": "{{ its }}"}, "no_log": True}, "diff"),
        ({FILES: {"texts": {"a": "{{ its }}"}}}, "diff"),
        ({FILES: {"into": "{{ its }}"}, "diff": False}, "into"),
        ({FILES: {"texts": {"a": "{{ its }}"}}, "diff": False}, None),
        ({"ansible.builtin.copy": {"content": "{{ its }}"}, "diff": False, "no_log": True}, None),
        ({"ansible.builtin.copy": {"content": "{{ itself }}"}}, None),
    ],
)
def test_a_task_that_would_show_one_is_found(task, shown):
    """What a module of ours hides is hidden; another's hides nothing."""
    found = shown_secrets(task | {"vars": {"made_of_it": "{{ its }}"}}, {"its"})
    assert [option for _, option in found] == ([] if shown is None else [shown])


def test_site_only_imports():
    """Everything that site.yml does can be run alone from playbooks/."""
    assert all(list(play) == ["name", "ansible.builtin.import_playbook"] for play in load(SITE))


def test_becoming_root_is_said_by_the_plays_at_hosts():
    """In ansible.cfg it would apply to localhost too, and not with another ansible.cfg."""
    config = configparser.ConfigParser()
    config.read(ROOT / "ansible.cfg")
    assert not config.has_section("privilege_escalation")
    for path in PLAYBOOKS:
        for play in load(path):
            if "hosts" not in play:
                continue  # another playbook's
            assert play.get("become", False) is (play.get("connection") != "local"), play["name"]


def test_group_vars_reach_every_playbook():
    """Ansible looks for group_vars beside inventory and playbook, not in the root."""
    link = ROOT / "inventory/group_vars"
    assert link.is_symlink() and link.resolve() == ROOT / "group_vars"


@pytest.mark.parametrize("playbook", ["site.yml", "playbooks/client.yml"])
def test_roles_are_found_without_ansible_cfg(playbook, tmp_path):
    """It is not read in a folder that everybody may write to, as WSL's are, or from elsewhere."""
    (tmp_path / "ansible.cfg").touch()
    environment = os.environ | {"ANSIBLE_CONFIG": str(tmp_path / "ansible.cfg")}
    command = ["ansible-playbook", "--syntax-check", "--inventory=localhost,", ROOT / playbook]
    done = subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_collection_that_is_used_is_listed():
    """Whoever has ansible-core alone, as AWX, would fail half-way through a run."""
    listed = {
        each["name"]: each["version"] for each in load(ROOT / "requirements.yml")["collections"]
    }
    depended = load(ROOT / "galaxy.yml")["dependencies"]
    folders = [Path(folder).glob("*/*") for folder in ansible_collections.__path__]
    known = {f"{path.parent.name}.{path.name}" for folder in folders for path in folder}

    def used(*tops):
        found = set()
        for path in [path for top in tops for path in (ROOT / top).rglob("*")]:
            if path.is_file() and path.suffix in (".yml", ".j2", ".example"):
                found |= set(re.findall(r"\b([a-z_]+\.[a-z_]+)\.[a-z_]+", path.read_text()))
        return found & known - {"mlflow_ansible.tracking"}

    assert used("playbooks", "plugins", "roles", "inventory") == set(depended)
    assert used("playbooks", "plugins", "roles", "inventory", "molecule") < set(listed)
    assert depended.items() < listed.items(), "the same versions"


def test_no_example_is_loaded():
    """Every *.yml in a group's folder is loaded, an example with its fake secrets too."""
    loaded = [
        path for end in ("yml", "yaml", "json") for path in ROOT.glob(f"group_vars/**/*.{end}")
    ]
    assert [path for path in loaded if "example" in path.name] == []


def test_every_secret_of_the_example_is_refused_when_left():
    """The preflight looks for one phrase; an example without it would pass."""
    for path in ROOT.glob("group_vars/*/vault.yml.example"):
        assert set(load(path).values()) == {"example-change-me"}


def test_role_names_do_not_appear_in_other_roles():
    """Roles do not know each other: the playbooks wire them."""
    roles = [path.name for path in (ROOT / "roles").iterdir()]
    for role in roles:
        for path in [
            *TASK_FILES,
            *ROOT.glob("roles/*/defaults/*.yml"),
            *ROOT.glob("roles/*/vars/*.yml"),
        ]:
            if path.parents[1].name != role:
                assert f"{role}_" not in path.read_text(), f"{path} knows the role {role}"


@pytest.mark.parametrize("path", TASK_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_done_here_is_done_by_the_python_that_runs_ansible(path):
    """An inventory may have a localhost with the system's Python, which has no boto3."""
    for task in load(path):
        if task.get("delegate_to") == "localhost":
            here = task["vars"]["ansible_python_interpreter"]
            assert here == "{{ ansible_playbook_python }}", task["name"]


@pytest.mark.parametrize("task", ALL_TASKS)
def test_nobody_becomes_another_user_than_root(task):
    """Without pipelining, as over Systems Manager, Ansible cannot hand its files to one who is not.

    A module that works as somebody becomes them itself.
    """
    assert "become_user" not in task


def names_given(item):
    """Return the names of variables that a play, block or task gives, itself or in what it has."""
    found = set(item.get("vars", {})) | {item.get("register", "__")}
    found |= set(item.get("ansible.builtin.set_fact", {})) - {"cacheable"}
    lists = ("tasks", "pre_tasks", "post_tasks", "block", "rescue", "always")
    return found.union(*(names_given(inner) for key in lists for inner in item.get(key, [])))


@pytest.mark.parametrize(
    "path",
    [*TASK_FILES, *OF_PLAYBOOKS, *sorted(ROOT.glob("playbooks/vars/*.yml"))],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_no_name_is_one_that_an_operator_may_have(path):
    """A play's or task's variable hides one of the same name in the operator's own templates, such
    as a `servers` of theirs in a setting of ours. So each is a role's, or begins with two dashes.
    """
    content = load(path)
    given = set(content) if isinstance(content, dict) else set().union(*map(names_given, content))
    roles = tuple(f"{role.name}_" for role in ROOT.glob("roles/*"))
    ours = ("__", "ansible_", *roles)
    assert [name for name in sorted(given) if not name.startswith(ours)] == []


# What the field does not say, and what it says instead.
FOREIGN = {
    r"mend(s|ed|ing)?": "fix",
    r"heed(s|ed|ing)?": "use, apply",
    r"told": "reported, warned of",
    r"lets? in": "admits",
    r"(goes|go) before": "takes precedence over",
    r"parted by": "separated by",
    r"mighty": "privileged",
    r"slips? of the pen": "typo",
    r"whoever": "anyone who",
    r"(he|him|his)": "they",
}


@pytest.mark.parametrize("word", FOREIGN)
def test_words_are_those_of_the_field(word):
    """People who read a page or a comment for the first time know these, and look for these."""
    files = [
        ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
    ]
    for pattern in ("docs/*.md", "playbooks/**/*.yml", "plugins/**/*.py", "roles/**/*"):
        files += [path for path in ROOT.glob(pattern) if "collections" not in path.parts]
    # A template or a file of a host has a comment changed with its content: that alone is a roll.
    files = [path for path in files if path.suffix in (".md", ".yml", ".py")]
    files = [path for path in files if path.parent.name != "files"]
    assert len(files) > 150
    pattern = re.compile(rf"(?i)\b{word}\b")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in files
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if pattern.search(line)
    ]
    assert found == [], f"say {FOREIGN[word]}"
