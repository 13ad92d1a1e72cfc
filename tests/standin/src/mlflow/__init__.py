"""Stands in for MLflow where a test is about the order of a roll or a playbook; see ../build.py."""
