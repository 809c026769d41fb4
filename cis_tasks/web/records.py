"""What the web tier notes of jobs that nobody can look up yet: a message in a queue is invisible.

One small object per job that was answered with its URL; any process of the tier finds it. The
lifecycle rule that removes old task states removes these too.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cis_tasks.broker.objects import Objects
from cis_tasks.jobs import Job
from cis_tasks.settings import WEB_PREFIX

PREFIX = f"{WEB_PREFIX}jobs/"
MAX_REMEMBERED = 2_000


@dataclass(frozen=True)
class Record:
    """A job that was taken on.

    Attributes:
        job: the job.
        submitted_at: when.
        request_id: by which request.
    """

    job: Job
    submitted_at: datetime
    request_id: str = ""

    @classmethod
    def now(cls, job: Job, request_id: str) -> Record:
        """A record of a job that is taken on now."""
        return cls(job, datetime.now(UTC), request_id)

    def to_json(self) -> bytes:
        """As it is stored."""
        described: dict[str, Any] = {
            "job": self.job.to_dict(),
            "submitted_at": self.submitted_at.isoformat(),
            "request_id": self.request_id,
        }
        return json.dumps(described).encode()

    @classmethod
    def from_json(cls, body: bytes) -> Record:
        """What `to_json` wrote."""
        read = json.loads(body)
        return cls(
            Job.from_dict(read["job"]),
            datetime.fromisoformat(read["submitted_at"]),
            read["request_id"],
        )


class Records:
    """The records of this process, and those in S3 of all."""

    def __init__(self, objects: Objects) -> None:
        self._objects = Objects(objects.bucket, PREFIX, objects.access)
        self._recent: OrderedDict[str, Record] = OrderedDict()

    def remember(self, record: Record) -> None:
        """Keep a record in memory."""
        self._recent[record.job.id] = record
        self._recent.move_to_end(record.job.id)
        if len(self._recent) > MAX_REMEMBERED:
            self._recent.popitem(last=False)

    def forget(self, job_id: str) -> None:
        """Drop a record from memory."""
        self._recent.pop(job_id, None)

    def newest(self) -> Iterator[Record]:
        """Those in memory, newest first."""
        return reversed(list(self._recent.values()))

    def write(self, record: Record) -> None:
        """Store a record for every process of the tier."""
        self._objects.put(f"{record.job.id}.json", record.to_json())

    def find(self, job_id: str) -> Record | None:
        """A record, wherever it is."""
        if (known := self._recent.get(job_id)) is not None:
            return known
        stored = self._objects.get(f"{job_id}.json")
        return Record.from_json(stored.body) if stored else None
