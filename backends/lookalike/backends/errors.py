"""Everything that can go wrong, as classes with a stable reason.

    LookalikeError
    ├── InvalidArgument      the request can never work
    ├── NotFound             a name is absent
    ├── AlreadyExists        a name is taken
    ├── FailedPrecondition   right request, wrong state
    ├── ResourceExhausted    full now; try again later
    ├── Unavailable          not ready, draining, an engine is away
    ├── DeadlineExceeded     time ran out in a queue
    ├── Cancelled            the caller or an operator stopped it
    ├── PermissionDenied / Unauthenticated
    ├── DataLoss             the store is damaged
    └── Internal             our bug

A message says what happened and what to do next, without paths and secrets: it
reaches clients as it is. `reason` is a member of `lookalike.v1.ErrorReason`
without its prefix; a test compares the two lists.
"""

from __future__ import annotations

from typing import ClassVar


class LookalikeError(Exception):
    """Base of all errors; `metadata` holds the values in the message, for programs."""

    reason: ClassVar[str] = "INTERNAL"

    def __init__(
        self,
        message: str,
        *,
        field: str = "",
        retry_after_s: float | None = None,
        **metadata: object,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        """The offending field of the request: "items[3].vector"; empty if none."""
        self.retry_after_s = retry_after_s
        self.metadata = {key: str(value) for key, value in metadata.items()}


class InvalidArgument(LookalikeError):
    reason = "ARGUMENT_INVALID"


class QueryMissing(InvalidArgument):
    reason = "QUERY_MISSING"


class InputsEmpty(InvalidArgument):
    reason = "INPUTS_EMPTY"


class IdMissing(InvalidArgument):
    reason = "ID_MISSING"


class IdInvalid(InvalidArgument):
    reason = "ID_INVALID"


class DimensionMismatch(InvalidArgument):
    reason = "DIMENSION_MISMATCH"


class VectorNotFinite(InvalidArgument):
    reason = "VECTOR_NOT_FINITE"


class VectorZero(InvalidArgument):
    reason = "VECTOR_ZERO"


class FilterInvalid(InvalidArgument):
    reason = "FILTER_INVALID"


class IndexSpecInvalid(InvalidArgument):
    reason = "INDEX_SPEC_INVALID"


class UnknownBackend(InvalidArgument):
    """No index, engine or embedder of this name; the message lists the known ones."""

    reason = "BACKEND_UNKNOWN"


class ImageUndecodable(InvalidArgument):
    reason = "IMAGE_UNDECODABLE"


class ImageFormatUnsupported(InvalidArgument):
    reason = "IMAGE_FORMAT_UNSUPPORTED"


class ImageTooLarge(InvalidArgument):
    reason = "IMAGE_TOO_LARGE"


class ImageTooCostly(InvalidArgument):
    """Decoding takes more time or memory than one picture may."""

    reason = "IMAGE_TOO_COSTLY"


class ChecksumMismatch(InvalidArgument):
    reason = "CHECKSUM_MISMATCH"


class ChunkOutOfOrder(InvalidArgument):
    reason = "CHUNK_OUT_OF_ORDER"


class SeqNotIncreasing(InvalidArgument):
    reason = "SEQ_NOT_INCREASING"


class UploadNotStarted(InvalidArgument):
    reason = "UPLOAD_NOT_STARTED"


class MetadataTooLarge(InvalidArgument):
    reason = "METADATA_TOO_LARGE"


class BatchTooLarge(InvalidArgument):
    reason = "BATCH_TOO_LARGE"


class PageTokenInvalid(InvalidArgument):
    reason = "PAGE_TOKEN_INVALID"


class NotFound(LookalikeError):
    reason = "NOT_FOUND"


class CollectionNotFound(NotFound):
    reason = "COLLECTION_NOT_FOUND"


class ItemNotFound(NotFound):
    reason = "ITEM_NOT_FOUND"


class ModelNotFound(NotFound):
    reason = "MODEL_NOT_FOUND"


class JobNotFound(NotFound):
    reason = "JOB_NOT_FOUND"


class ImageNotRetained(NotFound):
    reason = "IMAGE_NOT_RETAINED"


class AlreadyExists(LookalikeError):
    reason = "ALREADY_EXISTS"


class CollectionExists(AlreadyExists):
    reason = "COLLECTION_EXISTS"


class ItemExists(AlreadyExists):
    reason = "ITEM_EXISTS"


class FailedPrecondition(LookalikeError):
    reason = "FAILED_PRECONDITION"


class ModelMismatch(FailedPrecondition):
    """The collection's vectors were made with another model, or other settings of it."""

    reason = "MODEL_MISMATCH"


class ModelLacksModality(FailedPrecondition):
    """The model cannot embed this kind of input (text, pictures)."""

    reason = "MODEL_LACKS_MODALITY"


class ModelInvalid(FailedPrecondition):
    """A checkpoint is incomplete, damaged or of an unknown kind; the message names the part."""

    reason = "MODEL_INVALID"


class ResourceExhausted(LookalikeError):
    reason = "RESOURCE_EXHAUSTED"


class TooManyUploads(ResourceExhausted):
    reason = "TOO_MANY_UPLOADS"


class Overloaded(ResourceExhausted):
    reason = "OVERLOADED"


class DiskFull(ResourceExhausted):
    reason = "DISK_FULL"


class Unavailable(LookalikeError):
    reason = "UNAVAILABLE"


class CollectionLoading(Unavailable):
    reason = "COLLECTION_LOADING"


class Draining(Unavailable):
    reason = "DRAINING"


class BackendUnavailable(Unavailable):
    """A backend is known but its library is not installed; the message names the extra."""

    reason = "BACKEND_UNAVAILABLE"


class DeadlineExceeded(LookalikeError):
    reason = "EXPIRED"


class Cancelled(LookalikeError):
    reason = "CANCELLED"


class PermissionDenied(LookalikeError):
    reason = "PERMISSION_DENIED"


class ReadOnly(PermissionDenied):
    reason = "READ_ONLY"


class ScopeMissing(PermissionDenied):
    reason = "SCOPE_MISSING"


class CollectionNotAllowed(PermissionDenied):
    reason = "COLLECTION_NOT_ALLOWED"


class Unauthenticated(LookalikeError):
    reason = "TOKEN_INVALID"


class KeyMissing(Unauthenticated):
    reason = "KEY_MISSING"


class KeyInvalid(Unauthenticated):
    reason = "KEY_INVALID"


class KeyExpired(Unauthenticated):
    reason = "KEY_EXPIRED"


class DataLoss(LookalikeError):
    """The store itself is damaged. (A bad derived file is rebuilt, never an error.)"""

    reason = "STORE_DAMAGED"


class Internal(LookalikeError):
    reason = "INTERNAL"
