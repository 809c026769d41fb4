"""Sessions in an input bucket whose sensor file is a script for `support.scripted`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
from typer.testing import CliRunner, Result

from cis_tasks.jobs import Job
from cis_tasks.join import find_job
from cis_tasks.local.cloud import Cloud
from cis_tasks.local.environment import of_worker
from cis_tasks.local.workers import Worker
from cis_tasks.pipelines import find


class Scripted:
    """One session; `support.scripted` says what its script may hold."""

    def __init__(self, cloud: Cloud, folder: Path, name: str, **script: Any) -> None:
        self.cloud, self.name = cloud, name
        self.log = folder / f"{name.replace('/', '_')}.runs"
        self.script = {"runs": str(self.log), **script}

    def upload(self) -> Scripted:
        self.put(f"sensor_data/{self.name}.csv", json.dumps(self.script).encode())
        self.put(f"video_footage/{self.name}.mp4", b"video")
        return self

    def put(self, key: str, body: bytes) -> None:
        bucket = self.cloud.stack.input_bucket
        boto3.client("s3").put_object(Bucket=bucket, Key=key, Body=body)

    @property
    def job(self) -> Job:
        bucket = self.cloud.stack.input_bucket
        found = find_job(boto3.client("s3"), bucket, find("spine"), self.name)
        assert isinstance(found, Job)
        return found

    @property
    def runs(self) -> int:
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0

    def manifests(self) -> list[dict[str, Any]]:
        s3, bucket = boto3.client("s3"), self.cloud.stack.output_bucket
        listed = s3.list_objects_v2(Bucket=bucket, Prefix=f"spine/{self.name}/")
        keys = [item["Key"] for item in listed.get("Contents", [])]
        return [
            json.loads(s3.get_object(Bucket=bucket, Key=key)["Body"].read())
            for key in keys
            if key.endswith("/manifest.json")
        ]


@contextmanager
def scripted_worker(
    cloud: Cloud, folder: Path, *, name: str = "w", **variables: str
) -> Iterator[Worker]:
    """A real worker process with the model that obeys."""
    environment = {
        **of_worker(os.environ, cloud.environment, 1),
        "CIS_RETRY_BACKOFF_S": "0.2",
        "PYTHONPATH": str(Path(__file__).parents[1]),
        **variables,
    }
    queue = find("spine").queue
    worker = Worker(name, queue, environment=environment, folder=folder, app="support.scripted")
    try:
        worker.await_ready()
        yield worker
    finally:
        worker.kill()


def cis(*arguments: str, code: int = 0) -> Result:
    """``cis`` within this process; errors that it would tell in a line are raised."""
    from cis_tasks.commands.main import app

    done = CliRunner().invoke(app, arguments, catch_exceptions=False, env={"COLUMNS": "250"})
    assert done.exit_code == code, done.output
    return done


def cis_json(*arguments: str, code: int = 0) -> Any:
    return json.loads(cis(*arguments, "--json", code=code).stdout)


def without_lambda(cloud: Cloud) -> None:
    """Let uploads make no jobs, so that a test says what does."""
    boto3.client("s3").put_bucket_notification_configuration(
        Bucket=cloud.stack.input_bucket, NotificationConfiguration={}
    )
