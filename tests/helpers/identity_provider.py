"""An identity provider on loopback: publishes keys and metadata, asks who logs in, and gives tokens for a code, once.

As strict as OpenID Connect has one be; what a test wants wrong with its tokens or its answers, the test says.
"""

import base64
import hashlib
import html
import json
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import ECKey, OctKey, RSAKey
from pydantic import SecretStr

from helpers.support import HANG_S

AUDIENCE, CLIENT, SECRET = "creditfold", "console", "not-told"
SUBJECT = "ann"


class IdentityProvider:
    """What it publishes, how often it was asked, and what is wrong with it.

    Fields:
        access, ids: claims of access and of ID tokens that differ; one that is None is left out.
        answer: what `/token` answers with instead, a status and a body.
        metadata: members of its metadata that differ.
        callbacks: where it leads back to.
        seen: the parameters of each request for a code.
    """

    def __init__(self, port: int) -> None:
        self.issuer = f"http://127.0.0.1:{port}"
        self.url = f"{self.issuer}/jwks.json"
        self.keys = [RSAKey.generate_key(2048, {"kid": "rsa"}), ECKey.generate_key("P-256", {"kid": "ec"})]
        #: Published too, as no provider should.
        self.shared = OctKey.generate_key(256, {"kid": "shared"})
        self.asked = 0
        self.callbacks: set[str] = set()
        self.access: dict[str, Any] = {}
        self.ids: dict[str, Any] = {}
        self.answer: tuple[int, str] | None = None
        self.metadata: dict[str, Any] = {}
        self.seen: list[Mapping[str, str]] = []
        self._codes: dict[str, Mapping[str, str]] = {}

    def published(self) -> bytes:
        """Its key set."""
        return json.dumps(
            {"keys": [key.as_dict(private=key is self.shared) for key in (*self.keys, self.shared)]}
        ).encode()

    def token(self, key: Any = None, alg: str = "RS256", **claims: Any) -> str:
        """A token with these claims besides the usual ones; one that is None is left out."""
        usual = {"iss": self.issuer, "aud": AUDIENCE, "sub": SUBJECT, "exp": int(time.time()) + 3_600}
        all_claims = {**usual, "scope": "openid read:balance", **claims}
        used = self.keys[0] if key is None else key
        said = {name: value for name, value in all_claims.items() if value is not None}
        return jwt.encode({"alg": alg, "kid": used.kid}, said, used, algorithms=[alg])

    def described(self) -> dict[str, Any]:
        """Its metadata."""
        return {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": self.url,
            "authorization_response_iss_parameter_supported": True,
            **self.metadata,
        }

    def form(self, asked: Mapping[str, str]) -> str:
        """The page that asks whether somebody logs in; what asks for it in a wrong way is refused."""
        assert asked["response_type"] == "code"
        assert (asked["client_id"], asked["code_challenge_method"], asked["audience"]) == (CLIENT, "S256", AUDIENCE)
        assert asked["redirect_uri"] in self.callbacks
        assert "openid" in asked["scope"].split()
        assert min(len(asked[name]) for name in ("state", "nonce", "code_challenge")) >= 43
        kept = html.escape(urlencode(asked))
        return (
            "<!doctype html><html lang=en><title>Provider</title><h1>Who are you?</h1>"
            f'<form method=post action="/authorize?{kept}"><button name=who value=ann>I am ann</button> '
            "<button name=who value=>Refuse</button></form>"
        )

    def back(self, asked: Mapping[str, str], who: str) -> str:
        """Where a browser is led back to."""
        self.seen.append(asked)
        code = secrets.token_urlsafe()
        self._codes[code] = asked
        said = {"code": code} if who else {"error": "access_denied", "error_description": "<b>Not</b> today"}
        return f"{asked['redirect_uri']}?{urlencode({**said, 'state': asked['state'], 'iss': self.issuer})}"

    def exchanged(self, headers: Mapping[str, str], sent: Mapping[str, str]) -> tuple[int, str]:
        """The answer of `/token`."""
        if self.answer is not None:
            return self.answer
        _, _, text = (headers.get("Authorization") or "").partition(" ")
        user, _, secret = base64.b64decode(text).decode().partition(":")
        basic, posted = (user, secret), (sent.get("client_id"), sent.get("client_secret"))
        is_posted = "client_secret_post" in self.metadata.get("token_endpoint_auth_methods_supported", ())
        if (posted if is_posted else basic) != (CLIENT, SECRET):
            return 401, json.dumps({"error": "invalid_client"})
        asked = self._codes.pop(sent["code"], None)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(sent["code_verifier"].encode()).digest()).rstrip(b"=")
        if asked is None or challenge.decode() != asked["code_challenge"] or sent["grant_type"] != "authorization_code":
            return 400, json.dumps({"error": "invalid_grant", "error_description": "used"})
        assert sent["redirect_uri"] == asked["redirect_uri"]
        now = int(time.time())
        access = self.token(**self.access)
        half = base64.urlsafe_b64encode(hashlib.sha256(access.encode()).digest()[:16]).rstrip(b"=").decode()
        claims = {"aud": CLIENT, "nonce": asked["nonce"], "iat": now, "scope": None, "at_hash": half, **self.ids}
        found = {"access_token": access, "token_type": "Bearer", "expires_in": 3_600, "id_token": self.token(**claims)}
        return 200, json.dumps(found)


@contextmanager
def provider_at(port: int) -> Iterator[IdentityProvider]:
    """A provider that serves for a block."""
    found = IdentityProvider(port)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path, asked = self._asked()
            if path == "/jwks.json":
                found.asked += 1
                self._send(200, found.published())
            elif path == "/.well-known/openid-configuration":
                self._send(200, json.dumps(found.described()).encode())
            else:
                self._send(200, found.form(asked).encode(), {"Content-Type": "text/html"})

        def do_POST(self) -> None:
            path, asked = self._asked()
            sent = dict(parse_qsl(self.rfile.read(int(self.headers["Content-Length"])).decode(), True))
            if path == "/token":
                status, body = found.exchanged(self.headers, sent)
                self._send(status, body.encode(), {"Location": f"{found.issuer}/elsewhere"} if status == 307 else {})
            else:
                self._send(303, b"", {"Location": found.back(asked, sent["who"])})

        def _asked(self) -> tuple[str, dict[str, str]]:
            url = urlsplit(self.path)
            return url.path, dict(parse_qsl(url.query, True))

        def _send(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join(HANG_S)


def settings_with(provider: IdentityProvider, console_url: str | None = None) -> dict[str, Any]:
    """The settings that name a provider; with the console's address those of the login by it."""
    own = {"api_jwks_url": provider.url, "api_jwt_issuer": provider.issuer, "api_jwt_audience": AUDIENCE}
    if console_url is None:
        return own
    provider.callbacks.add(f"{console_url}/console/login/callback")
    login = {
        "console_oidc_client_id": CLIENT,
        "console_oidc_client_secret": SecretStr(SECRET),
        "console_oidc_name": "Example ID",
    }
    return {**own, "console_url": console_url, **login}
