"""What every Lethe process is told from outside, read from `LETHE_*` environment variables and files of secrets."""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from pathlib import Path
from typing import Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.errors import SettingsError

# Signatures by a private key: `none` signs nothing, and with HS* whoever verifies could also sign.
_SIGNATURE_ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")


class Settings(BaseSettings):
    """Places, limits and credentials; each field states its unit and meaning."""

    # Values are stripped: a key read from a file into a variable ends in the file's line break, which no header may carry.
    model_config = SettingsConfigDict(
        env_prefix="LETHE_", env_ignore_empty=True, extra="ignore", hide_input_in_errors=True, str_strip_whitespace=True
    )

    secrets: Path | None = Field(
        default=None, description="Folder whose files, named like a variable in lower case (lethe_s3_secret_key), hold its value."
    )
    home: Path = Field(default=Path("var"), description="Folder of everything the embedded mode keeps: store, database, caches, logs.")
    database_url: SecretStr | None = Field(
        default=None,
        description="URL of the job records, postgresql://user:password@host:5432/database; empty means SQLite under LETHE_HOME.",
    )
    services_database_url: SecretStr | None = Field(
        default=None,
        description="The URL that services are given, for `lethe migrate` to make its role and grant its rights; empty grants nobody.",
    )
    keys: Path | None = Field(
        default=None, description="Folder of the keys that sign page tokens and mark prompts; replicas share it. Empty means LETHE_HOME."
    )
    import_roots: str = Field(default="", description="Folders that file:// sources may lie in, parted by ':'; empty allows none.")
    torch_threads: int = Field(default=0, ge=0, description="CPU threads per process for tensor work; 0 leaves it to torch.")
    model_memory_bytes: int = Field(
        default=8_589_934_592,
        gt=0,
        description="Memory for the models that one inference service holds, in bytes; the least recently used go.",
    )
    job_slots: int = Field(default=1, ge=1, description="Jobs that one service runs at the same time.")
    checkpoint_seconds: float = Field(default=60, gt=0, description="Seconds after which a running training is kept in a checkpoint again.")
    checkpoints_kept: int = Field(default=2, ge=1, description="Checkpoints of a running training that are kept; older ones are removed.")

    auth: Literal["off", "on"] = Field(
        default="off", description="Whether callers must show a credential; off makes everybody anonymous, who may do all."
    )
    listen_host: str = Field(default="", description="Address that a service listens on; empty means the host of its own URL.")
    trusted_proxies: str = Field(
        default="", description="Networks of the proxies that end TLS in front of a service, parted by ','; empty means there is none."
    )
    tls_certificate: Path | None = Field(default=None, description="File with the certificate chain that a service shows, as PEM.")
    tls_key: Path | None = Field(default=None, description="File with the private key of that certificate, as PEM.")
    service_key: SecretStr | None = Field(default=None, description="API key that a service shows to its siblings.")
    api_key: SecretStr | None = Field(default=None, description="API key that the command line shows to the services.")
    oidc_issuer: str = Field(default="", description="Issuer of the tokens that are accepted, as their `iss` says; empty accepts none.")
    oidc_audience: str = Field(default="", description="Audience that a token must be made for.")
    oidc_jwks_url: str = Field(default="", description="Where the issuer's public keys are read (JWKS).")
    oidc_algorithms: str = Field(default="RS256,ES256", description="Signature algorithms that tokens may use, parted by ','.")
    quota_requests_per_minute: int = Field(default=0, ge=0, description="Requests that one caller may send a minute; 0 is no limit.")
    quota_images_per_day: int = Field(default=0, ge=0, description="Images that one caller may have drawn a day (UTC); 0 is no limit.")
    quota_images_per_prompt_per_day: int = Field(
        default=0, ge=0, description="Images of one prompt by one model that one caller may have drawn a day (UTC); 0 is no limit."
    )

    body_limit_bytes: int = Field(
        default=1_048_576, ge=1024, description="Largest JSON body that is read, in bytes; uploads of images have their own."
    )
    upload_limit_bytes: int = Field(default=33_554_432, ge=1024, description="Largest body of a route that takes images, in bytes.")
    drain_seconds: int = Field(
        default=15, ge=1, description="Seconds that requests under way get to end in after SIGTERM; then they are answered 503."
    )
    otlp_endpoint: str = Field(
        default="", description="URL that traces are sent to, http://collector:4318/v1/traces; empty sends none. Needs the extra 'otel'."
    )

    ray_address: str = Field(default="", description="host:port of a Ray cluster's head node; empty runs jobs as child processes.")
    ray_token_file: Path | None = Field(default=None, description="File with the token of the Ray cluster; none is used without one.")
    ray_cpus_per_job: float = Field(default=1.0, gt=0, description="CPUs of a Ray node that one job takes.")
    ray_gpus_per_job: float = Field(default=0.0, ge=0, description="GPUs of a Ray node that one job takes.")

    store: Literal["directory", "s3"] = Field(
        default="directory", description="Where objects lie: a folder under LETHE_HOME, or an S3 server."
    )
    s3_endpoint: str = Field(default="", description="host:port of the S3 server.")
    s3_bucket: str = Field(default="lethe", description="Bucket of all objects.")
    audit_bucket: str = Field(
        default="", description="Bucket of the audit log's anchors, with object lock; empty: the bucket of all objects."
    )
    s3_region: str = Field(default="us-east-1", description="Region; set, so that no location call precedes the first request.")
    s3_secure: bool = Field(default=True, description="Whether the S3 server is reached over TLS.")
    s3_access_key: SecretStr | None = Field(default=None, description="Access key of the S3 server.")
    s3_secret_key: SecretStr | None = Field(default=None, description="Secret key of the S3 server.")
    s3_principals: str = Field(
        default="",
        description="Who each service is to the S3 server, as service=principal parted by ','; `lethe bootstrap` grants policies to them.",
    )

    trainer_url: str = Field(default="http://127.0.0.1:8001", description="Where the trainer answers.")
    sampler_url: str = Field(default="http://127.0.0.1:8002", description="Where the sampler answers.")
    detector_url: str = Field(default="http://127.0.0.1:8003", description="Where the detector answers.")
    mitigator_url: str = Field(default="http://127.0.0.1:8004", description="Where the mitigator answers.")

    @field_validator("trusted_proxies")
    @classmethod
    def _require_networks(cls, value: str) -> str:
        """Refuse what is no list of networks."""
        for network in _parts(value):
            try:
                ipaddress.ip_network(network)
            except ValueError:
                raise ValueError("write networks as 10.0.0.0/8, parted by ','") from None
        return value

    @field_validator("oidc_algorithms")
    @classmethod
    def _require_signatures(cls, value: str) -> str:
        """Refuse algorithms that prove nothing."""
        if not _parts(value) or not set(_parts(value)).issubset(_SIGNATURE_ALGORITHMS):
            raise ValueError(f"name some of {', '.join(_SIGNATURE_ALGORITHMS)}, and nothing else")
        return value

    @field_validator("trainer_url", "sampler_url", "detector_url", "mitigator_url")
    @classmethod
    def _require_address(cls, value: str) -> str:
        """Refuse what nobody can ask."""
        if not _is_address(value):
            raise ValueError("write it as https://host:port")
        return value

    @field_validator("oidc_jwks_url")
    @classmethod
    def _require_private_way(cls, value: str) -> str:
        """Refuse to read keys over a network that could replace them."""
        if value and not (_is_address(value) and ((place := urlsplit(value)).scheme == "https" or is_loopback(place.hostname or ""))):
            raise ValueError("it must begin with https://, since whoever can change its answer can sign tokens")
        return value

    @model_validator(mode="after")
    def _require_pairs(self) -> Self:
        """Refuse half of what only works together."""
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("LETHE_TLS_CERTIFICATE and LETHE_TLS_KEY come together")
        if self.oidc_issuer and not (self.oidc_audience and self.oidc_jwks_url):
            raise ValueError(
                "LETHE_OIDC_ISSUER needs LETHE_OIDC_AUDIENCE, without which tokens for others would do, and LETHE_OIDC_JWKS_URL"
            )
        return self

    @property
    def signature_algorithms(self) -> tuple[str, ...]:
        """The signature algorithms that tokens may use."""
        return _parts(self.oidc_algorithms)

    @property
    def proxy_networks(self) -> tuple[str, ...]:
        """The networks of trusted proxies."""
        return _parts(self.trusted_proxies)

    @property
    def store_principals(self) -> tuple[str, ...]:
        """The services and principals to be granted policies, each as service=principal."""
        return _parts(self.s3_principals)

    @property
    def sql_url(self) -> str:
        """The database URL in force."""
        return self.database_url.get_secret_value() if self.database_url else f"sqlite:///{self.home.resolve() / 'lethe.db'}"

    @property
    def keys_folder(self) -> Path:
        """Where the installation's own secret keys lie."""
        return (self.keys or self.home).resolve()

    @property
    def import_folders(self) -> list[Path]:
        """The import roots as resolved folders."""
        return [Path(part).resolve() for part in self.import_roots.split(":") if part]


