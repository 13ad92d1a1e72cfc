"""Options shared by the modules for one database of a PostgreSQL server."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  name: {description: Name of the database., type: str, required: true}
  owner: {description: Role that owns it., type: str, required: true}
  group: {description: Role that reads and writes., type: str, required: true}
  logins: {description: Roles that log in., type: list, elements: str, default: []}
  passwords:
    description:
      - Passwords of the owner and of each login, by name. Never shown, and kept out of the
        host's journal, where Ansible logs the other options as they are.
    type: dict
    required: true
  admin_host:
    description: Host of the server. If empty, this host's unix socket as the system user.
    type: str
    default: ''
  admin_port: {description: Port of the server., type: int, default: 5432}
  admin_user: {description: Role that creates roles and databases., type: str, default: postgres}
  admin_password: {description: Its password., type: str, default: ''}
  admin_database: {description: Database that it connects to., type: str, default: postgres}
  sslmode: {description: libpq's sslmode for that host., type: str, default: require}
  ca: {description: CAs that may sign its certificate in PEM., type: str, default: ''}
  python:
    description: A Python that can import psycopg2, if the one that runs the module cannot.
    type: str
    default: ''
"""
