"""moto's server, whose queues lose nothing that is sent while something is deleted.

moto deletes by building the list of messages anew, without the lock that it adds under.
"""

from __future__ import annotations

from moto.server import main
from moto.sqs.models import Queue

delete = Queue.delete_message


def delete_alone(queue: Queue, receipt_handle: str) -> None:
    with queue._messages_lock:
        delete(queue, receipt_handle)


Queue.delete_message = delete_alone  # type: ignore[method-assign]

if __name__ == "__main__":
    main()
