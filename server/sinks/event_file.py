"""The bytes of a TensorBoard event file, by TensorBoard's own writer; TensorFlow is not needed."""

import io

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.summary.writer.record_writer import RecordWriter

from server.sinks.points import Point, Told


def content_of(told: Told) -> bytes:
    """The event file of a run: its settings as a text, and every point as a scalar."""
    file = io.BytesIO()
    writer = RecordWriter(file)
    started_s = told.started_at / 1000
    events = [
        Event(wall_time=started_s, file_version="brain.Event:2"),
        Event(wall_time=started_s, summary=Summary(value=[_settings(told)])),
        *map(_scalar, told.points),
    ]
    for event in events:
        writer.write(event.SerializeToString())
    return file.getvalue()


def _scalar(point: Point) -> Event:
    value = Summary.Value(tag=point.name, simple_value=point.value)
    return Event(wall_time=point.at / 1000, step=point.step, summary=Summary(value=[value]))


def _settings(told: Told) -> Summary.Value:
    """The settings as a text, which TensorBoard shows as a table."""
    rows = [f"| {name} | {value} |" for name, value in told.settings.items()]
    text = "\n".join(["| setting | value |", "|---|---|", *rows])
    return Summary.Value(
        tag="settings",
        tensor=TensorProto(dtype=DT_STRING, string_val=[text.encode(errors="replace")]),
        metadata=SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text")),
    )
