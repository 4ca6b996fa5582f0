"""What the gateway can be told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MIB = 2**20


@dataclass(frozen=True, slots=True)
class Settings:
    """Where the server is, who may call, and how much of what. Times in seconds."""

    server: str = "127.0.0.1:50051"
    """The lookalike server, HOST:PORT."""
    access: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """How to reach it safely, as `lookalike.client.Client` takes it: api_key, ...

    Whoever reaches the page may do with it what this key may; one that may read will do.
    """
    names: tuple[str, ...] = ()
    """Host names that browsers may know this page by, besides localhost and addresses.

    Any other name is refused: it would be a page elsewhere that had its own name point
    here (DNS rebinding).
    """
    call_timeout_s: float = 30.0
    """How long a search or any other call to the server may take."""
    upload_patience_s: float = 15.0
    """How long an upload keeps trying while the server is away."""
    max_body_bytes: int = 46 * MIB
    """Of a request that is no upload: a picture of 32 MiB in base64, and some."""
    max_upload_bytes: int = 1024 * MIB
    """Of one upload with any number of files."""
    max_uploads: int = 4
    """Uploads at the same time; others wait before their bodies are read."""
    head_timeout_s: float = 10.0
    """From the first byte of a request to the end of its headers."""
    body_timeout_s: float = 20.0
    """For the body, plus `min_body_rate` for what has come; only waiting counts."""
    min_body_rate: float = 16 * 1024
    """Bytes a second that a slow sender must keep up on average."""
    max_connections: int = 256
    """Browsers use up to six each; above that, 503."""
