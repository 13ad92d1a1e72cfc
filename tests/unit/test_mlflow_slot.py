"""What modules ask of a slot."""

from ansible_collections.mlflow_ansible.tracking.plugins.module_utils import mlflow_slot


def test_a_probe_has_the_slots_environment_and_a_folder_of_its_own(tmp_path):
    """The server's is emptied by each of its starts: one that was killed while it was proven took
    the probe's object along, and the operator was told that the artifact store had refused it.
    """
    slot = tmp_path / "green"
    slot.mkdir()
    (slot / "mlflow.service").write_text(
        "[Service]\n"
        "EnvironmentFile=/etc/mlflow/%j/server.env\n"
        "Environment=TMPDIR=/var/lib/mlflow/tmp/%j\n"
        "Environment=PGSSLROOTCERT=/etc/mlflow/%j/pgsslrootcert\n"
    )
    command = mlflow_slot.probe_command("mlflow", slot, ["artifacts"], 60, more="/run/more.env")
    properties = [word.removeprefix("--property=") for word in command if "--property=" in word]
    environment = [each for each in properties if each.startswith("Environment")]
    assert environment == [
        "EnvironmentFile=/etc/mlflow/green/server.env",
        "Environment=PGSSLROOTCERT=/etc/mlflow/green/pgsslrootcert",
        "EnvironmentFile=/run/more.env",
    ]
    assert "PrivateTmp=yes" in properties
    assert command[-3:] == [f"{slot}/release/bin/python", f"{slot}/probe.py", "artifacts"]


def test_the_settings_of_a_slot_are_all_that_say_where_its_data_is(tmp_path):
    """A database's address that has a password in it is among the secrets, which go first."""
    assert mlflow_slot.settings_of(None) == mlflow_slot.settings_of(tmp_path) == ""
    (tmp_path / "secrets.env").write_text('A="secret"\n')
    assert mlflow_slot.settings_of(tmp_path) == 'A="secret"\n'
    (tmp_path / "server.env").write_text('A="public"')
    assert mlflow_slot.settings_of(tmp_path).splitlines() == ['A="public"', 'A="secret"']
