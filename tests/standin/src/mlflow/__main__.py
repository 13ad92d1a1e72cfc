"""`python -m mlflow server`, with the options that the unit gives to it."""

import os
import shlex
import sys

command, *words = sys.argv[1:]
if command != "server":
    sys.exit(f"The stand-in has no `mlflow {command}`.")
options = shlex.split(words[words.index("--uvicorn-opts") + 1])
workers = f"--workers={os.environ.get('MLFLOW_WORKERS', '1')}"
uvicorn = [sys.executable, "-m", "uvicorn", "mlflow.server:app", "--lifespan=off", workers]
os.execv(sys.executable, [*uvicorn, *options])
