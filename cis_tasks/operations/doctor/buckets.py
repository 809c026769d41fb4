"""Checks of the buckets and of the function that is told of uploads."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from cis_tasks import aws
from cis_tasks.operations.doctor.installation import Installation
from cis_tasks.operations.doctor.registry import Level, Problem, check
from lambda_trigger import package

ENDING_RUNTIMES = {  # when AWS no longer lets them be updated
    "python3.8": "2024-10-14",
    "python3.9": "2025-12-15",
    "python3.10": "2026-10-31",
    "python3.11": "2027-06-30",
}
TEMPLATE = "Deploy deploy/template.yaml, which has it right."


@check("buckets.versions")
def versions(installation: Installation) -> Iterator[Problem]:
    """Do the buckets keep versions?"""
    settings = installation.settings
    if not _keeps_versions(settings.output_bucket):
        yield (
            Level.ERROR,
            f"The output bucket {settings.output_bucket} keeps no versions.",
            "A stale worker overwrites files that a manifest vouches for.",
            "Enable versioning on it.",
        )
    if not _keeps_versions(settings.input_bucket):
        yield (
            Level.WARNING,
            f"The input bucket {settings.input_bucket} keeps no versions.",
            "A job whose input is replaced before it runs fails, and none can be replayed.",
            "Enable versioning on it.",
        )


@check("buckets.public")
def public(installation: Installation) -> Iterator[Problem]:
    """Is public access blocked?"""
    for bucket in (installation.settings.input_bucket, installation.settings.output_bucket):
        try:
            answer = aws.s3().get_public_access_block(Bucket=bucket)
            blocked = all(answer["PublicAccessBlockConfiguration"].values())
        except ClientError as error:
            if error.response["Error"]["Code"] != "NoSuchPublicAccessBlockConfiguration":
                raise
            blocked = False
        if not blocked:
            yield (
                Level.ERROR,
                f"{bucket} does not block public access.",
                "One wrong policy or ACL shows recordings of people to everybody.",
                "Set all four of its public access blocks.",
            )


@check("buckets.notification")
def notification(installation: Installation) -> Iterator[Problem]:
    """Does an upload reach the function?"""
    found = installation.notifications()
    bucket = installation.settings.input_bucket
    kinds = ("LambdaFunctionConfigurations", "QueueConfigurations", "TopicConfigurations")
    told = [each for kind in kinds for each in found.get(kind, [])]
    covered = any("s3:ObjectCreated:*" in each.get("Events", []) for each in told)
    if not covered and "EventBridgeConfiguration" not in found:
        yield (
            Level.ERROR,
            f"{bucket} tells nobody of uploads.",
            "Files are uploaded and nothing happens.",
            f"{TEMPLATE} Then `cis sweep` for what was uploaded meanwhile.",
        )


@check("buckets.function")
def function(installation: Installation) -> Iterator[Problem]:
    """Does the function publish where workers listen?"""
    found = installation.function()
    if found is None:
        return
    name = found["FunctionName"]
    variables = found.get("Environment", {}).get("Variables", {})
    for pipeline in installation.pipelines.values():
        theirs, ours = variables.get(pipeline.queue_variable), installation.url(pipeline)
        if theirs != ours:
            yield (
                Level.ERROR,
                f"The function {name} publishes {pipeline.name} jobs to {theirs}, not to {ours}.",
                "Workers of this environment never see the jobs of uploads.",
                f"Set {pipeline.queue_variable} of the function or of this environment.",
            )
    ending = ENDING_RUNTIMES.get(found.get("Runtime", ""))
    if ending:
        yield (
            Level.WARNING,
            f"The function {name} runs on {found['Runtime']}.",
            f"AWS ends its support on {ending}.",
            TEMPLATE,
        )


@check("buckets.permission")
def permission(installation: Installation) -> Iterator[Problem]:
    """May S3 invoke the function?"""
    found = installation.function()
    if found is None:
        return
    try:
        policy = aws.client("lambda").get_policy(FunctionName=found["FunctionName"])["Policy"]
    except ClientError as error:
        if error.response["Error"]["Code"] != "ResourceNotFoundException":
            raise
        policy = ""
    if "s3.amazonaws.com" not in policy:
        yield (
            Level.ERROR,
            f"S3 may not invoke the function {found['FunctionName']}.",
            "Files are uploaded and nothing happens.",
            TEMPLATE,
        )


@check("versions.function")
def code(installation: Installation) -> Iterator[Problem]:
    """Does the function run this very version?"""
    found = installation.function()
    if found is None or "CodeSha256" not in found:
        return
    with tempfile.TemporaryDirectory() as folder:
        built = package.build(Path(folder, "function.zip"))
        ours = base64.b64encode(bytes.fromhex(built.sha256)).decode()
    if found["CodeSha256"] != ours:
        yield (
            Level.WARNING,
            f"The function {found['FunctionName']} runs other code than this installation.",
            "It may publish jobs that these workers do not know.",
            "Deploy it from the version that the workers run.",
        )


@check("buckets.lifecycle")
def lifecycle(installation: Installation) -> Iterator[Problem]:
    """Do Celery's states expire?"""
    prefix = installation.settings.results_prefix
    if not any(prefix.startswith(rule) for rule in _expiring(installation)):
        yield (
            Level.NOTE,
            f"Nothing expires below {prefix} in {installation.settings.output_bucket}.",
            "A state is kept there for every job, for ever.",
            TEMPLATE,
        )


def _keeps_versions(bucket: str) -> bool:
    return aws.s3().get_bucket_versioning(Bucket=bucket).get("Status") == "Enabled"


def _expiring(installation: Installation) -> list[str]:
    """Prefixes below which objects expire."""
    bucket = installation.settings.output_bucket
    try:
        rules: list[Any] = aws.s3().get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    except ClientError as error:
        if error.response["Error"]["Code"] != "NoSuchLifecycleConfiguration":
            raise
        rules = []
    return [
        rule.get("Filter", {}).get("Prefix", rule.get("Prefix", ""))
        for rule in rules
        if rule.get("Status") == "Enabled" and "Expiration" in rule
    ]
