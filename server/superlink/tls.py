"""TLS towards the SuperLink: by the consortium's own authority, and no other."""

import ssl
from pathlib import Path


def tls_of(ca: Path) -> ssl.SSLContext:
    """A context that trusts servers by the authority whose certificate is at `ca` alone."""
    return ssl.create_default_context(cafile=ca)
