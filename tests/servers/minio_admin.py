"""The administration of users as MinIO offers it, in memory: requests must be signed, bodies encrypted; no real MinIO takes part.

What it checks is what minio-py's own code says of the protocol: it stands for a server that cannot be had here, and proves none.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

from minio.credentials.credentials import Credentials
from minio.crypto import decrypt
from minio.signer import sign_v4_s3
from urllib3.response import HTTPResponse

from tests.servers.s3_server import ACCESS_KEY, SECRET_KEY

PATH = "/minio/admin/v3/"


class MinioAdministration:
    """Users, policies and who has which; `answers` are given, first come first served, in place of doing anything."""

    def __init__(self) -> None:
        self.users: dict[str, str] = {}
        self.policies: dict[str, list[dict[str, Any]]] = {}
        self.granted: dict[str, str] = {}
        self.answers: list[tuple[int, str]] = []
        self.endpoint = ""

    def allowed_to(self, access_key: str) -> list[dict[str, Any]]:
        """The statements of a user's policy."""
        return self.policies[self.granted[access_key]]

    def do(self, command: str, query: dict[str, str], body: bytes) -> tuple[int, str]:
        """Carry a command out, as MinIO's router names it."""
        if command == "add-user":
            given = json.loads(decrypt(HTTPResponse(BytesIO(body), preload_content=False), SECRET_KEY))
            assert given["status"] == "enabled"
            if len(query["accessKey"]) < 3 or len(given["secretKey"]) < 8:
                return 400, '{"Code": "XMinioAdminInvalidAccessKey"}'
            self.users[query["accessKey"]] = given["secretKey"]
        elif command == "add-canned-policy":
            self.policies[query["name"]] = json.loads(body)["Statement"]
        elif command == "set-user-or-group-policy":
            assert query["isGroup"] == "false"
            if query["policyName"] not in self.policies or query["userOrGroup"] not in self.users:
                return 404, '{"Code": "XMinioAdminNoSuchUser"}'
            self.granted[query["userOrGroup"]] = query["policyName"]
        else:
            return 404, '{"Code": "XMinioAdminUnknown"}'
        return 200, ""


@contextmanager
def run_minio_admin() -> Iterator[MinioAdministration]:
    """Answer on a free port for as long as the block lasts."""
    administration = MinioAdministration()

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            place = urlsplit(self.path)
            if administration.answers:
                status, text = administration.answers.pop(0)
            elif not is_signed(self, f"http://{administration.endpoint}{self.path}"):
                status, text = 403, '{"Code": "SignatureDoesNotMatch", "Message": "what was signed"}'
            else:
                query = {name: values[0] for name, values in parse_qs(place.query).items()}
                status, text = administration.do(place.path.removeprefix(PATH), query, body)
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_told: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    administration.endpoint = f"127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield administration
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def is_signed(request: BaseHTTPRequestHandler, url: str) -> bool:
    """Whether the administrator signed the request."""
    shown = request.headers.get("Authorization", "")
    told = re.search(r"Credential=[^/]+/\d+/([^/]*)/s3/aws4_request, SignedHeaders=([^,]+)", shown)
    if told is None:
        return False
    signed = sign_v4_s3(
        method=request.command,
        url=urlsplit(url),
        region=told[1],
        headers=cast("Any", {name: request.headers[name] for name in told[2].split(";")}),
        credentials=Credentials(ACCESS_KEY, SECRET_KEY),
        content_sha256=request.headers["x-amz-content-sha256"],
        date=datetime.strptime(request.headers["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC),
    )
    return bool(signed["Authorization"] == shown)
