"""The image pipeline the whole way: uploads to S3, a real worker with threads, answers in S3."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
from photos import PHOTOS, encoded, jpeg, photo
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

import cis_tasks
from cis_tasks.errors import PermanentError
from cis_tasks.local.cloud import Cloud
from cis_tasks.local.emulator import free_port
from cis_tasks.local.webtier import web_tier
from support.cloud import MakeCloud, eventually
from support.sessions import cis

IMAGE_DOCS = Path(__file__).parents[2] / "docs/image.md"


@pytest.fixture(scope="module")
def port() -> int:
    """Of the worker's health and metrics."""
    return free_port()


@pytest.fixture(scope="module")
def cloud_with_worker(make_cloud: MakeCloud, port: int) -> Iterator[Cloud]:
    with make_cloud() as cloud:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("CIS_HEALTH_PORT", str(port))
            cloud.add_workers(1, "image")
        yield cloud


@pytest.fixture(scope="module")
def metrics_of_worker(port: int) -> Callable[[], dict[str, float]]:
    """What its page for Prometheus says: sample → value, of those without labels."""

    def read() -> dict[str, float]:
        page = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=60, trust_env=False).text
        return {
            sample.name: sample.value
            for family in text_string_to_metric_families(page)
            for sample in family.samples
            if not sample.labels
        }

    return read


def upload(cloud: Cloud, files: dict[str, bytes]) -> None:
    put(cloud, {f"images/{name}": body for name, body in files.items()})


def put(cloud: Cloud, files: dict[str, bytes]) -> None:
    s3, bucket = boto3.client("s3"), cloud.stack.input_bucket
    with ThreadPoolExecutor(8) as pool:
        list(
            pool.map(
                lambda item: s3.put_object(Bucket=bucket, Key=item[0], Body=item[1]), files.items()
            )
        )


def objects(cloud: Cloud, ending: str, prefix: str = "image/") -> dict[str, bytes]:
    """Key → content of what is in the output bucket."""
    s3, bucket = boto3.client("s3"), cloud.stack.output_bucket
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
    return {
        key: s3.get_object(Bucket=bucket, Key=key)["Body"].read()
        for key in keys
        if key.endswith(ending)
    }


def manifests(cloud: Cloud) -> dict[str, dict[str, Any]]:
    """Name → manifest of what was uploaded where images are expected."""
    every = [json.loads(body) for body in objects(cloud, "/manifest.json").values()]
    found = [one for one in every if one["job"]["inputs"]["image"]["key"].startswith("images/")]
    names = [manifest["job"]["name"] for manifest in found]
    assert len(set(names)) == len(names)
    return dict(zip(names, found, strict=True))


def drained(cloud: Cloud) -> bool:
    counts = cloud.queue_counts()["image"]
    return counts.waiting == counts.running == counts.dead == 0


def test_photographs_get_their_class_from_upload_to_answer(cloud_with_worker: Cloud) -> None:
    upload(cloud_with_worker, {name: photo(name).read_bytes() for name in PHOTOS})
    names = {name.rpartition(".")[0] for name in PHOTOS}
    found = eventually(
        lambda: ((seen := manifests(cloud_with_worker)).keys() >= names and seen) or None
    )
    texts = objects(cloud_with_worker, ".txt")
    for file, right in PHOTOS.items():
        name = file.rpartition(".")[0]
        manifest = found[name]
        result = manifest["result"]
        assert result["label"] in right
        assert result["top"][0] == {
            key: result[key] for key in ("index", "wordnet_id", "label", "probability")
        }
        assert [guess["probability"] for guess in result["top"]] == sorted(
            (guess["probability"] for guess in result["top"]), reverse=True
        )
        assert len(result["top"]) == 5
        assert manifest["model"]["name"] == "efficientnet-lite0"
        assert result["weights_sha256"].startswith(manifest["model"]["version"])
        key = manifest["outputs"][f"{name}.txt"]["key"]
        assert texts[key].decode() == f"({file}, {result['label']})\n"
    eventually(lambda: drained(cloud_with_worker))


