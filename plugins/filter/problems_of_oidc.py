"""What is wrong with the identity provider that the operator configured."""

from __future__ import annotations

REQUIRED = ("discovery_url", "client_id", "client_secret")
LISTS = ("group_names", "admin_group_names", "username_claims")


def problems_of_oidc(settings: dict) -> list[str]:
    """Return what is wrong, one phrase each, without the secret.

    Args:
        settings: The role's mlflow_server_oidc, with its defaults.
    """
    found = [f"no {name}" for name in REQUIRED if not settings.get(name)]
    url, back = settings.get("discovery_url") or "", settings["redirect_uri"]
    # The client secret and user names are sent there.
    if url and not url.startswith("https://"):
        found.append(f"the discovery_url {url} without TLS")
    if not back.endswith("/callback"):
        found.append(f"the redirect_uri {back}, which the server does not answer at")
    for name in LISTS:
        # They become one text, separated by commas.
        bad = [str(each) for each in settings[name] if "," in str(each) or not str(each).strip()]
        found += [f"{each!r} in {name}" for each in bad]
        if not settings[name]:
            found.append(f"nothing in {name}")
    return found


class FilterModule:
    """Ansible's way to find the filter."""

    def filters(self) -> dict:
        return {"problems_of_oidc": problems_of_oidc}
