"""The users of hardening-users, as the inventory has them: name and password."""

ADMIN = ("admin", "canary-admin-password")
ADA = ("ada", "canary-ada: p@ss%/'\"")
BOB = ("bob", "canary-bob-password")
