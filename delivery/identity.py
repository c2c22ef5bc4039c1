"""The ids of events: a function of the endpoint and the event, so that the same event never has another one. Pure."""

from base64 import b32encode
from hashlib import blake2b


def webhook_id(endpoint_id: str, kind: str, key: str) -> str:
    """The id by which an endpoint knows an event, the same whenever it is sent.

    Args:
        endpoint_id: of the endpoint.
        kind: the event's type.
        key: which one it is (events.py).

    Returns:
        At most 64 letters of ASCII, digits and underscores: no full stop, which separates what is signed.

    Example:
        >>> webhook_id("ep_1", "lot.granted", "ada 1 0")
        'msg_xniegzmg4c6bl25kr565euni'
    """
    # NUL is in none of the three but the key, which comes last.
    digest = blake2b(f"{endpoint_id}\0{kind}\0{key}".encode(), digest_size=15).digest()
    return f"msg_{b32encode(digest).decode().lower()}"
