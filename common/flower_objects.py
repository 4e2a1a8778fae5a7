"""The objects that Flower's messages are taken apart into, before anything is made of them.

All of them are the other side's, at a hospital as at the coordinator. Must not import torch.
"""

import json
from collections.abc import Mapping

from flwr.supercore.inflatable.inflatable_object import get_object_head_values_from_object_content
from flwr.supercore.inflatable.inflatable_utils import validate_object_content

from common.errors import MessageError


def check_arrays(objects: Mapping[str, bytes], *, most_bytes: int) -> None:
    """Nothing, if the arrays among `objects` are no larger than the limit once put together.

    An array names its pieces by number: a megabyte of numbers can name one piece a million times,
    and Flower would put all of them into memory.

    Raises:
        MessageError: they are larger, or are no objects of Flower's.
    """
    size = 0
    for content in objects.values():
        try:
            validate_object_content(content)
            kind, children, body_size = get_object_head_values_from_object_content(content)
            if kind == "Array":
                pieces = json.loads(content[len(content) - body_size :])["arraychunk_ids"]
                size += sum(len(objects[children[number]]) for number in pieces)
        except Exception as fault:  # Flower's formats: many classes
            raise MessageError(
                f"Expected objects of Flower, found what fails with {type(fault).__name__}."
            ) from fault
        if size > most_bytes:
            raise MessageError(f"Expected arrays of at most {most_bytes} bytes, found more.")
