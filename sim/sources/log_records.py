"""The records of a log, bare or as CloudWatch gives them.

Each of these holds the same records:

- one a line, or one after another;
- with a time before each, as an export to S3 and `aws logs tail` write them;
- `{"events": [{"message": "…"}]}`, as `aws logs filter-log-events` and `get-log-events` print;
- `{"results": [[{"field": "@message", "value": "…"}]]}`, as `aws logs get-query-results` prints;
- `{"logEvents": [{"message": "…"}]}`, as subscriptions deliver;
- a JSON list of messages, as `--query 'events[].message'` gives;
- `{"items": […]}`, as Kubernetes writes lists.
"""

from __future__ import annotations

import json
import re

from sim.sources import fields
from sim.sources.json_text import Json, Layout
from sim.sources.pods import TraceError

LAYOUT = Layout(
    lists=("events", "results", "logEvents", "items"),
    # 2026-01-31T12:00:00.000Z, and the name of the stream if there is one.
    prefix=re.compile(
        r"\d{4}-\d\d-\d\d[T ][\d:.,]+(?:Z|[+-]\d\d:?\d\d)?[ \t]+(?:[^\s{\[\"]+[ \t]+)?"
    ),
)


def message_of(record: Json) -> Json:
    """Return the record inside its wrapping; TraceError where there is none."""
    found = record
    if isinstance(record, list):
        found = _insights_message(record)
    elif isinstance(record, dict) and "message" in record and "kind" not in record:
        found = fields.text(record, "message")
    if isinstance(found, str):
        found = _decoded(found)
    if not isinstance(found, dict):
        fields.refuse((), found, "not a record", "a JSON object")
    return found


def _insights_message(row: list[Json]) -> str:
    """Return the message in a row of CloudWatch Logs Insights."""
    for one in row:
        if fields.text(one, "field") == "@message":
            return fields.text(one, "value")
    reason = "no @message in the row"
    raise TraceError(reason, field="results", allowed="a query with: fields @message")


def _decoded(message: str) -> Json:
    try:
        return json.loads(message)
    except (ValueError, RecursionError):
        allowed = "a whole JSON record as message; export one stream or type alone"
        fields.refuse(("message",), message, "not JSON", allowed)
