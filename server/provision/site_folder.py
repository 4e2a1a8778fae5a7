"""What the coordinator sends to one hospital: a folder of four files, none of them secret."""

from cryptography import x509

from common.roster import Roster
from server.provision.authority import certificate_to_pem

CA_FILE = "ca.pem"
ROSTER_FILE = "roster.json"
CLIENT_FILE = "client.pem"
README_FILE = "README.txt"
FILES = (CA_FILE, ROSTER_FILE, CLIENT_FILE, README_FILE)

_README = """\
For the hospital "{name}", from the coordinator of "{consortium}".

Nothing in this folder is secret, and nothing in it was made for anybody else. Your own private keys
never leave your hospital: nobody will ever ask for them.

What is here
  ca.pem       the certificate by which your connector knows the coordinator's server
  roster.json  who takes part, and by which keys; signed by the coordinator (number {serial})
  client.pem   the certificate by which the server's door knows your connector: over your own node
               key, useless without it, and good until {client_until}
  README.txt   this text

What to do
  1. Phone the coordinator, at a number that did not come with this folder. Have them read the
     fingerprint of their signing key to you, and type what you hear:

       wardround site join SITE_DIR THIS_FOLDER --fingerprint "…"

     It compares what you heard with the key that signed the roster, and the roster with ca.pem and
     with your own keys. It is not printed here on purpose: whoever could change this folder could
     change this text too. For every later folder, the same command without --fingerprint.

  2. Read these two to them. They are your own keys as the roster has them, and must be what
     `wardround site keys` printed at your hospital:

       signing key  {signing_key}
       node key     {node_key}

  3. Let your connector, and nothing else, reach the server (TLS):

{addresses}

     Nobody has to reach you: your firewall needs no open port.

Your site keeps the greatest number of a roster that it has seen, and refuses an older one.
"""


def site_files(
    roster: Roster, name: str, *, ca_pem: bytes, roster_json: bytes, client: x509.Certificate
) -> dict[str, bytes]:
    """The files of the folder of the site `name`, by file name.

    Guarantees:
        - They hold public keys, certificates and addresses, and nothing private.
    """
    keys = roster.site(name).fingerprints
    text = _README.format(
        name=name,
        consortium=roster.consortium,
        serial=roster.serial,
        signing_key=keys["signing_key"],
        node_key=keys["node_key"],
        client_until=f"{client.not_valid_after_utc:%Y-%m-%d}",
        addresses="\n".join(f"       {address}" for address in roster.addresses),
    )
    return {
        CA_FILE: ca_pem,
        ROSTER_FILE: roster_json,
        CLIENT_FILE: certificate_to_pem(client),
        README_FILE: text.encode(),
    }