def test_each_bad_file_fails_with_its_reason_and_the_good_ones_beside_it_succeed(
    cloud_with_worker: Cloud,
) -> None:
    whole = jpeg("coffee.png")
    bad = {
        "text.jpg": (b"no image at all", "image_unknown"),
        "cut.jpg": (whole[: len(whole) // 2], "image_unreadable"),
        "bomb.png": (png_header(50_000, 50_000), "image_too_large"),
        "flood.gif": (gif_header(65_535, 65_535), "image_too_large"),
    }
    good = {"good/ü 1.JPG": whole, "good/50% #?&+.jpeg": whole, "good/a.b.c.jpg": whole}
    upload(cloud_with_worker, {**{name: body for name, (body, _) in bad.items()}, **good})
    wanted = {name.rpartition(".")[0] for name in [*bad, *good]}
    found = eventually(
        lambda: ((seen := manifests(cloud_with_worker)).keys() >= wanted and seen) or None
    )
    codes = {name: found[name.rpartition(".")[0]]["error"]["code"] for name in bad}
    assert codes == {name: code for name, (_, code) in bad.items()}
    for name in good:
        manifest = found[name.rpartition(".")[0]]
        assert manifest["result"]["label"] == "espresso"
        [output] = manifest["outputs"]
        assert output == name.rpartition("/")[2].rpartition(".")[0] + ".txt"
    eventually(lambda: drained(cloud_with_worker))


def test_names_that_are_tricks_start_no_job(cloud_with_worker: Cloud) -> None:
    upload(
        cloud_with_worker,
        {"../escape.jpg": b"x", ".jpg": b"x", "a//b.jpg": b"x", "no-ending": b"x"},
    )
    upload(cloud_with_worker, {"after.png": encoded(Image.new("RGB", (32, 32)), "PNG")})
    eventually(lambda: "after" in manifests(cloud_with_worker))
    assert not {"../escape", "", "a//b", "no-ending"} & manifests(cloud_with_worker).keys()
    eventually(lambda: drained(cloud_with_worker))


def test_delay_with_a_url_answers_with_the_class_and_refuses_what_it_does_not_know(
    cloud_with_worker: Cloud,
) -> None:
    s3, bucket = boto3.client("s3"), cloud_with_worker.stack.input_bucket
    s3.put_object(Bucket=bucket, Key="elsewhere/coffee.png", Body=photo("coffee.png").read_bytes())
    url = f"s3://{bucket}/elsewhere/coffee.png"
    answer = cis_tasks.classify_image.delay(url, top=3).get(timeout=180)
    assert answer.result["label"] == "espresso"
    assert answer.result["wordnet_id"] == "n07920052"
    assert len(answer.result["top"]) == 3
    assert cis_tasks.submit("image", url, top=3).get(timeout=180).job_id == answer.job_id
    larger = cis_tasks.classify_image.delay(url, model="efficientnet-lite1").get(timeout=180)
    assert larger.result["label"] == "espresso"
    assert larger.job_id != answer.job_id
    for params in ({"top": 0}, {"model": "/etc/passwd"}, {"speed": "fast"}):
        with pytest.raises(PermanentError, match="params_"):
            cis_tasks.classify_image.delay(url, **params).get(timeout=180)


def test_a_model_brought_along_as_documented_answers_the_job_that_names_it(
    cloud_with_worker: Cloud, tmp_path: Path
) -> None:
    blocks = re.findall(r"```python\n(.*?)```", IMAGE_DOCS.read_text(), re.DOTALL)
    [script] = [block for block in blocks if "torch.export" in block]
    told = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], check=True, capture_output=True, text=True
    ).stdout.strip()
    bucket = cloud_with_worker.stack.input_bucket
    reference = told.replace("cis-data-input", bucket)
    files = {f"models/{path.name}": path.read_bytes() for path in tmp_path.iterdir()}
    put(cloud_with_worker, {**files, "elsewhere/blue.png": plain("blue")})
    url = f"s3://{bucket}/elsewhere/blue.png"
    answer = cis_tasks.classify_image.delay(url, model=reference).get(timeout=180)
    assert answer.result["label"] == "blue"
    assert next(guess["index"] for guess in answer.result["top"]) == 2
    assert answer.result["runtime"] == "torch"
    checksum = hashlib.sha256(files["models/brightest.pt2"]).hexdigest()
    assert answer.result["weights_sha256"] == checksum
    refused = {
        reference[:-1] + ("0" if reference[-1] != "0" else "1"): "model_changed",
        reference.replace("brightest", "gone"): "model_missing",
        reference.partition("#")[0]: "params_invalid",
    }
    for other, code in refused.items():
        with pytest.raises(PermanentError) as caught:
            cis_tasks.classify_image.delay(url, model=other).get(timeout=180)
        assert caught.value.code == code


def test_files_on_the_command_line_are_jobs_of_their_own(
    cloud_with_worker: Cloud, tmp_path: Path
) -> None:
    files = [tmp_path / "a cup.png", tmp_path / "a camera.png"]
    for file, name in zip(files, ("coffee.png", "camera.png"), strict=True):
        file.write_bytes(photo(name).read_bytes())
    told = cis("submit", "--pipeline", "image", *map(str, files)).stdout.split()
    assert len(set(told)) == 2
    eventually(lambda: {"a cup", "a camera"} <= manifests(cloud_with_worker).keys())
    found = [manifests(cloud_with_worker)[file.stem] for file in files]
    assert [one["job_id"] for one in found] == told
    assert [one["result"]["label"] for one in found] == ["espresso", "tripod"]


