"""Frames decoded ahead, in a thread of their own, while the caller works on the last one."""

from __future__ import annotations

from collections.abc import Iterator
from queue import Queue
from threading import Event, Thread

from cis_tasks.spine.video import Frame, Video

FRAMES = 6  # waiting at most: 6 MB at 720p, 50 MB at 4K


def ahead(video: Video) -> Iterator[Frame]:
    """The frames of ``video``, in order, each with a picture of its own.

    An error of the decoder is raised here. Leaving the loop early stops the thread.
    """
    waiting: Queue[Frame | BaseException | None] = Queue(FRAMES)
    enough = Event()

    def decode() -> None:
        last: BaseException | None = None
        try:
            for frame in video:
                waiting.put(Frame(frame.time_s, frame.grey.copy()))
                if enough.is_set():
                    return
        except Exception as error:  # it belongs to the caller's thread
            last = error
        waiting.put(last)

    thread = Thread(target=decode, name="decode", daemon=True)
    thread.start()
    try:
        while isinstance(item := waiting.get(), Frame):
            yield item
        if item is not None:
            raise item
    finally:
        enough.set()
        while thread.is_alive():
            while not waiting.empty():
                waiting.get_nowait()
            thread.join(0.01)
