"""A real worker's health, metrics and traces, as systemd, Prometheus and a collector see them."""

from __future__ import annotations

import json
import os
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from cis_tasks.local.cloud import Cloud
from cis_tasks.local.emulator import free_port
from cis_tasks.local.workers import Worker
from lambda_trigger.handler import handler
from support.cloud import eventually
from support.sessions import Scripted, scripted_worker, without_lambda

ROOT = "1-5759e988-bd862e3fe1be46a994272793"
PARENT = "53995c3f42cd8ad8"
NAMES = ("Jürgen-M", "Anna-B")


class Collector:
    """An OTLP endpoint; `spans` are those that came."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                request = ExportTraceServiceRequest.FromString(body)
                for resource in request.resource_spans:
                    for scope in resource.scope_spans:
                        outer.spans += scope.spans
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"


@dataclass
class Watched:
    worker: Worker
    port: int
    file: Path
    systemd: socket.socket
    collector: Collector

    def get(self, path: str) -> tuple[int, str]:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"http://127.0.0.1:{self.port}{path}", timeout=60) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def told(self) -> str:
        """What systemd was told last, waiting for it."""
        return self.systemd.recv(4096).decode()

    def lines(self) -> list[dict[str, Any]]:
        """The embedded metrics in its output."""
        text = self.worker.log.read_text()
        return [json.loads(line) for line in text.splitlines() if line.startswith('{"_aws"')]


@contextmanager
def watched(cloud: Cloud, folder: Path, **variables: str) -> Iterator[Watched]:
    port, file, address = free_port(), folder / "health", str(folder / "notify")
    collector = Collector()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(address)
        systemd.settimeout(30)
        settings = {
            "CIS_HEALTH_PORT": str(port),
            "CIS_HEALTH_FILE": str(file),
            "CIS_EMF": "1",
            "CIS_TRACING": "1",
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_BSP_SCHEDULE_DELAY": "200",
            "NOTIFY_SOCKET": address,
            "WATCHDOG_USEC": "1000000",
        }
        with scripted_worker(cloud, folder, **{**settings, **variables}) as worker:
            yield Watched(worker, port, file, systemd, collector)
    collector.server.shutdown()
    collector.server.server_close()


@pytest.fixture(scope="module")
def after_two_jobs(
    cloud_of_module: Cloud, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Watched]:
    """A worker that has done one job and refused another, published by the Lambda's handler."""
    cloud, folder = cloud_of_module, tmp_path_factory.mktemp("watched")
    without_lambda(cloud)
    with watched(cloud, folder) as made, pytest.MonkeyPatch.context() as patch:
        patch.setenv("CIS_TRACING", "1")
        patch.setenv("_X_AMZN_TRACE_ID", f"Root={ROOT};Parent={PARENT};Sampled=1")
        sessions = [
            Scripted(cloud, folder, NAMES[0]).upload(),
            Scripted(cloud, folder, NAMES[1], bad=True).upload(),
        ]
        for session in sessions:
            handler(event(cloud, session.name), None)
        eventually(lambda: all(session.manifests() for session in sessions))
        yield made


def event(cloud: Cloud, name: str) -> Mapping[str, Any]:
    place = {
        "bucket": {"name": cloud.stack.input_bucket},
        "object": {"key": f"video_footage/{name.encode().decode()}.mp4"},
    }
    return {"Records": [{"eventName": "ObjectCreated:Put", "s3": place}]}


def test_systemd_hears_that_it_is_ready_and_alive(after_two_jobs: Watched) -> None:
    told = [after_two_jobs.told() for _ in range(3)]
    assert sorted(told)[0] == "READY=1"
    assert set(told) == {"READY=1", "WATCHDOG=1"}


def test_it_is_live_and_ready(after_two_jobs: Watched) -> None:
    for path in ("/livez", "/readyz"):
        status, text = after_two_jobs.get(path)
        assert status == 200
        assert {"receiving", "leases", "loop"} <= set(json.loads(text)["probes"])
    assert json.loads(after_two_jobs.file.read_text())["ready"] is True
    assert after_two_jobs.get("/elsewhere")[0] == 404