def test_photographs_posted_over_http_are_answered_with_their_class_and_kept(
    cloud_with_worker: Cloud,
) -> None:
    whole = jpeg("coffee.png")
    with (
        web_tier(cloud_with_worker) as url,
        httpx.Client(base_url=url, timeout=180, trust_env=False) as client,
    ):
        for file in ("chelsea.png", "coffee.png", "china.jpg"):
            name = f"posted {file}"
            answer = client.post("/", files={"myfile": (name, photo(file).read_bytes())})
            assert answer.status_code == 200
            assert answer.text in PHOTOS[file]
            manifest, text = kept(cloud_with_worker, name)
            assert manifest["status"] == "succeeded"
            assert manifest["result"]["label"] == answer.text
            assert text == f"({name}, {answer.text})\n"
        refused = client.post("/", files={"myfile": ("cut.jpg", whole[: len(whole) // 2])})
        assert 400 <= refused.status_code < 500
        assert refused.headers["content-type"] == "text/plain; charset=utf-8"
        assert "cut.jpg" in refused.text
        assert len(refused.text.splitlines()) == 1
    eventually(lambda: drained(cloud_with_worker))


def kept(cloud: Cloud, file: str) -> tuple[dict[str, Any], str]:
    """The manifest of the job of one file that was posted, and its text beside it."""
    stem = file.rpartition(".")[0]
    [(key, text)] = [
        (key, body.decode())
        for key, body in objects(cloud, ".txt").items()
        if key.endswith(f"/{stem}.txt")
    ]
    manifest = objects(cloud, "/manifest.json")[f"{key.rpartition('/')[0]}/manifest.json"]
    return json.loads(manifest), text


def test_a_hundred_images_are_each_answered_once_and_the_queue_ends_empty(
    cloud_with_worker: Cloud, metrics_of_worker: Callable[[], dict[str, float]]
) -> None:
    before = metrics_of_worker()
    sure = [name for name in PHOTOS if name != "rocket.jpg"]  # which looks like others when small
    bodies = {name: small(name) for name in sure}
    names = [sure[i % len(sure)] for i in range(100)]
    put(cloud_with_worker, {f"hundred/{i}.jpg": bodies[name] for i, name in enumerate(names)})
    urls = [f"s3://{cloud_with_worker.stack.input_bucket}/hundred/{i}.jpg" for i in range(100)]
    submitted = cis_tasks.submit_many("image", [[url] for url in urls])
    answers = [one.result.get(timeout=120) for one in submitted if one.result]
    assert [answer.job_id for answer in answers] == [one.job.id for one in submitted]
    for name, answer in zip(names, answers, strict=True):
        assert answer.result["label"] in PHOTOS[name]
    put(cloud_with_worker, {"hundred/bad.jpg": b"no image"})
    with pytest.raises(PermanentError, match="image_unknown"):
        cis_tasks.classify_image.delay(urls[0].replace("0.jpg", "bad.jpg")).get(timeout=180)
    eventually(lambda: drained(cloud_with_worker))
    assert len(objects(cloud_with_worker, "/manifest.json", prefix="image/")) >= 100
    stats = eventually(lambda: cis_tasks.celery.control.inspect(timeout=5).stats()) or {}
    [figures] = [worker["image"] for worker in stats.values()]
    assert figures["images"] >= 100
    assert figures["failures"] >= 1
    after = metrics_of_worker()
    for name in ("cis_image_images_total", "cis_batch_size_sum"):
        assert after[name] - before[name] == 100
    assert after["cis_image_failures_total"] - before["cis_image_failures_total"] == 1
    assert after["cis_image_images_per_second"] > 0


def test_a_killed_worker_s_images_are_classified_by_the_next(make_cloud: MakeCloud) -> None:
    with make_cloud({"VisibilityTimeoutSeconds": "5"}) as cloud:
        [doomed] = cloud.add_workers(1, "image")
        files = dict.fromkeys((f"{i}.jpg" for i in range(24)), small("coffee.png"))
        upload(cloud, files)
        eventually(lambda: manifests(cloud), every_s=0.01)
        doomed.kill()
        cloud.add_workers(1, "image")
        found = eventually(lambda: (len(seen := manifests(cloud)) == len(files) and seen) or None)
        assert {manifest["status"] for manifest in found.values()} == {"succeeded"}
        eventually(lambda: drained(cloud))


def plain(colour: str) -> bytes:
    return encoded(Image.new("RGB", (80, 60), colour), "PNG")


def small(name: str) -> bytes:
    with Image.open(photo(name)) as image:
        image.thumbnail((400, 400))
        return encoded(image.convert("RGB"), "JPEG", quality=90)


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises a lot and holds little."""
    data = bytearray(encoded(Image.new("L", (1, 1)), "PNG"))
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    from zlib import crc32

    data[29:33] = crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


def gif_header(width: int, height: int) -> bytes:
    """A GIF of few bytes that would unpack into gigabytes."""
    data = bytearray(encoded(Image.new("P", (1, 1)), "GIF"))
    data[6:10] = width.to_bytes(2, "little") + height.to_bytes(2, "little")
    return bytes(data)
