"""Ours: ``celery -A ours_app worker``, which is ``cis_tasks`` led to the benchmark's places."""

import os
import sys

import work

os.environ.update(
    CIS_INPUT_BUCKET=work.BUCKET,
    CIS_OUTPUT_BUCKET=work.BUCKET,
    CIS_QUEUE_URL_IMAGE=os.environ["BENCH_QUEUE_URL"],
    CIS_QUEUE_URL_SPINE=os.environ["BENCH_QUEUE_URL"],  # not consumed, but it has to have one
    CIS_IMAGE_DEVICE="cpu",
)

from cis_tasks.app import app
from cis_tasks.inputs import job_from_urls
from cis_tasks.pipelines import find
from cis_tasks.submission import publish_jobs

__all__ = ["app"]

if __name__ == "__main__":
    image = find("image")
    urls = [f"s3://{work.BUCKET}/{key}" for key in work.upload(int(sys.argv[2]))]
    publish_jobs([job_from_urls(image, {"image": url}, {}) for url in urls])
