#!/usr/bin/env python3
"""Make releases of a small server that stands in for MLflow, as wheels with their locks.

    build.py FOLDER     writes FOLDER/mlflow-VERSION.txt and FOLDER/mlflow-VERSION-py3-none-any.whl

Where a test is about the order of a roll or of a playbook, MLflow itself, which takes eight seconds
of a core to start, is not what is tested. The roles take these like any other version. What a wheel
imports it finds where molecule/shared/standin.yml has put MLflow's own packages.
"""

import hashlib
import re
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

PACKAGE = Path(__file__).parent / "src/mlflow"
# What is wrong with each: see server.py.
FAULTS = {"0.0.1": "", "0.0.2": "", "0.0.3": "import", "0.0.4": "database"}
PACKAGES = "/opt/standin/packages"


def head() -> str:
    """Return the schema revision of the real MLflow, whose tables are used."""
    folder = Path(find_spec("mlflow").origin).parent / "store/db_migrations/versions"
    text = "\n".join(path.read_text() for path in folder.glob("*.py"))
    known, former = (
        set(re.findall(rf'^{name} = "(\w+)"', text, re.MULTILINE))
        for name in ("revision", "down_revision")
    )
    (found,) = known - former
    return found


def wheel(version: str, fault: str) -> dict[str, str]:
    """Return the files of a wheel, by their names."""
    files = {
        f"mlflow/{path.relative_to(PACKAGE)}": path.read_text() for path in PACKAGE.rglob("*.py")
    }
    info = f"mlflow-{version}.dist-info"
    files |= {
        "mlflow/version.py": f'VERSION = "{version}"\nFAULT = "{fault}"\n',
        "mlflow/store/db_migrations/versions/head.py": (
            f'revision = "{head()}"\ndown_revision = None\n'
        ),
        "standin.pth": f"{PACKAGES}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: mlflow\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    return files | {f"{info}/RECORD": "".join(f"{name},,\n" for name in files)}


def build(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for version, fault in FAULTS.items():
        path = folder / f"mlflow-{version}-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as archive:
            for name, text in sorted(wheel(version, fault).items()):
                # With a date of its own, so that the same files make the same wheel.
                archive.writestr(zipfile.ZipInfo(name), text)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        lock = folder / f"mlflow-{version}.txt"
        lock.write_text(f"mlflow=={version} \\\n    --hash=sha256:{digest}\n")


if __name__ == "__main__":
    build(Path(sys.argv[1]))
