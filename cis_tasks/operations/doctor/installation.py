"""What the checks look at; each part is asked for once, when the first check needs it."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any

import cis_tasks.tasks  # noqa: F401  the app with its tasks
from cis_tasks import aws
from cis_tasks.app import app
from cis_tasks.pipelines import PIPELINES, Pipeline
from cis_tasks.settings import Settings, settings


class Installation:
    """One installation, as this process's environment leads to it."""

    @property
    def settings(self) -> Settings:
        """Our settings."""
        return settings()

    @property
    def conf(self) -> Any:
        """Celery's."""
        return app.conf

    @property
    def pipelines(self) -> Mapping[str, Pipeline]:
        """The registry."""
        return PIPELINES

    def url(self, pipeline: Pipeline) -> str:
        """The URL of a pipeline's queue."""
        return aws.queue_url(pipeline)

    @functools.cache  # noqa: B019  lives as long as one examination
    def queue(self, url: str) -> Mapping[str, str]:
        """A queue's attributes."""
        answer = aws.sqs().get_queue_attributes(QueueUrl=url, AttributeNames=["All"])
        return {str(name): value for name, value in answer.get("Attributes", {}).items()}

    def redrive_policy(self, pipeline: Pipeline) -> Mapping[str, Any]:
        """Where a pipeline's dead letters go and after how many receives; empty if nowhere."""
        policy: Mapping[str, Any] = json.loads(
            self.queue(self.url(pipeline)).get("RedrivePolicy") or "{}"
        )
        return policy

    @functools.cache  # noqa: B019
    def function(self) -> Mapping[str, Any] | None:
        """The configuration of the function that the input bucket tells of uploads, if any."""
        names = [
            each["LambdaFunctionArn"]
            for each in self.notifications().get("LambdaFunctionConfigurations", [])
        ]
        if not names:
            return None
        found: Mapping[str, Any] = aws.client("lambda").get_function_configuration(
            FunctionName=names[0]
        )
        return found

    @functools.cache  # noqa: B019
    def notifications(self) -> Mapping[str, Any]:
        """Whom the input bucket tells of uploads."""
        bucket = self.settings.input_bucket
        found: Mapping[str, Any] = aws.s3().get_bucket_notification_configuration(Bucket=bucket)
        return found
