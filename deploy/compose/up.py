"""Start the system of compose.yaml: make the secrets that are missing, then buckets, tables and users, then API keys, then the services.

What is there stays as it is, so that it may be run again at any time. It needs Python 3.9, Docker and Compose on the host, nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import secrets
import shlex
import subprocess
from pathlib import Path
from urllib.parse import quote

DATABASE = "postgresql://{role}:{password}@database:5432/lethe"
# Users of the store: one for each service, one for the operator's command line, one for who backs up, whose keys no container is given.
STORE_USERS = ("trainer", "sampler", "detector", "mitigator", "operator", "backup")
# The operator's key stays with the operator; no container gets it.
OPERATOR = ("read", "train", "generate", "mitigate", "score", "export", "admin", "audit:read")
# API keys by the secret that holds them, with what `lethe key create` is told. Those of containers do not expire by themselves.
KEYS = {
    "lethe_service_key": ["mitigator", "--service", "--days", "0", "--scope", "score"],
    "lethe_metrics_key": ["prometheus", "--days", "0", "--scope", "metrics:read"],
    "lethe_api_key": ["operator", *(f"--scope={scope}" for scope in OPERATOR)],
}


def main() -> None:
    """Bring everything up, and wait until nothing is left to be started."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--compose", default="docker compose", help="the Compose command with its options")
    parser.add_argument("--secrets", type=Path, help="folder of the secrets; SECRETS_FOLDER unless named")
    parser.add_argument("services", nargs="*", help="services to start; all when none is named")
    arguments = parser.parse_args()
    compose = shlex.split(arguments.compose)
    folder = arguments.secrets or Path(variable("SECRETS_FOLDER", "deploy/secrets"))
    make_secrets(folder)
    # Docker would make it too, as root.
    Path(variable("DATA_FOLDER", "var/data")).mkdir(parents=True, exist_ok=True)
    subprocess.run([*compose, "run", "--rm", "bootstrap"], check=True)
    for name, options in KEYS.items():
        issue_key(compose, folder / name, options)
    subprocess.run([*compose, "up", "--detach", *arguments.services], check=True)


def variable(name: str, default: str) -> str:
    """What Compose puts in place of a variable: the environment's value, else that of .env; an empty one is none."""
    settings = Path(".env")
    lines = settings.read_text(encoding="utf-8") if settings.exists() else ""
    told = re.findall(rf"^(?:export\s+)?{name}\s*=(.*)$", lines, flags=re.MULTILINE)
    return os.environ.get(name, "".join(shlex.split(told[-1], comments=True)) if told else "") or default


def make_secrets(folder: Path) -> None:
    """Random passwords for what has none yet."""
    # The folder is closed to others; the files are open to all, since each container reads them as a user of its own.
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    keep(folder / "database_password", secrets.token_hex(24))
    # An operator's own may hold anything, and end with the line that PostgreSQL's image takes away.
    password = (folder / "database_password").read_text(encoding="utf-8").rstrip("\n")
    keep(folder / "lethe_database_url", DATABASE.format(role="lethe", password=quote(password, safe="")))
    keep(folder / "lethe_services_database_url", DATABASE.format(role="lethe_service", password=secrets.token_hex(24)))
    keep(folder / "lethe_s3_access_key", f"lethe-{secrets.token_hex(6)}")
    keep(folder / "lethe_s3_secret_key", secrets.token_hex(24))
    for user in STORE_USERS:
        keep(folder / f"{user}_s3_access_key", f"{user}-{secrets.token_hex(5)}")
        keep(folder / f"{user}_s3_secret_key", secrets.token_hex(20))
    keep(folder / "grafana_password", secrets.token_hex(12))


def issue_key(compose: list[str], path: Path, options: list[str]) -> None:
    """Have Lethe issue an API key, unless there is one."""
    if not path.exists():
        command = [*compose, "run", "--rm", "-T", "--no-deps", "lethe", "key", "create", *options, "--json"]
        keep(path, json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)["key"])


def keep(path: Path, secret: str) -> None:
    """Write a secret, whole or not at all, unless there is one."""
    if not path.exists():
        draft = path.with_name(f".{path.name}")
        draft.write_text(secret, encoding="ascii")
        draft.chmod(0o644)
        draft.replace(path)


if __name__ == "__main__":
    main()