@lru_cache
def get_settings() -> Settings:
    """The settings of this process, read once: from the environment, and what it leaves open from the files of LETHE_SECRETS."""
    try:
        settings = Settings()
        if settings.secrets is None:
            return settings
        if not settings.secrets.is_dir():
            raise SettingsError(f"LETHE_SECRETS names {settings.secrets}, which is no folder.")
        return Settings(_secrets_dir=settings.secrets)
    except ValidationError as error:
        raise SettingsError(" ".join(_told(wrong) for wrong in error.errors(include_input=False, include_url=False))) from None


def _told(wrong: ErrorDetails) -> str:
    """One thing that is wrong with the settings as a sentence that names its variable."""
    said = wrong["msg"].removeprefix("Value error, ").rstrip(".")
    return f"LETHE_{str(wrong['loc'][0]).upper()} cannot be used: {said}." if wrong["loc"] else f"{said}."


def _is_address(url: str) -> bool:
    """Whether a URL names a server; of one that cannot be read, the reason would quote parts, which may be a password's."""
    try:
        place = urlsplit(url)
        return place.scheme in {"http", "https"} and bool(place.hostname) and place.port != 0
    except ValueError:
        return False


def is_loopback(host: str) -> bool:
    """Whether only this machine answers at a host, as a name or an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _parts(text: str) -> tuple[str, ...]:
    """What stands between commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())
