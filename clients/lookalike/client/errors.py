"""Everything that a call can raise, as classes by the server's reason.

    LookalikeError
    ├── InvalidArgument      the request can never work
    ├── NotFound             a name is absent
    ├── AlreadyExists        a name is taken
    ├── FailedPrecondition   right request, wrong state
    ├── ResourceExhausted    full now; try again later
    ├── Unavailable          not ready, going down, or not reached at all
    ├── DeadlineExceeded     time ran out
    ├── Cancelled            the caller or an operator stopped it
    ├── PermissionDenied / Unauthenticated
    ├── DataLoss             the store is damaged
    └── Internal             a defect of the server

A reason that this client does not know becomes the class of its gRPC status code,
so that a newer server does not break it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar


class LookalikeError(Exception):
    """Base of all errors. `metadata` holds the values in the message, for programs."""

    reason_name: ClassVar[str] = "UNSPECIFIED"

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        field: str = "",
        retry_after_s: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.reason_name
        """The server's reason, also where this client has no class for it."""
        self.field = field
        """The offending field of the request, "items[3].vector"; empty if none."""
        self.retry_after_s = retry_after_s
        """When the server suggests to try again, in seconds; None if it did not say."""
        self.metadata = dict(metadata or {})


class InvalidArgument(LookalikeError):
    reason_name = "ARGUMENT_INVALID"


class QueryMissing(InvalidArgument):
    reason_name = "QUERY_MISSING"


class InputsEmpty(InvalidArgument):
    reason_name = "INPUTS_EMPTY"


class IdMissing(InvalidArgument):
    reason_name = "ID_MISSING"


class IdInvalid(InvalidArgument):
    reason_name = "ID_INVALID"


class DimensionMismatch(InvalidArgument):
    reason_name = "DIMENSION_MISMATCH"


class VectorNotFinite(InvalidArgument):
    reason_name = "VECTOR_NOT_FINITE"


class VectorZero(InvalidArgument):
    reason_name = "VECTOR_ZERO"


class FilterInvalid(InvalidArgument):
    reason_name = "FILTER_INVALID"


class IndexSpecInvalid(InvalidArgument):
    reason_name = "INDEX_SPEC_INVALID"


class BackendUnknown(InvalidArgument):
    reason_name = "BACKEND_UNKNOWN"


class ImageUndecodable(InvalidArgument):
    reason_name = "IMAGE_UNDECODABLE"


class ImageFormatUnsupported(InvalidArgument):
    reason_name = "IMAGE_FORMAT_UNSUPPORTED"


class ImageTooLarge(InvalidArgument):
    reason_name = "IMAGE_TOO_LARGE"


class ImageTooCostly(InvalidArgument):
    reason_name = "IMAGE_TOO_COSTLY"


class ChecksumMismatch(InvalidArgument):
    reason_name = "CHECKSUM_MISMATCH"


class ChunkOutOfOrder(InvalidArgument):
    reason_name = "CHUNK_OUT_OF_ORDER"


class SeqNotIncreasing(InvalidArgument):
    reason_name = "SEQ_NOT_INCREASING"


class UploadNotStarted(InvalidArgument):
    reason_name = "UPLOAD_NOT_STARTED"


class MetadataTooLarge(InvalidArgument):
    reason_name = "METADATA_TOO_LARGE"


class BatchTooLarge(InvalidArgument):
    reason_name = "BATCH_TOO_LARGE"


class PageTokenInvalid(InvalidArgument):
    reason_name = "PAGE_TOKEN_INVALID"


class FileUnreadable(InvalidArgument):
    """A file could not be read on this machine; nothing of it was sent."""

    reason_name = "FILE_UNREADABLE"


class FileExists(InvalidArgument):
    """A file is there already, and nothing is overwritten; nothing was written."""

    reason_name = "FILE_EXISTS"


class ArchiveInvalid(InvalidArgument):
    """A file is no export, or damaged, cut short, or made to do harm."""

    reason_name = "ARCHIVE_INVALID"


class PillowMissing(LookalikeError, ImportError):
    """A picture in memory can be sent only with Pillow, which is not installed."""

    reason_name = "PILLOW_MISSING"


class NotFound(LookalikeError):
    reason_name = "NOT_FOUND"


class CollectionNotFound(NotFound):
    reason_name = "COLLECTION_NOT_FOUND"


class ItemNotFound(NotFound):
    reason_name = "ITEM_NOT_FOUND"


