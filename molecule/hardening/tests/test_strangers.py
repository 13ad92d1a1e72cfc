"""What one user can do to another's things: nothing, at any route that changes something."""

import strangers

group = "hardening-users"


def test_nothing_of_anothers_can_be_changed(ada, bob):
    """Each request passes with Bob's things alone, so that it is Ada's name or id for which the
    same one is refused. Who may read what is hers has all ids, and changes nothing either.
    """
    hers, his = strangers.things(ada, "ada"), strangers.things(bob, "bob")
    before = strangers.state(ada, hers)
    assert strangers.passed(bob, his, hers) == strangers.HARMLESS
    for kind, name in (("experiment", hers["experiment"]), ("registered_model", hers["model"])):
        grant = {"username": "bob", "resource_type": kind, "resource_id": name}
        path = "/api/3.0/mlflow/users/permissions/grant"
        assert ada.status("POST", path, grant | {"permission": "READ"}) == 200
    assert strangers.passed(bob, his, hers) - strangers.HARMLESS == strangers.READING
    assert not strangers.different(before, strangers.state(ada, hers))
    # Closed to all.
    assert set(strangers.refused(bob, his)) == {("POST", "mpu/create/<experiment>/files")}
