"""The settings of the web tier, read from ``CIS_WEB_…``."""

from __future__ import annotations

import functools
import ipaddress
from pathlib import Path

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from cis_tasks.errors import SettingsError
from cis_tasks.web.tokens import Token, parse_tokens

MIB = 1 << 20


class WebSettings(BaseSettings):
    """How the web tier behaves; each field is read from ``CIS_WEB_<FIELD>``."""

    model_config = SettingsConfigDict(env_prefix="CIS_WEB_", frozen=True, extra="ignore")

    host: str = "127.0.0.1"
    """Address to listen on; others than loopback need tokens."""

    port: int = Field(8080, ge=0, le=65_535)
    """Port to listen on."""

    processes: int = Field(1, ge=1, le=64)
    """Server processes that share the port."""

    metrics_port: int | None = Field(None, ge=0, le=65_535)
    """Port of ``/metrics`` on ``CIS_HEALTH_HOST``; further processes take those after it."""

    tokens_file: Path | None = None
    """File with one ``name sha256-of-the-token`` per line; made with ``cis token``."""

    max_waiting: int = Field(2_048, ge=1)
    """Requests of one process that may wait for a job at the same time; others get a 503."""

    max_body_bytes: int = Field(25 * MIB, ge=1024)
    """Largest image that is taken by POST."""

    max_held_bytes: int = Field(512 * MIB, ge=1024)
    """Bytes of images that one process holds in memory at the same time; others get a 503."""

    max_pixels: int = Field(100_000_000, ge=1)
    """Most pixels that an image may claim to have."""

    max_upload_bytes: int = Field(2048 * MIB, ge=1024, le=5120 * MIB)
    """Largest file that may be uploaded straight to S3; S3 itself takes 5 GiB in one POST."""

    body_timeout_s: float = Field(60, gt=0)
    """Longest time that a client may take to send its body."""

    deadline_s: float = Field(600, gt=0, le=43_200)
    """Longest wait for an answer; after it a 504 names the job, which goes on."""

    links_expire_s: int = Field(900, ge=1, le=604_800)
    """How long presigned links are good for."""

    rate_per_s: float = Field(200, gt=0)
    """Requests a second that one token may make of one process, over time."""

    rate_burst: int = Field(4_000, ge=1)
    """Requests that one token may make at once."""

    s3_connections: int = Field(24, ge=1, le=512)
    """Calls to S3 that one process makes at the same time."""

    webhook_secret: str = ""
    """Key that webhooks are signed with; without one, webhooks are refused."""

    webhook_private: bool = False
    """Whether webhooks may go to private addresses and over plain HTTP; for tests."""

    webhook_attempts: int = Field(8, ge=1, le=20)
    """How often a webhook is tried."""

    webhook_backoff_s: float = Field(5, gt=0, le=3600)
    """Wait before a webhook's second attempt; doubles with each further one."""

    webhook_lease_s: float = Field(240, ge=1, le=86_400)
    """A webhook whose process has been silent for so long is taken over by another one."""

    flower_url: str = ""
    """Where the page links to for Flower, such as ``http://127.0.0.1:5555``."""

    @field_validator("flower_url")
    @classmethod
    def _check_flower_url(cls, url: str) -> str:
        if url and not url.startswith(("http://", "https://")):
            raise ValueError("it must begin with http:// or https://")
        return url

    @field_validator("webhook_secret")
    @classmethod
    def _check_secret(cls, secret: str) -> str:
        if secret and len(secret) < 24:
            raise ValueError("a secret has 24 characters or more")
        return secret

    @model_validator(mode="after")
    def _check_openness(self) -> WebSettings:
        if not self.tokens and not self.on_loopback:
            raise ValueError(
                f"the tier would be open to everybody who reaches {self.host}: "
                "name a file of tokens in CIS_WEB_TOKENS_FILE (cis token makes them), "
                "or listen on 127.0.0.1"
            )
        return self

    @functools.cached_property
    def tokens(self) -> tuple[Token, ...]:
        """Who may use the tier; empty where it is open."""
        if self.tokens_file is None:
            return ()
        try:
            text = self.tokens_file.read_text()
        except OSError as error:
            raise ValueError(f"{self.tokens_file} cannot be read: {error.strerror}") from error
        return parse_tokens(text, str(self.tokens_file))

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can connect."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Whether ``host`` is this machine's own name or address for itself."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@functools.cache
def web_settings() -> WebSettings:
    """The process's settings, read once.

    Raises:
        SettingsError: an environment variable makes no sense; names each and why.
    """
    try:
        return WebSettings()
    except ValidationError as error:
        problems = "; ".join(
            f"{_variables(problem['loc'])}: {problem['msg']}" for problem in error.errors()
        )
        raise SettingsError(f"The web tier cannot start: {problems}.") from error


def _variables(location: tuple[int | str, ...]) -> str:
    return f"CIS_WEB_{str(location[0]).upper()}" if location else "CIS_WEB_HOST"
