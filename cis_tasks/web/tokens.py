"""API tokens: kept as hashes, compared in constant time."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass

PREFIX = "cis_"
LINE = re.compile(r"(?P<name>[\w.@-]{1,64})\s+(?P<digest>[0-9a-f]{64})")


@dataclass(frozen=True)
class Token:
    """Who may use the tier.

    A token has 256 random bits, so its plain hash gives nothing away and needs no salt.

    Attributes:
        name: who it was made for; shown in logs.
        digest: SHA-256 of the token, hexadecimal.
    """

    name: str
    digest: str

    @property
    def line(self) -> str:
        """Its line in the file of tokens."""
        return f"{self.name} {self.digest}"


def make_token(name: str) -> tuple[str, Token]:
    """A new token: its text, which is nowhere kept, and what is kept of it.

    Raises:
        ValueError: the name has characters that a name cannot have.
    """
    text = PREFIX + secrets.token_urlsafe(32)
    made = Token(name, hashlib.sha256(text.encode()).hexdigest())
    if not LINE.fullmatch(made.line):
        raise ValueError("a token's name has letters, digits and _ . @ - alone, at most 64")
    return text, made


def parse_tokens(text: str, source: str) -> tuple[Token, ...]:
    """The tokens of a file; empty lines and lines that begin with ``#`` count for nothing.

    Raises:
        ValueError: a line is something else, or there is no token at all.
    """
    tokens = []
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        found = LINE.fullmatch(stripped)
        if not found:
            raise ValueError(f"line {number} of {source} is not: name sha256-of-the-token")
        tokens.append(Token(found["name"], found["digest"]))
    if not tokens:
        raise ValueError(f"{source} holds no token; cis token NAME makes one")
    return tuple(tokens)


def find_token(tokens: Iterable[Token], presented: str) -> Token | None:
    """The token that was presented, or None; takes the same time for each of them."""
    digest = hashlib.sha256(presented.encode()).hexdigest()
    found = None
    for token in tokens:
        if hmac.compare_digest(token.digest, digest):
            found = token
    return found


def presented_in(authorization: str) -> str:
    """The token in an ``Authorization`` header; empty where there is none.

    ``Bearer TOKEN``, or ``Basic`` with the token as password: so that clients which know of no
    tokens can carry one in their URL, ``https://any:TOKEN@host/``.
    """
    scheme, _, rest = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return rest.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(rest, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return ""
    return ""
