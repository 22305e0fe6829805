"""Settings of the web service."""

import ipaddress
from dataclasses import dataclass

from transrec.config import ConfigError

TOKEN_VARIABLE = "TRANSREC_TOKEN"


@dataclass(frozen=True)
class Settings:
    """The address of the service, and its limits.

    Raises:
        ConfigError: other machines can reach the service, and there is no token; or the token is empty.
    """

    host: str = "127.0.0.1"
    port: int = 8000  # 0: any free port
    token: str | None = None  # that requests must carry; None: no request needs one
    most_results: int = 100  # results of one request
    most_body_bytes: int = 2**20
    most_at_once: int = 64  # requests that are answered in one pass
    most_waiting: int = 1024  # requests in the queue; further ones are refused

    def __post_init__(self) -> None:
        if self.token is None and not self.is_local:
            raise ConfigError(
                f"--host {self.host} can be reached from other machines: set {TOKEN_VARIABLE} to a secret, which "
                "requests must carry, or leave out --host"
            )
        if self.token is not None and not self.token:
            raise ConfigError(f"{TOKEN_VARIABLE} is empty: set it to a secret, or unset it")

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the service."""
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
