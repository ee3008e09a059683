"""Objects at rest: one protocol, a folder or an S3 server behind it."""

from shared.storage.directory import DirectoryStore
from shared.storage.fitness import StoreFitness
from shared.storage.keys import validate_key
from shared.storage.object_store import ObjectInfo, ObjectStore
from shared.storage.opening import open_store
from shared.storage.s3 import S3Store
from shared.storage.verification import count_failure, integrity_failure, verify_digest

__all__ = [
    "DirectoryStore",
    "ObjectInfo",
    "ObjectStore",
    "S3Store",
    "StoreFitness",
    "count_failure",
    "integrity_failure",
    "open_store",
    "validate_key",
    "verify_digest",
]
