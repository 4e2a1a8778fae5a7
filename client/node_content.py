"""What is in a message, on its way from the coordinator's form to the site's and back.

A connector passes on models that are many times its own size, so no copy is kept for longer than
it is needed: whoever hands records in must not hold them, either.
"""

from flwr.app import RecordDict

from common import wire
from common.parcels import is_packed, packed, unpacked


def for_site(fetched: RecordDict) -> tuple[bytes, bool]:
    """The records as the site reads them, and whether they came as a parcel.

    Raises `MessageError` for a parcel that is none.
    """
    is_parcel = is_packed(fetched)
    records = unpacked(fetched)
    del fetched
    return wire.records_to_bytes(records), is_parcel


def for_coordinator(answer: bytes, *, as_parcel: bool) -> RecordDict:
    """The site's answer as the coordinator reads it.

    A coordinator who has sent no parcel may not know what one is.

    Raises `MessageError` for bytes that are no records.
    """
    records = wire.records_from_bytes(answer)
    return packed(records) if as_parcel else records
