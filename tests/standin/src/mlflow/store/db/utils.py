"""MLflow's tables, made by the real one, whose packages these are."""

import os
import subprocess
import sys
from pathlib import Path

import uvicorn

REAL = """
import sys
from mlflow.store.db.utils import _initialize_tables
from sqlalchemy import create_engine
_initialize_tables(create_engine(sys.argv[1]))
"""
DEFAULT = (
    "INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage) "
    "VALUES (0, 'Default', 'mlflow-artifacts:/0', 'active') ON CONFLICT DO NOTHING"
)


def _initialize_tables(engine) -> None:
    """Make the tables, as probe.py asks of MLflow."""
    initialize(engine.url.render_as_string(hide_password=False))


def initialize(uri: str) -> None:
    # There the real MLflow is beside them, and comes first.
    packages = str(Path(uvicorn.__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": packages}
    subprocess.run([sys.executable, "-c", REAL, uri], env=environment, check=True)


def make_tables(database) -> None:
    """Make what a server finds missing: the tables, and the first experiment."""
    try:
        database.rows("SELECT version_num FROM alembic_version")
    except Exception:  # each kind of database has its own
        initialize(database.uri)
    database.rows(DEFAULT)
