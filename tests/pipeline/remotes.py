"""Places to share data through: a plain folder, and a server on loopback that speaks S3 and checks who asks."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import boto3
import requests
from botocore.config import Config

from tests.pipeline import tiny

ALLOW = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}


@dataclass(frozen=True)
class Remote:
    """`url` for `dvc remote add`, its settings, and the environment that has its credentials."""

    url: str
    settings: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)

    def add(self, root: Path) -> None:
        """Makes it the default remote of a repository, as the README says."""
        tiny.command(root, "dvc", "remote", "add", "--force", "--default", "share", self.url)
        for name, value in self.settings.items():
            tiny.command(root, "dvc", "remote", "modify", "share", name, value)


@contextmanager
def s3(folder: Path) -> Iterator[Remote]:
    """A server with one user, whose key alone it takes."""
    folder.mkdir(parents=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen([sys.executable, "-m", "moto.server", "-p", str(port)], stdout=log, stderr=log)
    try:
        while True:
            try:
                requests.get(f"{address}/moto-api/", timeout=60)
                break
            except requests.ConnectionError:
                assert server.poll() is None, (folder / "log").read_text()
                time.sleep(0.1)
        (folder / "config").touch()
        yield with_one_user(address, folder)
    finally:
        server.terminate()
        server.wait()


def with_one_user(address: str, folder: Path) -> Remote:
    """Makes a bucket and a user, then has the server check every request."""
    settings = {
        "endpoint_url": address,
        "region_name": "us-east-1",
        "aws_access_key_id": "x",
        "aws_secret_access_key": "x",
    }
    config = Config(retries={"max_attempts": 1})
    boto3.client("s3", config=config, **settings).create_bucket(Bucket="data")
    iam = boto3.client("iam", config=config, **settings)
    iam.create_user(UserName="teammate")
    iam.put_user_policy(UserName="teammate", PolicyName="all", PolicyDocument=json.dumps(ALLOW))
    key = iam.create_access_key(UserName="teammate")["AccessKey"]
    requests.post(f"{address}/moto-api/reset-auth", data=b"0", timeout=60).raise_for_status()
    return Remote(
        "s3://data/store",
        {"endpointurl": address},
        {
            "AWS_ACCESS_KEY_ID": key["AccessKeyId"],
            "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"],
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_SHARED_CREDENTIALS_FILE": str(folder / "none"),
            "AWS_CONFIG_FILE": str(folder / "config"),
            "AWS_EC2_METADATA_DISABLED": "true",
        },
    )
