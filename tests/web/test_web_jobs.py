"""Jobs over HTTP: made, followed, found, cancelled, with files that go straight to S3."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
from running import Running, web_tier
from telling_model import label_of, picture

from support.cloud import eventually


def test_an_image_is_answered_by_its_jobs_url(tier: Running, client: httpx.Client) -> None:
    image = picture(20)
    accepted = client.post("/v1/images", files={"image": ("a cat.png", image)})
    assert accepted.status_code == 202
    job = client.get(accepted.headers["location"], params={"wait": 100}).json()
    assert (job["status"], job["name"]) == ("succeeded", "a cat")
    assert job["result"]["label"] == label_of(image)
    assert job["seconds"] > 0
    results = client.get(job["links"]["results"]).json()
    [output] = results["outputs"]
    assert output["name"] == "a cat.txt"
    with tier.client(base_url="") as outside:
        assert outside.get(output["url"]).text == f"(a cat.png, {label_of(image)})\n"
        assert outside.get(results["inputs"][0]["url"]).content == image
    passed_on = client.get(f"{job['links']['results']}/files/a cat.txt")
    assert passed_on.text == f"(a cat.png, {label_of(image)})\n"
    assert "sandbox" in passed_on.headers["content-security-policy"]


def test_the_request_id_is_on_the_jobs_input_and_in_the_log(
    tier: Running, client: httpx.Client
) -> None:
    given = {"X-Request-ID": "my-request-17"}
    accepted = client.post("/v1/images", files={"image": ("r.png", picture(21))}, headers=given)
    assert accepted.headers["x-request-id"] == "my-request-17"
    job_id = accepted.json()["job_id"]
    [line] = [line for line in tier.log.splitlines() if "job_published" in line and job_id in line]
    assert "my-request-17" in line
    [key] = [key for key in tier.keys("images/") if key.endswith("/r.png")]
    bucket = tier.cloud.stack.input_bucket
    found = tier.cloud.client("s3").head_object(Bucket=bucket, Key=key)
    assert found["Metadata"]["cis-request"] == "my-request-17"


def test_events_tell_how_it_stands_and_the_end(client: httpx.Client) -> None:
    image = picture(22, sleep_s=2)
    job = client.post("/v1/images", files={"image": ("slow.png", image)}).json()
    told = events(client, job["links"]["events"])
    assert told[0]["status"] in {"queued", "running"}
    assert told[-1]["status"] == "succeeded"
    assert told[-1]["result"]["label"] == label_of(image)
    assert events(client, job["links"]["events"]) == [told[-1]]  # later, its end alone


def test_jobs_are_found_by_part_of_their_name(client: httpx.Client) -> None:
    for name in ("first zebra.png", "second Zebra.png", "horse.png"):
        posted = client.post(
            "/v1/images", params={"wait": 100}, files={"image": (name, picture(23))}
        )
        assert posted.status_code == 200
    found = client.get("/v1/jobs", params={"search": "ZEBRA"}).json()["jobs"]
    assert [job["name"] for job in found] == ["second Zebra", "first zebra"]
    found = client.get("/v1/jobs", params={"search": "zebra", "status": "failed"}).json()["jobs"]
    assert found == []


def test_a_session_goes_to_s3_and_becomes_the_job_that_its_upload_makes(
    tier: Running, client: httpx.Client
) -> None:
    before = sessions(tier)
    files = {"s 1.csv": b"t,x\n", "s 1.mp4": b"video", "s 1.json": b"{}"}
    plan = client.post("/v1/uploads", json=session(files)).json()
    assert plan["files"][0]["role"] == "rig"
    for target in plan["files"]:
        assert upload(tier, target, files[target["filename"]]) == 201
    job = client.post("/v1/jobs", json=plan["job"])
    assert job.status_code == 202
    # No worker takes sessions here: one message, though S3's events asked for it too.
    eventually(lambda: sessions(tier) > before)
    again = client.post("/v1/jobs", json=plan["job"]).json()
    assert again["job_id"] == job.json()["job_id"]
    assert again["status"] == "queued"
    assert sessions(tier) == before + 1


def test_s3_refuses_uploads_that_are_not_as_was_said(tier: Running, client: httpx.Client) -> None:
    files = {"s.csv": b"t,x\n", "s.mp4": b"video"}
    plan = client.post("/v1/uploads", json=session(files)).json()
    sensors = next(target for target in plan["files"] if target["role"] == "sensor_data")
    assert upload(tier, sensors, b"larger than it was said to be") in {400, 403}
    fields = {**sensors["fields"], "Content-Type": "text/html"}
    assert upload(tier, {**sensors, "fields": fields}, b"t,x\n") == 403
    fields = {**sensors["fields"], "key": "sensor_data/of somebody else.csv"}
    assert upload(tier, {**sensors, "fields": fields}, b"t,x\n") == 403
    missing = client.post("/v1/jobs", json=plan["job"])
    assert (missing.status_code, missing.json()["code"]) == (422, "input_missing")


def test_uploads_that_make_no_job_are_not_planned(client: httpx.Client) -> None:
    def code(*names: str, pipeline: str = "spine") -> str:
        body = session(dict.fromkeys(names, b"x"), pipeline)
        answer = client.post("/v1/uploads", json=body)
        assert answer.status_code == 422
        return answer.json()["code"]

    assert code("a.csv") == "input_missing"
    assert code("a.csv", "b.csv", "a.mp4") == "role_twice"
    assert code("a.exe", "a.csv", "a.mp4") == "suffix_unknown"
    assert code("a.csv", pipeline="image") == "suffix_unknown"


def test_a_job_that_waits_is_cancelled_and_one_that_ended_is_not(
    tier: Running, client: httpx.Client
) -> None:
    files = {"c.csv": b"t,x\n", "c.mp4": b"video"}
    plan = client.post("/v1/uploads", json=session(files)).json()
    for target in plan["files"]:
        upload(tier, target, files[target["filename"]])
    job = client.post("/v1/jobs", json=plan["job"]).json()
    assert client.delete(job["links"]["self"]).json()["status"] == "cancelled"
    assert client.get(job["links"]["self"]).json()["status"] == "cancelled"
    assert events(client, job["links"]["events"])[-1]["status"] == "cancelled"
    ended = client.post(
        "/v1/images", params={"wait": 100}, files={"image": ("d.png", picture(24))}
    ).json()
    refused = client.delete(ended["links"]["self"])
    assert (refused.status_code, refused.json()["code"]) == (409, "job_begun")


def test_the_same_image_is_a_job_of_its_own_each_time_and_forced_again(
    client: httpx.Client, tier: Running
) -> None:
    ids = set()
    for _ in range(2):
        posted = client.post(
            "/v1/images", params={"wait": 100}, files={"image": ("same.png", picture(25))}
        )
        ids.add(posted.json()["job_id"])
    assert len(ids) == 2
    key = next(key for key in tier.keys("images/") if key.endswith("/same.png"))
    body = {"pipeline": "image", "inputs": {"image": key}}
    known = client.post("/v1/jobs", json=body)
    assert known.status_code == 200
    assert known.json()["job_id"] in ids
    forced = client.post("/v1/jobs", json={**body, "force": True, "params": {"a": 1}})
    assert forced.status_code == 202
    ended = client.get(forced.headers["location"], params={"wait": 100}).json()
    assert ended["job_id"] not in ids
    assert ended["result"]["params"] == {"a": 1}


def test_any_process_of_the_tier_knows_every_job(tier: Running, tmp_path: Path) -> None:
    with (
        web_tier(tier.cloud, tmp_path) as other,
        other.client() as there,
        tier.client() as here,
    ):
        image = picture(26, sleep_s=3)
        job = here.post("/v1/images", files={"image": ("far.png", image)}).json()
        assert there.get(job["links"]["self"]).status_code == 200
        assert events(there, job["links"]["events"])[-1]["result"]["label"] == label_of(image)


def test_an_unknown_job_is_not_there(client: httpx.Client) -> None:
    unknown = "/v1/jobs/00000000-0000-0000-0000-000000000000"
    assert client.get(unknown).status_code == 404
    assert client.delete(unknown).status_code == 404
    assert client.get(f"{unknown}/events").status_code == 404
    assert client.get("/v1/jobs/..%2f..%2fetc").status_code in {404, 422}


def sessions(tier: Running) -> int:
    """How many sessions are queued; a receive of a worker that was killed may hold some."""
    counts = tier.cloud.queue_counts()["spine"]
    return counts.waiting + counts.running


def session(files: dict[str, bytes], pipeline: str = "spine") -> dict[str, object]:
    sizes = [{"filename": name, "size": len(data)} for name, data in files.items()]
    return {"pipeline": pipeline, "files": sizes}


def upload(tier: Running, target: dict[str, object], data: bytes) -> int:
    with tier.client(base_url="") as outside:
        sent = outside.post(str(target["url"]), data=target["fields"], files={"file": data})
    return sent.status_code


def events(client: httpx.Client, path: str) -> list[dict[str, object]]:
    with client.stream("GET", path) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        return [
            json.loads(line.removeprefix("data: "))
            for line in answer.iter_lines()
            if line.startswith("data: ")
        ]
