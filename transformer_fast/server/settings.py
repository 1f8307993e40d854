"""`Settings`: what the operator of a server decides; `commands/serve.py` makes it of options, tests make their own.

Limits of engines (tokens in flight, queue) are not here: `served.load_served` takes them.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True)
class Settings:
    """How a server listens, whom it answers, and what it refuses.

    Attributes:
        host, port: where it listens; port 0 takes a free one.
        api_keys: a request needs one of them as `Authorization: Bearer KEY`; () answers everybody.
        allowed_hosts: names that the header Host may have beyond those of this machine. They are compared where `host`
            is a loopback address, or where names are given: a page of another site that has its own name resolve to
            127.0.0.1 (DNS rebinding) is refused.
        cors_origins: origins of pages that may call the server from a browser, "https://example.com" or "*".
        max_body: bytes of a request's body.
        max_input_texts: texts, documents or prompts of one request.
        default_max_tokens: new tokens of an answer whose request does not say how many; memory is kept free for them.
        timeout: seconds until a request without a stream has its answer, else 504; and until a stream ends.
        read_timeout: seconds for a request's headers, and for its body.
        write_timeout: seconds in which a client has to take something of what waits for it.
        stop_timeout: seconds that running requests have after SIGTERM.
        log_json: log lines are JSON objects. log_texts: log lines have the bodies of requests.

    Raises:
        ValueError: a number is out of range.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    api_keys: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    max_body: int = 8 << 20
    max_input_texts: int = 2048  # OpenAI's limit of /v1/embeddings
    default_max_tokens: int = 1024
    timeout: float = 600.0
    read_timeout: float = 30.0
    write_timeout: float = 30.0
    stop_timeout: float = 60.0
    log_json: bool = False
    log_texts: bool = False

    def __post_init__(self) -> None:
        for name in (
            "max_body",
            "max_input_texts",
            "default_max_tokens",
            "timeout",
            "read_timeout",
            "write_timeout",
            "stop_timeout",
        ):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; needed: a number above 0")
        if not 0 <= self.port < 1 << 16:
            raise ValueError(f"port is {self.port}; needed: 0 to 65535")

    @property
    def is_local(self) -> bool:
        """Can only this machine reach it?"""
        return is_loopback(self.host)


@lru_cache(1024)  # of each request's Host
def is_loopback(host: str) -> bool:
    """Is it a name or an address of this machine alone?"""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
