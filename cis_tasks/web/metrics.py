"""The metrics of one server process: for Prometheus to fetch, and as lines for CloudWatch.

Labels are methods, routes as they are written in the code, and statuses: no name of a file, a
session or a job is in any.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cis_tasks import emf
from cis_tasks.call_metrics import CallLines, Calls
from cis_tasks.local_port import Page, first_free
from cis_tasks.settings import settings as job_settings
from cis_tasks.web.tier import Tier

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

SECONDS = (0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 60, 120, 300, 600)
METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
OTHER = "other"
CLIENT_GONE = 499
"""Status of a request whose client left before there was an answer, as nginx counts it."""

EVERY_S = 60.0
MAX_SAMPLES = 100  # CloudWatch's limit for the values of one metric in one line

log = structlog.get_logger(__name__)


class Figures:
    """What one server process counts.

    Args:
        tier: whose own figures are read when they are asked for.
    """

    def __init__(self, tier: Tier) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_OfTier(tier))
        self.registry.register(Calls())
        self._requests = Counter(
            "cis_web_requests",
            "Requests that were answered.",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "cis_web_request_seconds",
            "How long that took, waits for jobs included.",
            ["route"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self._under_way = Gauge(
            "cis_web_requests_under_way", "Requests without a whole answer.", registry=self.registry
        )
        self.since = Since()

    def page(self) -> bytes:
        """All of them, as Prometheus reads them."""
        return generate_latest(self.registry)

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """Within the block, one more request is under way."""
        with self._under_way.track_inprogress():
            yield

    def count(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request.

        Args:
            method: of HTTP.
            route: as it is written in the code.
            status: of the answer.
            seconds: how long it took.
        """
        self._requests.labels(method if method in METHODS else OTHER, route, status).inc()
        self._seconds.labels(route).observe(seconds)
        self.since.add(status, seconds)


class Since:
    """What happened since the last line for CloudWatch; for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests = self._faults = 0
        self._samples: list[float] = []

    def add(self, status: int, seconds: float) -> None:
        """Add a request; of the durations a fair sample is kept."""
        with self._lock:
            self._requests += 1
            self._faults += status >= 500
            if len(self._samples) < MAX_SAMPLES:
                self._samples.append(seconds)
            elif (place := random.randrange(self._requests)) < MAX_SAMPLES:  # noqa: S311
                self._samples[place] = seconds

    def take(self) -> tuple[int, int, list[float]]:
        """Requests, those that ended in a 5xx, and seconds of some; and begin anew."""
        with self._lock:
            taken = self._requests, self._faults, self._samples
            self._requests, self._faults, self._samples = 0, 0, []
        return taken


class Measured:
    """ASGI middleware that counts what is answered."""

    def __init__(self, app: ASGIApp, figures: Figures) -> None:
        """Wrap ``app``; ``figures`` counts."""
        self._app, self._figures = app, figures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, started = CLIENT_GONE, time.perf_counter()

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        with self._figures.under_way():
            try:
                await self._app(scope, receive, send_and_note)
            except Exception:
                status = 500
                raise
            finally:
                seconds = time.perf_counter() - started
                # The router leaves the route in the scope; what it does not know has none.
                route = getattr(scope.get("route"), "path", OTHER)
                self._figures.count(scope["method"], route, status, seconds)


class Lines:
    """Writes lines for CloudWatch from a thread of its own, until it is stopped.

    Args:
        namespace: of the metrics.
        figures: of this process.
        tier: of this process.
    """

    def __init__(self, namespace: str, figures: Figures, tier: Tier) -> None:
        self._namespace, self._figures, self._tier = namespace, figures, tier
        self._calls = CallLines(namespace)
        self._refused = self._published = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Write what is left, and end."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(EVERY_S):
            self._write()
        self._write()

    def _write(self) -> None:
        try:
            emf.write(self._line())
            self._calls.write()
        except OSError as error:  # a full disk, say; the next line may be written
            log.warning("metrics_not_written", error=str(error))

    def _line(self) -> str:
        requests, faults, seconds = self._figures.since.take()
        refused, published = self._tier.admission.refused, self._tier.publisher.sent
        metrics: dict[str, tuple[float | list[float], str]] = {
            "Requests": (requests, "Count"),
            "ServerErrors": (faults, "Count"),
            "Refused": (refused - self._refused, "Count"),
            "Published": (published - self._published, "Count"),
            "Waiting": (self._tier.admission.waiting, "Count"),
        }
        if seconds:
            metrics["RequestSeconds"] = ([round(each, 4) for each in seconds], "Seconds")
        self._refused, self._published = refused, published
        return emf.line(self._namespace, {"Component": "web"}, metrics)


@contextmanager
def told(tier: Tier, figures: Figures) -> Iterator[None]:
    """Within the block, the process tells its metrics, where its settings ask for that.

    Several server processes of one machine take the port that is set and those after it.

    Raises:
        OSError: all of these ports are taken.
    """
    chosen, common = tier.settings, job_settings()
    with ExitStack() as stack:
        if chosen.metrics_port is not None:
            ports = range(chosen.metrics_port, chosen.metrics_port + chosen.processes)
            pages = {"/metrics": lambda: Page(figures.page())}
            server = first_free(pages, ports, common.health_host)
            stack.callback(server.close)
            log.info("metrics_served", port=server.port)
        if common.emf:
            stack.callback(Lines(common.metrics_namespace, figures, tier).stop)
        yield


class _OfTier(Collector):
    """What the tier's parts count themselves."""

    def __init__(self, tier: Tier) -> None:
        self._tier = tier

    def collect(self) -> Iterator[Metric]:
        """The metrics."""
        tier = self._tier
        for name, about, value in (
            ("waiting", "Requests that wait for a job.", tier.admission.waiting),
            ("held_bytes", "Bytes of images in memory.", tier.admission.held),
            ("followed_jobs", "Jobs that somebody follows.", tier.newsroom.followed),
            ("replies_live", "1 where answers of workers arrive.", tier.newsroom.live),
        ):
            yield GaugeMetricFamily(f"cis_web_{name}", about, value=float(value))
        for name, about, value in (
            ("refused", "Requests turned away.", tier.admission.refused),
            ("published", "Jobs put into queues.", tier.publisher.sent),
            ("publish_calls", "Calls to SQS for that.", tier.publisher.calls),
            ("looks", "Results looked up in S3.", tier.newsroom.looks),
        ):
            yield CounterMetricFamily(f"cis_web_{name}", about, value=float(value))
