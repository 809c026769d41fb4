"""Reading an image out of a request as it streams in: bounded, one file, nothing on disk."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from cis_tasks.web.admission import Held
from cis_tasks.web.problems import Problem

MAX_HEADERS = 8192  # bytes of the headers of one part
MAX_PARTS = 16
MAX_OVERHEAD = 64 << 10  # bytes of a body that are not the image


@dataclass(frozen=True)
class Upload:
    """A file that a client sent.

    Attributes:
        field: name of its form field.
        filename: what the client calls it; not to be trusted.
        data: its bytes.
    """

    field: str
    filename: str
    data: bytes


async def read_upload(request: Request, held: Held, limit: int, timeout_s: float) -> Upload:
    """The one file in a ``multipart/form-data`` request.

    Args:
        request: whose body is read.
        held: told of every byte that is kept.
        limit: largest file, in bytes; the reading stops there, whatever the headers say.
        timeout_s: longest time for the whole body.

    Raises:
        Problem: there is no file or more than one, it is empty or too large, the body is
            malformed, or it came too slowly.
    """
    boundary = _boundary(request)
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit + MAX_OVERHEAD:
        raise _too_large(limit)
    form = _Form(boundary, held, limit)
    try:
        async with asyncio.timeout(timeout_s):
            async for chunk in request.stream():
                form.feed(chunk)
    except TimeoutError:
        raise Problem(
            408, "body_too_slow", f"The body did not arrive within {timeout_s:g} s."
        ) from None
    except ClientDisconnect:
        raise Problem(400, "client_gone", "The client went away.") from None
    return form.end()


def _boundary(request: Request) -> bytes:
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not boundary:
        raise Problem(
            415, "not_multipart", "Send the image as a file field of a multipart/form-data POST."
        )
    return boundary


def _too_large(limit: int) -> Problem:
    return Problem(
        413,
        "image_too_large",
        f"Images of at most {limit >> 20} MiB are taken by POST.",
        headers={"Connection": "close"},  # the rest of it is not read
    )


class _Form:
    """What the parser has found so far."""

    def __init__(self, boundary: bytes, held: Held, limit: int) -> None:
        self._held, self._limit = held, limit
        self._parts = self._total = 0
        self._headers: dict[bytes, bytes] = {}
        self._name, self._value = b"", b""
        self._file: bytearray | None = None
        self._upload: Upload | None = None
        self._field = self._filename = ""
        self._ended = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin_part,
                    "on_part_data": self._data,
                    "on_part_end": self._end_part,
                    "on_header_field": self._header_field,
                    "on_header_value": self._header_value,
                    "on_header_end": self._header_end,
                    "on_headers_finished": self._headers_end,
                    "on_end": self._end,
                },
            )
        except FormParserError as error:
            raise _malformed(error) from error

    def feed(self, chunk: bytes) -> None:
        """Take in a piece of the body."""
        self._total += len(chunk)
        if self._total > self._limit + MAX_OVERHEAD:
            raise _too_large(self._limit)
        if not chunk:
            return
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise _malformed(error) from error

    def end(self) -> Upload:
        """The body is complete: the file in it."""
        if not self._ended:
            raise Problem(400, "body_truncated", "The body ends in the middle of a part.")
        if self._upload is None:
            raise Problem(
                400,
                "file_missing",
                "There is no file in the form: send one image as a file, with its name.",
            )
        if not self._upload.data:
            raise Problem(400, "file_empty", "The file is empty: it has 0 bytes.")
        return self._upload

    def _begin_part(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise Problem(400, "too_many_fields", f"A form has at most {MAX_PARTS} fields here.")
        self._headers = {}

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]
        self._check_header()

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]
        self._check_header()

    def _check_header(self) -> None:
        if len(self._name) + len(self._value) > MAX_HEADERS:
            raise Problem(400, "header_too_long", "A field's headers are too long.")

    def _header_end(self) -> None:
        self._headers[self._name.lower()] = self._value
        self._name, self._value = b"", b""

    def _headers_end(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        if b"filename" not in options:
            self._file = None
            return
        if self._upload is not None:
            raise Problem(400, "two_files", "There are two files in the form: send one at a time.")
        self._field = _text(options.get(b"name", b""))
        self._filename = _text(options[b"filename"])
        self._file = bytearray()

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._file is None:
            return
        if len(self._file) + end - start > self._limit:
            raise _too_large(self._limit)
        self._held.add(end - start)
        self._file += data[start:end]

    def _end_part(self) -> None:
        if self._file is not None:
            self._upload = Upload(self._field, self._filename, bytes(self._file))
            self._file = None

    def _end(self) -> None:
        self._ended = True


def _text(value: bytes) -> str:
    return value.decode(errors="replace")


def _malformed(error: Exception) -> Problem:
    return Problem(400, "body_malformed", f"The body is not multipart/form-data: {error}.")
