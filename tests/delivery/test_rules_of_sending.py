"""Signatures, retries and addresses: the pure rules of what is sent where, when, and how."""

import base64
import hashlib
import hmac
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import hypothesis.strategies as st
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from standardwebhooks import Webhook, WebhookVerificationError

from creditfold.delivery.addresses import networks_of, refusal
from creditfold.delivery.retries import JITTER, SCHEDULE_S, Verdict, pause_s, retry_after_s, verdict
from creditfold.delivery.signing import Signer, new_key, public_text, secret_text
from creditfold.projections.delivery.endpoints import SigningKey, url_problem

ID, AT_S, BODY = "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, b'{"test": 2432232314}'
# The vectors of the specification's own libraries.
SECRET = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
SEED = base64.b64decode("VEVTVFNJR05JTkdLRVlET05PVFVTRVRISVNGT1JBTlk=")
V1 = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
V1A = "v1a,tQ9V2XOqn7jL/DQenEFpqIugdBVtiMmER5mhSkXBNwM0mkATuDe6KYYUuxqtaiHeYGb7KaaBRdM5WqyeFiL8Ag=="


def test_the_specifications_own_vectors() -> None:
    """Both signatures are in one header, and what is signed beside them."""
    assert Signer([SigningKey(SECRET, SEED)]).headers(ID, AT_S, BODY) == {
        "webhook-id": ID,
        "webhook-timestamp": str(AT_S),
        "webhook-signature": f"{V1A} {V1}",
    }


def test_who_has_either_key_verifies_while_they_are_rotated() -> None:
    """The newest first; a changed body, id or time is noticed, and so is a request of long ago."""
    old, new, now = new_key(), new_key(), datetime.now(UTC)
    signed = Signer([new, old]).headers(ID, int(now.timestamp()), BODY)
    kinds = [part.partition(",")[0] for part in signed["webhook-signature"].split(" ")]
    assert kinds == ["v1a", "v1a", "v1", "v1"]
    for key in (old, new):
        assert Webhook(secret_text(key)).verify(BODY, signed) == {"test": 2432232314}
    with pytest.raises(WebhookVerificationError):
        Webhook(secret_text(new_key())).verify(BODY, signed)
    replayed = Signer([new]).headers(ID, int((now - timedelta(minutes=10)).timestamp()), BODY)
    for body, headers in ((BODY + b" ", signed), (BODY, {**signed, "webhook-id": "msg_x"}), (BODY, replayed)):
        with pytest.raises(WebhookVerificationError):
            Webhook(secret_text(new)).verify(body, headers)


@given(st.binary(max_size=200), st.integers(0, 2**40))
def test_the_public_key_verifies(body: bytes, at_s: int) -> None:
    """And nothing else does."""
    key = new_key()
    signed = Signer([key]).headers(ID, at_s, body)["webhook-signature"]
    first, second = (base64.b64decode(part.partition(",")[2]) for part in signed.split(" "))
    content = f"{ID}.{at_s}.".encode() + body
    public = Ed25519PublicKey.from_public_bytes(base64.b64decode(public_text(key).removeprefix("whpk_")))
    public.verify(first, content)
    with pytest.raises(InvalidSignature):
        public.verify(first, content + b"x")
    assert second == hmac.new(key.secret, content, hashlib.sha256).digest()


def test_no_secret_is_shown() -> None:
    """By what prints a key, or what signs with it."""
    key = SigningKey(SECRET, SEED)
    for shown in (repr(key), str(key), f"{[key]}", repr(Signer([key]))):
        assert "\\x" not in shown
        assert "MfKQ" not in shown


#: What a receiver answers, and what it means.
VERDICTS = [
    (None, Verdict.FAILED),
    (100, Verdict.FAILED),
    (200, Verdict.DELIVERED),
    (204, Verdict.DELIVERED),
    (299, Verdict.DELIVERED),
    (301, Verdict.FAILED),
    (307, Verdict.FAILED),
    (400, Verdict.FAILED),
    (410, Verdict.GONE),
    (429, Verdict.FAILED),
    (500, Verdict.FAILED),
    (503, Verdict.FAILED),
]


@pytest.mark.parametrize(("status", "expected"), VERDICTS)
def test_only_2xx_is_success(status: int | None, expected: Verdict) -> None:
    """And 410 the end."""
    assert verdict(status) == expected


def test_the_schedule_takes_three_days() -> None:
    """Nine pauses, as the contract has them, then it is given up."""
    assert [pause_s(tries, 0.5) for tries in range(1, 11)] == [*map(float, SCHEDULE_S), None]
    assert 3 * 86_400 < sum(SCHEDULE_S) < 3.5 * 86_400


@given(st.integers(1, 9), st.floats(0, 1, exclude_max=True))
def test_a_pause_is_longer_or_shorter_by_a_fifth_at_most(tries: int, chance: float) -> None:
    """So that not all come back at one instant."""
    found = pause_s(tries, chance)
    assert found is not None
    assert abs(found - SCHEDULE_S[tries - 1]) <= JITTER * SCHEDULE_S[tries - 1] + 1e-6


