"""What lasts: the event log and its read models, blobs, and the rows that pull requests come from."""

from store.blobs import BlobStore
from store.log import Append, Appended, EventLog, NewEvent, RecordedEvent, StreamInfo
from store.opening import Store, open_store
from store.read_models import AttemptRow, AttemptState, CachedContext, ErrorRow, ReadModels

__all__ = [
    "Append",
    "Appended",
    "AttemptRow",
    "AttemptState",
    "BlobStore",
    "CachedContext",
    "ErrorRow",
    "EventLog",
    "NewEvent",
    "ReadModels",
    "RecordedEvent",
    "Store",
    "StreamInfo",
    "open_store",
]
