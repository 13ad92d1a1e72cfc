"""What is wrong with the users and permissions that the operator listed."""

from __future__ import annotations

from collections import Counter

LEAST_CHARACTERS = 12
EXAMPLE = "example-change-me"
# MLflow's default administrator password before 3.10: GHSA-gq3w-7jj3-x7gr.
KNOWN = ("password1234",)
PERMISSIONS = ("READ", "USE", "EDIT", "MANAGE", "DENY", "NONE")
# The types that MLflow 3.17 grants by name: PatternKind.ID in mlflow/server/auth/permissions.py.
RESOURCES = ("experiment", "registered_model", "prompt", "scorer", "gateway_secret")
RESOURCES += ("gateway_endpoint", "gateway_model_definition", "mcp_server")


def password_problem(password: str) -> str:
    """Return why a password is unusable, or nothing. One that YAML read as a number is."""
    password = str(password or "")
    if EXAMPLE in password:
        return "the example's password"
    if password in KNOWN:
        return "a password that everybody knows"
    if not password.isascii():
        # MLflow 3.17 decodes nothing else in _authenticate_fastapi_request and for artifacts.
        return "a password beyond ASCII, which MLflow does not take everywhere"
    if len(password) < LEAST_CHARACTERS:
        return f"a password of {len(password)} characters" if password else "no password"
    return ""


def permission_problems(permissions: dict) -> list[str]:
    unknown = [kind for kind in permissions if kind not in RESOURCES]
    found = [f"the resource type {kind}, none of {'/'.join(RESOURCES)}" for kind in unknown]
    for kind, by_name in permissions.items():
        if not isinstance(by_name, dict):
            found.append(f"permissions on {kind} that are not by name")
            continue
        known = f"none of {'/'.join(PERMISSIONS)}"
        found += [f"{v} on {name}, {known}" for name, v in by_name.items() if v not in PERMISSIONS]
    return found


def problems_of_users(users: list[dict], admin: str, admin_password: str) -> list[str]:
    """Return what is wrong, one phrase each, without any password.

    Args:
        users: The role's mlflow_server_users.
        admin: Name of the administrator.
        admin_password: The administrator's password.
    """
    found = [f"{admin} with {problem}"] if (problem := password_problem(admin_password)) else []
    for name, times in Counter([admin, *(user["name"] for user in users)]).items():
        # MLflow uses HTTP basic authentication, where a colon ends the name.
        if ":" in name or not name.strip() or not name.isascii():
            found.append(f"the name {name!r}")
        if times > 1:
            found.append(f"{name} {times} times")
    for user in users:
        if user.get("state", "present") == "present":
            problems = permission_problems(user.get("permissions") or {})
            if problem := password_problem(user.get("password", "")):
                problems.append(problem)
            found += [f"{user['name']} with {problem}" for problem in problems]
    return found


class FilterModule:
    """Ansible's way to find the filter."""

    def filters(self) -> dict:
        return {"problems_of_users": problems_of_users}
