"""What an operator learns of things that the inventory names no more."""

from left_behind import left_behind


def server(machine, instance="mlflow", instances=None, unused=()):
    look = {
        "place": f"{machine} {instance}",
        "instances": instances or {instance: True},
        "releases_unused": list(unused),
    }
    return {"mlflow_server_instance": instance, "mlflow_server_look": look}


def test_an_instance_that_was_taken_out_of_the_inventory_is_named():
    """It serves on, with a key that no rotation reaches, and would be in no list."""
    found = {"mlflow": True, "mlflow-a": True, "mlflow-b": False}
    servers = {
        "one": server("m1", instances=found),
        "one-a": server("m1", "mlflow-a", found),
        # Another machine's instance of that name is another instance.
        "two": server("m2", "mlflow-b"),
    }
    (line,) = left_behind(servers, "one")
    assert line.startswith("Not in the inventory: mlflow-b, which does not serve")
    assert "mlflow_server_state: absent" in line
    assert left_behind(servers, "two") == []


def test_one_that_this_run_does_not_look_at_is_not_taken_for_a_stray():
    """With --limit nobody knows which machine it is on."""
    servers = {
        "one": server("m1", instances={"mlflow": True, "mlflow-a": True}),
        "one-a": {"mlflow_server_instance": "mlflow-a"},
    }
    assert left_behind(servers, "one") == []
    assert left_behind(servers, "one-a") == []


def test_releases_that_nothing_uses_are_named():
    """Each has 750 MB. Not those that are kept for the way back."""
    unused = ["3.16.1-cp313-00000000", "3.15.0-cp313-00000000", "3.14.0-cp313-00000000"]
    (line,) = left_behind({"one": server("m1", unused=unused)}, "one")
    assert all(name in line for name in unused)
    assert left_behind({"one": server("m1", unused=unused[1:])}, "one") == []
    assert (
        left_behind({"one": server("m1", unused=unused) | {"mlflow_venv_keep_releases": 5}}, "one")
        == []
    )