class ModelNotFound(NotFound):
    reason_name = "MODEL_NOT_FOUND"


class JobNotFound(NotFound):
    reason_name = "JOB_NOT_FOUND"


class ImageNotRetained(NotFound):
    reason_name = "IMAGE_NOT_RETAINED"


class AlreadyExists(LookalikeError):
    reason_name = "ALREADY_EXISTS"


class CollectionExists(AlreadyExists):
    reason_name = "COLLECTION_EXISTS"


class ItemExists(AlreadyExists):
    reason_name = "ITEM_EXISTS"


class FailedPrecondition(LookalikeError):
    reason_name = "FAILED_PRECONDITION"


class ModelMismatch(FailedPrecondition):
    reason_name = "MODEL_MISMATCH"


class ModelLacksModality(FailedPrecondition):
    reason_name = "MODEL_LACKS_MODALITY"


class ModelInvalid(FailedPrecondition):
    reason_name = "MODEL_INVALID"


class ResourceExhausted(LookalikeError):
    reason_name = "RESOURCE_EXHAUSTED"


class TooManyUploads(ResourceExhausted):
    reason_name = "TOO_MANY_UPLOADS"


class Overloaded(ResourceExhausted):
    reason_name = "OVERLOADED"


class DiskFull(ResourceExhausted):
    reason_name = "DISK_FULL"


class Unavailable(LookalikeError):
    reason_name = "UNAVAILABLE"


class CollectionLoading(Unavailable):
    reason_name = "COLLECTION_LOADING"


class Draining(Unavailable):
    reason_name = "DRAINING"


class BackendUnavailable(Unavailable):
    reason_name = "BACKEND_UNAVAILABLE"


class ServerUnavailable(Unavailable):
    """No server answers at the address, or the connection to it broke."""

    reason_name = "SERVER_UNAVAILABLE"


class DeadlineExceeded(LookalikeError):
    reason_name = "EXPIRED"


class Cancelled(LookalikeError):
    reason_name = "CANCELLED"


class PermissionDenied(LookalikeError):
    reason_name = "PERMISSION_DENIED"


class ReadOnly(PermissionDenied):
    reason_name = "READ_ONLY"


class ScopeMissing(PermissionDenied):
    reason_name = "SCOPE_MISSING"


class CollectionNotAllowed(PermissionDenied):
    reason_name = "COLLECTION_NOT_ALLOWED"


class Unauthenticated(LookalikeError):
    reason_name = "TOKEN_INVALID"


class KeyMissing(Unauthenticated):
    reason_name = "KEY_MISSING"


class KeyInvalid(Unauthenticated):
    reason_name = "KEY_INVALID"


class KeyExpired(Unauthenticated):
    reason_name = "KEY_EXPIRED"


class DataLoss(LookalikeError):
    reason_name = "STORE_DAMAGED"


class Internal(LookalikeError):
    reason_name = "INTERNAL"


_BY_CODE: Mapping[int, type[LookalikeError]] = {
    1: Cancelled,
    2: Internal,
    3: InvalidArgument,
    4: DeadlineExceeded,
    5: NotFound,
    6: AlreadyExists,
    7: PermissionDenied,
    8: ResourceExhausted,
    9: FailedPrecondition,
    10: Unavailable,
    11: InvalidArgument,
    12: FailedPrecondition,
    13: Internal,
    14: Unavailable,
    15: DataLoss,
    16: Unauthenticated,
}
"""google.rpc.Code -> class, for reasons that this client does not know."""


def _classes(base: type[LookalikeError]) -> Iterator[type[LookalikeError]]:
    for cls in base.__subclasses__():
        if cls.__module__ == __name__:
            yield cls
            yield from _classes(cls)


def error_class(reason: str, code: int) -> type[LookalikeError]:
    """Return the class of a reason, or of the google.rpc.Code if the reason is not known."""
    for cls in _classes(LookalikeError):
        if cls.reason_name == reason:
            return cls
    return _BY_CODE.get(code, LookalikeError)


def make_error(
    code: int,
    reason: str,
    message: str,
    *,
    field: str = "",
    retry_after_s: float | None = None,
    metadata: Mapping[str, str] | None = None,
) -> LookalikeError:
    """Make the error of a reason; `code` is the google.rpc.Code to fall back on."""
    cls = error_class(reason, code)
    text = message or f"The server gave no explanation (status {code})."
    return cls(text, reason=reason, field=field, retry_after_s=retry_after_s, metadata=metadata)
