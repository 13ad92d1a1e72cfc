"""The operator's secrets, in a file that an inventory reads."""

import json
from pathlib import Path


class Vault:
    """What stands in for an encrypted file of group_vars.

    Args:
        path: Path of the file, which may not be there yet.
    """

    def __init__(self, path: Path):
        self.path = path

    def read(self) -> dict[str, str]:
        return json.loads(self.path.read_text()) if self.path.exists() else {}

    def __getitem__(self, name: str) -> str:
        return self.read()[name]

    def put(self, **secrets: str) -> None:
        """Replace some of them."""
        self.path.write_text(json.dumps(self.read() | secrets))
