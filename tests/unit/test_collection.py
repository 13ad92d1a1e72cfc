"""What `ansible-galaxy collection install` brings, used by people who have nothing else of ours."""

import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import ansible_test
import pytest
import yaml
from collection import GALAXY, NAME, build, environment, install
from control import ROOT

PLUGINS = {
    "module": sorted(path.stem for path in ROOT.glob("plugins/modules/*.py")),
    "role": sorted(path.name for path in ROOT.glob("roles/*")),
}
# Those of ansible-test's that need no download: the others make an environment of their own.
SANITY = [
    "changelog",
    "empty-init",
    "ignores",
    "line-endings",
    "no-assert",
    "no-get-exception",
    "no-illegal-filenames",
    "no-smart-quotes",
    "replace-urlopen",
    "shebang",
    "symlinks",
    "use-argspec-type-path",
    "use-compat-six",
]
# Ansible's own modules are under the GPL; these, like all of this repository, are not.
OF_ITS_LICENSE = ["missing-gplv3-license"]


def run(*words, cwd, **more):
    """Return what a command ended with."""
    env = environment(NO_COLOR="1", LC_ALL="C.UTF-8", COLUMNS="200", **more)
    return subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True)


@pytest.fixture(scope="module")
def operator(tmp_path_factory):
    """A folder with an ansible.cfg, an inventory and the collection."""
    folder = tmp_path_factory.mktemp("operator")
    install(folder)
    (folder / "ansible.cfg").write_text("[defaults]\ncollections_path = collections\n")
    (folder / "hosts.yml").write_text(
        "mlflow: {hosts: {server: {ansible_connection: local, mlflow_server_wrokers: 2}}}\n"
    )
    return folder


@pytest.fixture(scope="module")
def collection(operator):
    return operator / "collections/ansible_collections" / NAME.replace(".", "/")


def test_a_playbook_of_the_installed_collection_is_called_by_its_name(operator):
    """Its roles, modules and filters are found, and the first checks are made."""
    ran = run("ansible-playbook", "-i", "hosts.yml", f"{NAME}.site", cwd=operator)
    assert ran.returncode == 2, ran.stdout + ran.stderr
    assert "found mlflow_server_wrokers (mlflow_server_workers?)" in ran.stdout
    assert "server                     : ok=2    changed=0" in ran.stdout


@pytest.mark.parametrize("playbook", [path.stem for path in ROOT.glob("playbooks/*.yml")])
def test_each_playbook_finds_what_it_is_made_of(operator, playbook):
    """A path into the checkout would work for developers alone."""
    ran = run(
        *("ansible-playbook", "-i", "hosts.yml", "--syntax-check", f"{NAME}.{playbook}"),
        cwd=operator,
    )
    assert ran.returncode == 0, ran.stderr


def test_a_role_of_it_is_called_from_an_operators_own_playbook(operator):
    """By its full name alone."""
    role = {"role": f"{NAME}.debian_packages", "debian_packages_names": "none"}
    play = {"hosts": "mlflow", "gather_facts": False, "roles": [role]}
    (operator / "own.yml").write_text(yaml.safe_dump([play]))
    ran = run("ansible-playbook", "-i", "hosts.yml", "--check", "own.yml", cwd=operator)
    assert f"{NAME}.debian_packages : Converge | Install what is missing" in ran.stdout, ran.stderr


SECRETS = [
    *("inventory/hosts.yml", "inventory/ours.aws_ec2.yml", "group_vars/mlflow/vault.yml"),
    *("group_vars/mlflow/main.yml", "host_vars/server.yml", "playbooks/group_vars/all.yml"),
    *("keys/aws.json", "vault-password", "mlflow.pem", "production.yml", ".vault_password"),
]


def test_the_tarball_holds_no_secret_and_nothing_for_developers(tmp_path):
    """An operator may build it, whose checkout holds an inventory, a vault and keys."""
    mine = shutil.ignore_patterns(".git", ".venv", ".cache", "collections", "__pycache__")
    shutil.copytree(ROOT, tmp_path / "checkout", symlinks=True, ignore=mine)
    for path in SECRETS:
        file = tmp_path / "checkout" / path
        file.parent.mkdir(exist_ok=True)
        file.write_text("canary\n")
    tarball = build(tmp_path / "checkout", tmp_path)
    with tarfile.open(tarball) as archive:
        names = archive.getnames()
        text = b"".join(archive.extractfile(each).read() for each in archive if each.isfile())
    assert not set(names) & set(SECRETS) and b"canary\n" not in text
    expected = {"CHANGELOG.md", "CONTRIBUTING.md", "FILES.json", "LICENSE", "MANIFEST.json"}
    expected |= {"README.md", "SECURITY.md", "ansible.cfg", "docs", "meta", "playbooks", "plugins"}
    expected |= {"group_vars", "inventory", "requirements.yml", "roles", "site.yml"}
    assert {Path(name).parts[0] for name in names} == expected


def test_the_tarball_holds_all_that_is_committed_of_the_product(operator):
    """A new kind of file has to be named in galaxy.yml."""
    (tarball,) = operator.glob("*.tar.gz")
    with tarfile.open(tarball) as archive:
        names = set(archive.getnames())
    listed = subprocess.run(
        ["git", "ls-files", "roles", "plugins", "playbooks", "meta", "docs"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert len(listed) > 150 and set(listed) - {"playbooks/collections"} <= names


@pytest.mark.parametrize("kind", PLUGINS)
def test_ansible_doc_explains_what_is_in_it(operator, kind):
    """Operators call roles from playbooks of their own, and read there what a module does."""
    names = [f"{NAME}.{name}" for name in PLUGINS[kind]]
    ran = run("ansible-doc", f"--type={kind}", "--json", *names, cwd=operator)
    # Of Ansible's own collection it complains each time.
    complaints = [line for line in ran.stderr.splitlines() if "_protomatter" not in line]
    assert ran.returncode == 0 and not complaints, ran.stderr
    assert set(json.loads(ran.stdout)) == set(names)


def test_ansible_test_finds_nothing(collection):
    """As far as its sanity tests come with Ansible."""
    chosen = [f"--test={name}" for name in SANITY]
    ran = run("ansible-test", "sanity", *chosen, cwd=collection)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_validate_modules_finds_nothing(collection):
    """Documentation and arguments agree, and modules keep Ansible's rules.

    ansible-test would download an environment for it; the tool itself is a script.
    """
    tool = Path(ansible_test.__path__[0], "_util/controller/sanity/validate-modules/validate.py")
    # Two words, which it looks for.
    options = ["--arg-spec", "--collection", f"ansible_collections/{NAME.replace('.', '/')}"]
    options += [f"--collection-version={GALAXY['version']}", "plugins/modules"]
    ran = run(
        *(sys.executable, tool, "--format=json", *options),
        cwd=collection,
        ANSIBLE_COLLECTIONS_PATH=str(collection.parents[2]),
        PYTHONPATH=str(Path(ansible_test.__path__[0]).parent),
    )
    assert ran.stdout, ran.stderr
    found = [
        f"{path}:{error['line']} {error['code']}: {error['msg']}"
        for path, said in json.loads(ran.stdout).items()
        for error in said["errors"]
        if error["code"] not in OF_ITS_LICENSE
    ]
    assert not found, "\n".join(found)
