"""Ask one address of a service whether all is well, and say so by the exit code: `python -m shared.http.healthcheck URL`.

The URL is the one without TLS; where the settings name a certificate, the service is asked over TLS.
Containers have no curl. The standard library's client is used instead of httpx, which would be loaded anew at every check.
"""

from __future__ import annotations

import ssl
import sys
import urllib.error
import urllib.request
from http import HTTPStatus
from typing import Final

from shared.settings import get_settings

EXIT_HEALTHY: Final = 0
EXIT_UNHEALTHY: Final = 1
EXIT_USAGE: Final = 2
# Shorter than the time-out of the images' HEALTHCHECK, so that the sentence below still gets out.
_TIMEOUT_SECONDS: Final = 8
_SHOWN_BYTES: Final = 500


def check(url: str, *, tls: bool = False) -> str | None:
    """What is wrong there; None when it answers 200."""
    if not url.startswith("http://"):
        raise ValueError("URL must begin with http://; a health check asks its own container.")
    if tls:
        url = "https" + url.removeprefix("http")
    # Proxies of the environment are for the world outside.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=_any_certificate()))
    try:
        with opener.open(url, timeout=_TIMEOUT_SECONDS) as answer:
            return None if answer.status == HTTPStatus.OK else f"answers {answer.status}"
    except urllib.error.HTTPError as error:
        with error:
            return f"answers {error.code}: {error.read(_SHOWN_BYTES).decode(errors='replace')}"
    except OSError as error:
        return f"does not answer: {error}"


def _any_certificate() -> ssl.SSLContext:
    """TLS that believes every certificate: this one is for names that others use, and nothing secret is sent or learned."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def main(arguments: list[str]) -> int:
    """Check the one address that was given."""
    if len(arguments) != 1:
        sys.stderr.write("Usage: python -m shared.http.healthcheck URL\n")
        return EXIT_USAGE
    wrong = check(arguments[0], tls=get_settings().tls_certificate is not None)
    if wrong is None:
        return EXIT_HEALTHY
    sys.stdout.write(f"{arguments[0]} {wrong}\n")
    return EXIT_UNHEALTHY


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
