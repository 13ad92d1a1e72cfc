"""Rules of this repository that a linter does not know."""

import configparser
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
TASK_FILES = sorted(ROOT.glob("roles/*/tasks/*.yml"))
PLAYBOOKS = [ROOT / "site.yml", *sorted(ROOT.glob("playbooks/*.yml"))]


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


@pytest.mark.parametrize("path", TASK_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_task_with_a_secret_keeps_it(path):
    """What argument_specs marks as secret may be passed only with diff: false, and with no_log or
    to an option that the module itself never shows."""
    role = path.parents[1]
    options = load(role / "meta/argument_specs.yml")["argument_specs"]["main"]["options"]
    secrets = [name for name, option in options.items() if option.get("no_log")]
    modules = "".join(module.read_text() for module in role.glob("library/*.py"))
    for task in tasks_of(path):
        text = yaml.safe_dump({key: value for key, value in task.items() if key != "name"})
        for secret in secrets:
            if secret in text and "ansible.builtin.assert" not in task:
                assert task.get("diff") is False, f"{task['name']}: diff: false is missing"
                assert task.get("no_log") or '"no_log": True' in modules, task["name"]


def test_site_only_imports():
    """Everything that site.yml does can be run alone from playbooks/."""
    assert all(
        list(play) == ["name", "ansible.builtin.import_playbook"] for play in load(PLAYBOOKS[0])
    )


def test_becoming_root_is_said_by_the_plays_at_hosts():
    """In ansible.cfg it would hold for localhost too, and not for who has another ansible.cfg."""
    config = configparser.ConfigParser()
    config.read(ROOT / "ansible.cfg")
    assert not config.has_section("privilege_escalation")
    for path in PLAYBOOKS[1:]:
        for play in load(path):
            if "hosts" not in play:
                continue  # another playbook's
            assert play.get("become", False) is (play.get("connection") != "local"), play["name"]


def test_group_vars_reach_every_playbook():
    """Ansible looks for group_vars beside inventory and playbook, not in the root."""
    link = ROOT / "inventory/group_vars"
    assert link.is_symlink() and link.resolve() == ROOT / "group_vars"


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
