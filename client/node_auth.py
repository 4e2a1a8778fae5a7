"""How a node shows its key: each request carries its public half and a signed time.

Word for word what Flower's `NodeAuthHttpInterceptor` does, whose package loads a web server, which
a connector would carry about in 18 MB.
"""

from base64 import b64encode

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.date import now
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext


class NodeAuth:
    """Adds the node's public key and the time, signed by its private half, to each request."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key
        self._public_key = b64encode(public_key_to_bytes(key.public_key())).decode("ascii")

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """The answer to the signed request."""
        timestamp = now().isoformat()
        signature = sign_message(self._key, timestamp.encode("ascii"))
        headers = context.request.headers
        headers[FLEET_HTTP_PUBLIC_KEY_HEADER] = self._public_key
        headers[TIMESTAMP_HEADER] = timestamp
        headers[FLEET_HTTP_SIGNATURE_HEADER] = b64encode(signature).decode("ascii")
        return call_next(context)
