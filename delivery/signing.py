"""Signs requests as Standard Webhooks 1.0.0 has it: with HMAC-SHA256 (`v1`) and ed25519 (`v1a`), both in each request.

Owns how secrets are made, written and used. A receiver verifies the one that it likes: `v1` by a secret that both have,
`v1a` by a public key. Source: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import hashlib
import hmac
import secrets
from base64 import b64encode
from collections.abc import Sequence

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from creditfold.projections.delivery.endpoints import SigningKey

#: Bytes of a secret; the specification has 24 to 64.
SECRET_BYTES = 32


def new_key() -> SigningKey:
    """A new key, drawn at random."""
    return SigningKey(secrets.token_bytes(SECRET_BYTES), secrets.token_bytes(32))


def secret_text(key: SigningKey) -> str:
    """The secret of `v1`, as its receiver is given it: this once."""
    return f"whsec_{b64encode(key.secret).decode()}"


def public_text(key: SigningKey) -> str:
    """The public key of `v1a`, which is no secret."""
    public = Ed25519PrivateKey.from_private_bytes(key.seed).public_key()
    return f"whpk_{b64encode(public.public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()}"


class Signer:
    """Signs an endpoint's requests with each of its keys.

    Args:
        keys: the newest first; two while they are rotated.
    """

    def __init__(self, keys: Sequence[SigningKey]) -> None:
        self._secrets = [key.secret for key in keys]
        self._privates = [Ed25519PrivateKey.from_private_bytes(key.seed) for key in keys]

    def __repr__(self) -> str:
        return f"Signer({len(self._secrets)} keys)"

    def headers(self, webhook_id: str, at_s: int, body: bytes) -> dict[str, str]:
        """The headers of a request.

        Args:
            webhook_id: of the event.
            at_s: when it is sent, in seconds since 1970 UTC.
            body: of the request.
        """
        content = b"%b.%d.%b" % (webhook_id.encode(), at_s, body)
        found = [f"v1a,{b64encode(private.sign(content)).decode()}" for private in self._privates]
        found += [
            f"v1,{b64encode(hmac.new(secret, content, hashlib.sha256).digest()).decode()}" for secret in self._secrets
        ]
        return {"webhook-id": webhook_id, "webhook-timestamp": str(at_s), "webhook-signature": " ".join(found)}
