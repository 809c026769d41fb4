"""A fleet on the scripted model for tests, and bursts of jobs for it.

``with fleet_on(cloud, folder, policy="slo") as burst:`` runs the spine's group of a cloud that was
made with `cis_tasks.local.fleet.fleet.stack_parameters`; ``burst.submit(100)`` puts jobs straight
into its queue, without a Lambda between.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import boto3

from cis_tasks.inputs import job_from_urls
from cis_tasks.jobs import Job
from cis_tasks.local.cloud import Cloud
from cis_tasks.local.fleet.fleet import Fleet, Options, Pace, Sample, start
from cis_tasks.local.fleet.groups import Group
from cis_tasks.local.fleet.instances import Instance
from cis_tasks.pipelines import find
from cis_tasks.publish import publish_many

ROOT = Path(__file__).parents[2]
QUICK = Pace(boot_s=0.5, again_s=3.0, tracking_periods=(1, 2), drain_poll_s=0.5, hold_s=1.0)


@dataclass
class Burst:
    """A fleet and the jobs that it was given.

    Attributes:
        fleet: the running fleet.
        jobs: what was submitted.
        log: file to which each run of the model adds a line.
    """

    fleet: Fleet
    jobs: list[Job]
    log: Path

    @property
    def cloud(self) -> Cloud:
        return self.fleet.cloud

    @property
    def group(self) -> Group:
        return self.fleet.groups["spine"]

    @property
    def now(self) -> Sample:
        """The newest sample; nothing at all before the first."""
        samples = self.fleet.samples["spine"]
        return samples[-1] if samples else Sample(0, 0, 0, 0, 0, 0, 0)

    def submit(self, count: int, sleep_s: float = 0.0, **more: Any) -> list[Job]:
        """Queue jobs of which each sleeps; all have a FIFO group of their own."""
        stack, s3 = self.cloud.stack, boto3.client("s3")
        script = json.dumps({"runs": str(self.log), "sleep_s": sleep_s, **more}).encode()
        urls = {}
        for role, key, body in (
            ("sensor_data", "script.csv", script),
            ("video_footage", "video.mp4", b"video"),
        ):
            s3.put_object(
                Bucket=stack.output_bucket, Key=f"inputs/{len(self.jobs)}/{key}", Body=body
            )
            urls[role] = f"s3://{stack.output_bucket}/inputs/{len(self.jobs)}/{key}"
        first = job_from_urls(find("spine"), urls, {}, name="first")
        begin = len(self.jobs)
        made = [replace(first, name=f"s{n}", nonce=str(n)) for n in range(begin, begin + count)]
        self.jobs += made
        published = publish_many(boto3.client("sqs"), {"spine": stack.queue_urls["spine"]}, made)
        assert not [one.error for one in published if one.error]
        return made

    @property
    def runs(self) -> int:
        """How often the model has run."""
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0

    def manifests(self) -> list[dict[str, Any]]:
        """The manifests of all that was submitted, in order; those that are there."""
        s3, found = boto3.client("s3"), []
        for job in self.jobs:
            listed = s3.list_objects_v2(
                Bucket=self.cloud.stack.output_bucket, Prefix=f"spine/{job.name}/"
            )
            keys = [item["Key"] for item in listed.get("Contents", [])]
            found += [key for key in keys if key.endswith("/manifest.json")]
        bucket = self.cloud.stack.output_bucket
        return [json.loads(s3.get_object(Bucket=bucket, Key=key)["Body"].read()) for key in found]

    def settled(self, count: int) -> bool:
        """Whether the group has so many instances in service, and nobody has anything to do."""
        now = self.now
        instances = (now.in_service, now.pending, now.leaving, now.desired)
        return instances == (count, 0, 0, count) and now.visible == now.in_flight == 0

    def instance_of(self, manifest: dict[str, Any]) -> Instance:
        """The instance whose worker wrote a manifest."""
        named = manifest["worker"].partition("@")[0]
        [instance] = [one for one in self.group.instances if one.id == named]
        return instance


@contextmanager
def fleet_on(
    cloud: Cloud, folder: Path, policy: str, pace: Pace = QUICK, **variables: str
) -> Iterator[Burst]:
    options = Options(
        policy,
        pace,
        pipelines=("spine",),
        app="support.scripted",
        variables={
            "PYTHONPATH": os.pathsep.join((str(ROOT / "tests"), str(ROOT))),
            "CIS_SCALING_WAIT_S": "10",
            **variables,
        },
    )
    with start(cloud, options) as fleet:
        yield Burst(fleet, [], folder / f"{cloud.stack.name}.runs")
