"""Requests to receivers that are up to no good: names that change, answers without an end, answers that never come."""

import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from creditfold.delivery import sender
from creditfold.delivery.addresses import networks_of
from creditfold.delivery.sender import ANSWER_BYTES, Answer, Sender
from helpers.receivers import LOOPBACK, Receiver


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as opened:
        yield opened


class Names(AbstractResolver):
    """Resolves any name to the next of some addresses."""

    def __init__(self, *addresses: str) -> None:
        self.left = list(addresses)
        self.asked: list[str] = []

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.asked.append(host)
        address = self.left.pop(0)
        return [ResolveResult(hostname=host, host=address, port=port, family=socket.AF_INET, proto=0, flags=0)]

    async def close(self) -> None:
        """Nothing."""


async def sent(url: str, names: Names | None = None, times: int = 1) -> list[Answer]:
    """What comes of sending to a URL, some times."""
    made = Sender(networks_of(LOOPBACK), names)
    try:
        return [await made.send(url, {"webhook-id": "msg_1"}, b"{}") for _ in range(times)]
    finally:
        await made.close()


async def test_a_name_is_called_at_the_address_that_was_judged(receiver: Receiver) -> None:
    """It is looked up once for a connection; where it leads elsewhere the next time, that is judged anew."""
    url = receiver.url.replace("127.0.0.1", "shop.example")
    receiver.answer = lambda _: (200, {"Connection": "close"}, b"ok")
    names = Names("127.0.0.1", "169.254.169.254", "10.0.0.1")
    first, second, third = await sent(url, names, 3)
    assert (first.status, first.head, first.error) == (200, b"ok", "")
    assert [call.headers["host"] for call in receiver.calls] == [url.split("/")[2]]
    assert (second.status, third.status) == (None, None)
    assert second.error == "169.254.169.254 is not in a network that may be called without TLS"
    assert len(names.asked) == 3


@pytest.mark.parametrize("url", ["https://127.1/", "https://2130706433/", "https://0x7f.0.0.1/", "https://localhost/"])
async def test_other_spellings_of_loopback_are_refused(url: str) -> None:
    """Where nothing is allowed, however an address is written."""
    made = Sender([])
    try:
        answer = await made.send(url, {}, b"{}")
    finally:
        await made.close()
    assert answer.status is None
    assert any(said in answer.error for said in ("no public address", "not known", "not a canonical"))


def trickle(handler: BaseHTTPRequestHandler) -> None:
    """A byte now and then, for as long as somebody reads."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while True:
        handler.wfile.write(b"x")
        time.sleep(0.05)


def trickle_head(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
    while True:
        handler.wfile.write(b"x")
        time.sleep(0.05)


@pytest.mark.parametrize("raw", [trickle, trickle_head])
async def test_a_receiver_that_trickles_has_no_more_time_than_others(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, raw: object
) -> None:
    """The bound is of the whole request, not between two bytes."""
    monkeypatch.setattr(sender, "REQUEST_S", 0.5)
    receiver.raw = raw  # type: ignore[assignment]
    (answer,) = await sent(receiver.url)
    assert (answer.status, answer.error) == (None, "no answer within 0.5 s")


def flood(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
    while True:
        handler.wfile.write(b"y" * 65_536)


async def test_no_more_than_a_kib_is_read_of_an_answer(receiver: Receiver) -> None:
    """However much it says that there is."""
    receiver.raw = flood
    (answer,) = await sent(receiver.url)
    assert (answer.status, answer.head) == (200, b"y" * ANSWER_BYTES)


#: What a receiver writes that is no answer.
NOISE = [b"", b"\r\n", b"HTTP/9.9 what\r\n\r\n", b"\x00\xff\xfe", b"HTTP/1.1 200 OK\r\n\r\x00\n" * 3]


@pytest.mark.parametrize("noise", NOISE)
async def test_noise_is_no_answer(receiver: Receiver, noise: bytes) -> None:
    """And says why, in one line that can be kept."""

    def write(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(noise)
        handler.close_connection = True

    receiver.raw = write
    (answer,) = await sent(receiver.url)
    assert answer.status is None
    assert answer.error.isprintable()
    assert answer.error


async def test_a_redirect_is_followed_by_nobody(receiver: Receiver) -> None:
    """Nor is a cookie kept, or a packed answer unpacked."""
    headers = {"Location": "/elsewhere", "Set-Cookie": "a=b", "Content-Encoding": "gzip"}
    receiver.answer = lambda _: (302, headers, b"no gzip")
    answers = await sent(receiver.url, times=2)
    assert [one.status for one in answers] == [302, 302]
    assert answers[0].error == "status 302, which leads to '/elsewhere'"
    assert answers[0].head == b"no gzip"
    assert [call.path for call in receiver.calls] == ["/hook", "/hook"]
    assert all("cookie" not in call.headers for call in receiver.calls)


@contextmanager
def with_tls(folder: Path) -> Iterator[int]:
    """A server with a certificate that nobody vouches for; its port."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "shop.example")])
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(days=1), now + timedelta(days=1))
    certificate = made.sign(key, hashes.SHA256())
    pem = folder / "server.pem"
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    pem.write_bytes(private + certificate.public_bytes(Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    with Receiver(context) as receiver:
        yield int(receiver.url.split(":")[2].partition("/")[0])
        assert receiver.calls == []


async def test_a_receiver_that_nobody_vouches_for_gets_nothing(tmp_path: Path) -> None:
    """Its certificate is checked, by the name in the URL."""
    with with_tls(tmp_path) as port:
        (answer,) = await sent(f"https://shop.example:{port}/hook", Names("127.0.0.1"))
    assert answer.status is None
    assert "certificate verify failed" in answer.error
