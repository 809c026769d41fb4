"""The dialects of the public workload clients."""

from __future__ import annotations

import httpx
import pytest
from running import Running
from telling_model import label_of, picture
from workload import send_all

from cis_tasks.local.cloud import QueueCounts
from cis_tasks.local.workers import Worker
from support.cloud import eventually


@pytest.mark.parametrize("path", ["/", "/postApi/image"])
@pytest.mark.parametrize(
    ("field", "form"), [("myfile", "{label}"), ("inputFile", "test_00:{label}")]
)
def test_the_fields_name_chooses_the_answers_form(
    client: httpx.Client, path: str, field: str, form: str
) -> None:
    image = picture(1)
    answer = client.post(path, files={field: ("test_00.PNG", image)})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.text == form.format(label=label_of(image))


def test_a_hundred_clients_at_once_each_get_their_own_answer(tier: Running) -> None:
    """Names repeat, and so do some images; answers must not cross all the same."""
    images = [(f"test_{i % 50:02}.png", picture(1000 + i // 2)) for i in range(100)]
    answers = send_all(f"{tier.url}/", "inputFile", images)
    assert {answer.status for answer in answers} == {200}, answers
    expected = sorted(f"{name[:-4]}:{label_of(data)}" for name, data in images)
    assert sorted(answer.text for answer in answers) == expected
    assert all(answer.text.startswith(answer.filename[:-4] + ":") for answer in answers)
    outputs = tier.keys("image/", tier.cloud.stack.output_bucket)
    for name in {name for name, _ in images}:
        assert len([key for key in outputs if key.endswith(f"/{name[:-4]}.txt")]) >= 2
    eventually(lambda: tier.cloud.queue_counts()["image"] == QueueCounts(0, 0, 0))


def test_s3s_own_event_makes_no_second_job(
    worker_and_tier: tuple[Worker, Running], client: httpx.Client
) -> None:
    worker, tier = worker_and_tier
    answer = client.post("/v1/images", params={"wait": 60}, files={"image": ("a.png", picture(2))})
    job_id = answer.json()["job_id"]
    eventually(lambda: job_id in lambda_log(tier))
    marker = client.post(
        "/v1/images", params={"wait": 60}, files={"image": ("b.png", picture(3))}
    ).json()["job_id"]
    eventually(lambda: f"{marker}] succeeded" in worker.log.read_text())
    eventually(lambda: tier.cloud.queue_counts()["image"] == QueueCounts(0, 0, 0))
    assert worker.log.read_text().count(f"{job_id}] received") == 1


def lambda_log(tier: Running) -> str:
    logs = tier.cloud.client("logs")
    found = logs.filter_log_events(logGroupName=tier.cloud.stack.log_group)
    return "\n".join(event["message"] for event in found["events"])
