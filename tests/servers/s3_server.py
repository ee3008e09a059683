"""What a test needs to know to speak to an S3 server."""

from __future__ import annotations

from dataclasses import dataclass

import urllib3
from minio import Minio

ACCESS_KEY = "testaccesskey"
SECRET_KEY = "testsecretkey"
REGION = "us-east-1"


@dataclass(frozen=True)
class S3Server:
    """A running S3 server on loopback, plain HTTP."""

    name: str
    endpoint: str
    access_key: str = ACCESS_KEY
    secret_key: str = SECRET_KEY
    region: str = REGION

    def make_bucket(self, bucket: str) -> None:
        """Create a bucket; what an operator's bootstrap does in a deployment."""
        pool = urllib3.PoolManager(timeout=urllib3.Timeout(connect=3, read=30))
        client = Minio(
            endpoint=self.endpoint,
            access_key=self.access_key,
            secret_key=self.secret_key,
            region=self.region,
            secure=False,
            http_client=pool,
        )
        client.make_bucket(bucket_name=bucket)
        pool.clear()