NOW = datetime(2027, 1, 1, tzinfo=UTC)
#: A status, Retry-After, and the seconds for which nothing is sent.
RESTS = [
    (429, "30", 30.0),
    (503, "30", 30.0),
    (500, "30", 0.0),
    (200, "30", 0.0),
    (429, "", 0.0),
    (429, "-5", 0.0),
    (429, "soon", 0.0),
    (429, "1e9", 0.0),
    (429, "9" * 400, 86_400.0),
    (429, "٣", 0.0),
    (503, format_datetime(NOW + timedelta(minutes=2), usegmt=True), 120.0),
    (503, format_datetime(NOW - timedelta(minutes=2), usegmt=True), 0.0),
    (503, format_datetime(NOW + timedelta(days=900), usegmt=True), 86_400.0),
    (503, "Fri, 99 Jan 2027 00:00:00 GMT", 0.0),
]


@pytest.mark.parametrize(("status", "header", "expected"), RESTS)
def test_a_receiver_is_left_alone_for_as_long_as_it_asks(status: int, header: str, expected: float) -> None:
    """In seconds or until a date, for a day at most."""
    assert retry_after_s(status, header, NOW) == expected


@given(st.integers(100, 599), st.text(max_size=40))
def test_whatever_a_receiver_asks_is_understood(status: int, header: str) -> None:
    """As a number of seconds between none and a day."""
    assert 0.0 <= retry_after_s(status, header, NOW) <= 86_400.0


PRIVATE = "10.1.0.0/16, fd00::/8"
#: An address, whether it is called by https, and whether it is refused: without anything allowed, and with PRIVATE.
ADDRESSES = [
    ("93.184.216.34", True, False, False),
    ("2606:2800:220:1:248:1893:25c8:1946", True, False, False),
    ("93.184.216.34", False, True, True),
    ("10.1.2.3", True, True, False),
    ("10.1.2.3", False, True, False),
    ("10.2.2.3", True, True, True),
    ("fd00::1", False, True, False),
    ("127.0.0.1", True, True, True),
    ("::1", True, True, True),
    ("0.0.0.0", True, True, True),  # noqa: S104 - Refused, not bound.
    ("::", True, True, True),
    ("169.254.169.254", True, True, True),
    ("fe80::1%eth0", True, True, True),
    ("172.16.0.1", True, True, True),
    ("192.168.1.1", True, True, True),
    ("100.64.0.1", True, True, True),
    ("224.0.0.1", True, True, True),
    ("ff02::1", True, True, True),
    ("255.255.255.255", True, True, True),
    ("240.0.0.1", True, True, True),
    ("198.18.0.1", True, True, True),
    ("192.0.2.1", True, True, True),
    # Of IPv4 within IPv6: mapped, compatible, translated, by a relay, by a tunnel.
    ("::ffff:127.0.0.1", True, True, True),
    ("::ffff:93.184.216.34", True, False, False),
    ("::ffff:10.1.2.3", True, True, False),
    ("::127.0.0.1", True, True, True),
    ("64:ff9b::a9fe:a9fe", True, True, True),
    ("64:ff9b::5db8:d822", True, False, False),
    ("2002:7f00:1::1", True, True, True),
    ("2001:0:0:0:0:0:5601:5601", True, True, True),
    ("fec0::1", True, True, True),
    ("nowhere", True, True, True),
]


@pytest.mark.parametrize(("address", "is_secure", "by_default", "when_allowed"), ADDRESSES)
def test_only_public_addresses_are_called(address: str, is_secure: bool, by_default: bool, when_allowed: bool) -> None:
    """And those of networks that are allowed; without TLS these alone."""
    assert bool(refusal(address, [], is_secure=is_secure)) == by_default
    assert bool(refusal(address, networks_of(PRIVATE), is_secure=is_secure)) == when_allowed


@given(st.ip_addresses(), st.booleans())
def test_no_address_within_a_private_network_is_called(address: object, is_secure: bool) -> None:
    """Whatever it is: what isn't global is refused."""
    if not refusal(str(address), [], is_secure=is_secure):
        assert is_secure


#: Texts, and whether they can be the URL of an endpoint.
URLS = [
    ("https://shop.example/hooks", True),
    ("https://shop.example:8443/hooks?a=b", True),
    ("http://10.0.0.1/", True),
    ("https://[2606:2800::1]/", True),
    ("https://[2606:2800::1]:8443/", True),
    ("", False),
    ("shop.example/hooks", False),
    ("ftp://shop.example/", False),
    ("https:///hooks", False),
    ("https://user:word@shop.example/", False),
    ("https://shop.example/#part", False),
    ("https://shop.example\\@10.0.0.1/", False),
    ("https://shop.example:0/", False),
    ("https://shop.example:99999/", False),
    ("https://shop.example:/", False),
    ("https://shöp.example/", False),
    ("https://shop.example/a b", False),
    ("https://shop.example/a\nb", False),
    (f"https://shop.example/{'a' * 2_048}", False),
]


@pytest.mark.parametrize(("url", "is_good"), URLS)
def test_a_url_names_a_host_by_https(url: str, is_good: bool) -> None:
    """Without a user, a fragment, or what two readers may read in two ways."""
    assert (url_problem(url) == "") == is_good


@given(st.text(max_size=60))
def test_any_text_is_judged(url: str) -> None:
    """Without an error."""
    url_problem(url)
    url_problem(f"https://{url}")