def test_metrics_count_jobs_by_outcome(after_two_jobs: Watched) -> None:
    def counted() -> str:
        page = after_two_jobs.get("/metrics")[1]
        return page if 'outcome="failed"' in page else ""

    page = eventually(counted)
    assert 'cis_jobs_total{outcome="succeeded",pipeline="spine"} 1.0' in page
    assert 'cis_jobs_total{outcome="failed",pipeline="spine"} 1.0' in page
    assert 'cis_job_seconds_count{pipeline="spine"} 2.0' in page
    assert 'cis_aws_calls_total{call="sqs.ReceiveMessage"}' in page
    assert "cis_live 1.0" in page


def test_embedded_metrics_are_what_cloudwatch_reads(after_two_jobs: Watched) -> None:
    lines = eventually(lambda: len(found := after_two_jobs.lines()) >= 2 and found)
    by_outcome = {line["outcome"]: line for line in lines if "outcome" in line}
    assert by_outcome.keys() == {"succeeded", "failed"}
    assert by_outcome["failed"]["Failures"] == 1
    for line in lines:
        [directive] = line["_aws"]["CloudWatchMetrics"]
        named = [metric["Name"] for metric in directive["Metrics"]]
        assert all(isinstance(line[name], int | float) for name in named)
        assert all(isinstance(line[key], str) for keys in directive["Dimensions"] for key in keys)


def test_a_trace_goes_from_the_lambda_through_the_queue_to_the_span_of_the_worker(
    after_two_jobs: Watched,
) -> None:
    spans = eventually(
        lambda: len(after_two_jobs.collector.spans) >= 2 and after_two_jobs
    ).collector
    assert {span.trace_id.hex() for span in spans.spans} == {ROOT.replace("-", "")[1:]}
    assert {span.parent_span_id.hex() for span in spans.spans} == {PARENT}
    assert sorted(span.status.message for span in spans.spans) == ["", "script_bad"]


def test_names_of_sessions_are_in_no_metric_and_no_span(after_two_jobs: Watched) -> None:
    eventually(lambda: len(after_two_jobs.collector.spans) >= 2)
    shown = [after_two_jobs.get(path)[1] for path in ("/metrics", "/readyz", "/livez")]
    shown.append(json.dumps(after_two_jobs.lines(), ensure_ascii=False))
    shown.append(str(after_two_jobs.collector.spans))
    assert all(shown)
    for name in NAMES:
        assert not [text for text in shown if name in text or json.dumps(name)[1:-1] in text]


def test_a_worker_that_is_up_but_deaf_is_left_to_the_watchdog(cloud: Cloud, tmp_path: Path) -> None:
    """Its queue is gone, so that every receive fails: systemd hears nothing and restarts it."""
    with watched(cloud, tmp_path, CIS_HEALTH_SILENT_S="2", CIS_TRACING="0") as deaf:
        eventually(lambda: deaf.get("/livez")[0] == 200)
        boto3.client("sqs").delete_queue(QueueUrl=cloud.stack.queue_urls["spine"])
        eventually(lambda: deaf.get("/livez")[0] == 503)
        assert deaf.get("/readyz")[0] == 503
        assert deaf.worker.exit_code is None
        written = deaf.file.stat().st_mtime
        deaf.systemd.setblocking(False)  # noqa: FBT003
        while True:
            try:
                deaf.told()
            except BlockingIOError:
                break
        deaf.systemd.settimeout(3)  # six times as often it would have been told
        with pytest.raises(TimeoutError):
            deaf.told()
        assert deaf.file.stat().st_mtime == written
        assert "worker_not_live" in deaf.worker.log.read_text()


def test_the_port_is_free_once_the_worker_is_killed(cloud: Cloud, tmp_path: Path) -> None:
    with watched(cloud, tmp_path, CIS_TRACING="0") as made:
        eventually(lambda: made.get("/livez")[0] == 200)
        os.kill(made.worker.pid, 9)  # its pool's child may live on for a moment
        with socket.socket() as taker:
            taker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            eventually(lambda: bound(taker, made.port))


def bound(taker: socket.socket, port: int) -> bool:
    try:
        taker.bind(("127.0.0.1", port))
    except OSError:
        return False
    return True
