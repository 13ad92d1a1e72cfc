"""The S3 server of molecule/shared/s3_with_changing_keys.yml: whom it accepts, who has asked."""

import json
import subprocess
from dataclasses import dataclass

import boto3
import urllib3
from botocore.config import Config
from botocore.exceptions import ClientError

# Its certificate is for its name, and we come by its address.
urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)

LOG = "/var/log/nginx/s3.log"

# Makes the files of a folder those of a JSON object on standard input.
FILES = """
import json, pathlib, sys
folder, wanted = pathlib.Path(sys.argv[1]), json.load(sys.stdin)
for name, text in wanted.items():
    beside = folder / f".{name}"
    beside.touch(0o600)
    beside.write_text(text)
    beside.rename(folder / name)
for path in folder.iterdir():
    if path.name not in wanted:
        path.unlink()
"""


@dataclass
class Request:
    """One request, as the front noted it."""

    time: float  # when it was answered, seconds of the epoch
    seconds: float  # how long that took
    address: str  # of the host that sent it
    key: str  # id of the key that it was signed with
    status: int


class S3:
    """The server.

    Args:
        name: Name of its container.
    """

    def __init__(self, name: str):
        self.name = name

    def podman(self, *words: str, stdin: str = "") -> str:
        done = subprocess.run(
            ["podman", *words], check=True, input=stdin, stdout=subprocess.PIPE, text=True
        )
        return done.stdout.strip()

    def address_of(self, host: str) -> str:
        """Return the address of a host by its name."""
        form = "--format={{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        return self.podman("inspect", form, host)

    def accept(self, keys: dict[str, str], without_rights: set[str] = frozenset()) -> None:
        """Accept these keys, ids and their secrets, and no others, from the next request on.

        Args:
            without_rights: Ids of those that may do nothing.
        """
        for folder, files in (
            ("keys_without_rights", dict.fromkeys(without_rights, "")),
            ("keys", keys),
        ):
            command = ["exec", "--interactive", self.name, "python3", "-c", FILES]
            self.podman(*command, f"/srv/{folder}", stdin=json.dumps(files))

    def requests(self, since: float = 0) -> list[Request]:
        """Return the requests that were answered since a time."""
        rows = (row.split() for row in self.podman("exec", self.name, "cat", LOG).splitlines())
        found = [Request(float(row[0]), float(row[1]), row[2], row[3], int(row[4])) for row in rows]
        return [each for each in found if each.time >= since]

    def answer_to(self, key: str, secret: str, bucket: str) -> str:
        """Return the code of the error that who lists a bucket with a key gets, empty if none."""
        client = boto3.client(
            "s3",
            "us-east-1",
            endpoint_url=f"https://{self.address_of(self.name)}:9000",
            aws_access_key_id=key,
            aws_secret_access_key=secret,
            verify=False,
            config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
        )
        try:
            client.list_objects_v2(Bucket=bucket, MaxKeys=1)
        except ClientError as error:
            return error.response["Error"]["Code"]
        return ""
