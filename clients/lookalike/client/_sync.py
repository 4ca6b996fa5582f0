"""The client: one method for each call of the API, one line each where it can be."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import grpc

from lookalike.client import _backup as backups
from lookalike.client import _calls as calls
from lookalike.client import _collection_calls as collection_calls
from lookalike.client import _export as exports
from lookalike.client import _import as imports
from lookalike.client import _results as results
from lookalike.client import _verify as verifying
from lookalike.client import _wire as wire
from lookalike.client._calls import Condition, Exif, Mode, NewItem, View
from lookalike.client._files import Upload
from lookalike.client._pictures import Picture
from lookalike.client._searching import Searching
from lookalike.client._status import error_of_call
from lookalike.client._upload import Uploader
from lookalike.client.errors import (
    CollectionNotFound,
    LookalikeError,
    ServerUnavailable,
    Unavailable,
)
from lookalike.v1 import admin_service_pb2

SEARCH_SERVICE = "lookalike.v1.SearchService"
"""The health service that is SERVING once models and indexes are loaded."""


class Client(Searching):
    """A lookalike server at an address, "localhost:50051".

    Any thread may use it, and one is enough for all of them. The connection is opened
    by the first call. Calls that may be repeated are, when the server cannot be reached
    for a moment. Every method raises LookalikeError: `ServerUnavailable` if there is no
    server, and the class of the server's reason otherwise. `timeout_s` holds for each
    call alone; uploads, finding duplicates and watching a job have no limit.

    An empty `collection` is the one named "default".
    """

    # ------------------------------------------------------------- embed

    def embed(
        self,
        *,
        images: Sequence[Picture] | None = None,
        texts: Sequence[str] | None = None,
        model: str = "",
        normalize: bool = True,
        strict: bool = True,
    ) -> results.Embeddings:
        """Turn pictures, then texts, into vectors; nothing is stored.

        With `strict` the first input that cannot be embedded raises its error; without,
        its row is NaN and its error is in `errors`.
        """
        answers = [self._call(c) for c in calls.embed(images, texts, model, normalize)]
        return calls.embeddings(answers, strict)

    def models(self) -> tuple[results.Model, ...]:
        """List the server's models, the default one first."""
        return wire.models(list(self._pages(calls.models, "models")))

    # ------------------------------------------------------------- writes

    def upload(
        self,
        source: str | os.PathLike[str] | Iterable[Any],
        *,
        collection: str = "",
        metadata: Callable[[Any], Mapping[str, Any] | None] | None = None,
        mode: Mode = "upsert",
        exif: Exif = "none",
        all_files: bool = False,
        id_prefix: str = "",
        attach_path: bool = False,
        progress: Callable[[results.UploadProgress], None] | None = None,
        on_result: Callable[[results.WriteResult], None] | None = None,
        patience_s: float = 60.0,
    ) -> results.UploadReport:
        """Store any number of items over one stream, and go on where it breaks.

        `source`: a folder (pictures in it and below, by suffix unless `all_files`), a
        file, or an iterable of paths, bytes and `NewItem`s. An id is the path relative
        to its folder, with "/", or the path as written for a file that is named itself;
        bytes get one from their content. `metadata` is called with the Path or the
        element and gives what to attach; `attach_path` adds `name` and `folder` of a file,
        as its id has them, where nothing else gives these; `exif` adds what the camera
        wrote, under "exif": "basic" is time, camera and size, "with_position" the place
        too. `progress` and `on_result` are called on this thread. What fails alone is in
        the report; what was stored before and is the same still is counted as unchanged
        and costs nearly nothing, so running an upload again finishes it. If the connection
        breaks, items without an answer are sent again for `patience_s` since the last sign
        of life.
        """
        items = Upload(source, all_files, id_prefix, metadata, attach_path)
        uploader = Uploader(
            self._connection,
            collection=collection,
            mode=calls.mode_value(mode),
            exif=calls.exif_value(exif),
            progress=progress,
            on_result=on_result,
            patience_s=patience_s,
        )
        return uploader.run(iter(items))

    def upsert(
        self,
        items: Iterable[NewItem],
        *,
        collection: str = "",
        mode: Mode = "upsert",
        exif: Exif = "none",
    ) -> tuple[results.WriteResult, ...]:
        """Store some items, one answer each, in order; for many, `upload` is faster."""
        answers = map(self._call, calls.upsert(tuple(items), collection, mode, exif))
        return tuple(result for answer in answers for result in answer)

    def update_metadata(
        self,
        item_id: str,
        metadata: Mapping[str, Any],
        *,
        replace: bool = False,
        collection: str = "",
    ) -> results.Item:
        """Merge into an item's metadata (RFC 7396: None deletes a key), or replace it."""
        return self._call(calls.update_metadata(item_id, metadata, replace, collection))

    def delete(
        self,
        ids: Sequence[str] | None = None,
        *,
        where: Condition = None,
        dry_run: bool = False,
        collection: str = "",
    ) -> int:
        """Delete items by id or by condition; return how many there were."""
        return sum(map(self._call, calls.delete(ids, where, dry_run, collection)))

    # -------------------------------------------------------------- items

    def get(self, item_id: str, *, view: View = "basic", collection: str = "") -> results.Item:
        """Return one item; ItemNotFound if there is none."""
        return self._call(calls.get(item_id, view, collection))

    def list(
        self,
        *,
        where: Condition = None,
        view: View = "basic",
        page_size: int = 0,
        collection: str = "",
    ) -> Iterator[results.Item]:
        """Iterate over items by id, fetching pages as they are needed."""
        pages = self._pages(
            lambda token: calls.list_page(where, view, page_size, token, collection), "items"
        )
        return map(wire.item, pages)

    def count(self, *, where: Condition = None, collection: str = "") -> int:
        """Count items."""
        return self._call(calls.count(where, collection))

    def image(
        self, item_id: str, *, original: bool = False, collection: str = ""
    ) -> results.ItemImage:
        """Return an item's thumbnail, or the file as it was sent."""
        call = calls.image(item_id, original, collection)
        return calls.joined_image(self._stream(call, self.timeout_s))

    # -------------------------------------------------------- collections

    def create_collection(
        self,
        name: str,
        *,
        description: str = "",
        model: str = "",
        metric: str = "",
        index: results.IndexSpec | str | None = None,
        dimension: int = 0,
        image_retention: str = "",
        indexed_fields: Sequence[str] = (),
        exist_ok: bool = False,
    ) -> results.Collection:
        """Make an empty collection.

        `metric`: cosine, dot or l2. `index`: a kind, or a backend's name. `dimension`:
        only with the model "none". `image_retention`: none, thumbnail or original.
        `indexed_fields`: metadata fields to filter by fast, at most 16.
        """
        call = collection_calls.create(
            name,
            description=description,
            model=model,
            metric=metric,
            index=index,
            dimension=dimension,
            image_retention=image_retention,
            indexed_fields=indexed_fields,
            exist_ok=exist_ok,
        )
        return self._call(call)

    def collections(self) -> tuple[results.Collection, ...]:
        """List the collections by name."""
        return tuple(map(wire.collection, self._pages(collection_calls.list_page, "collections")))

    def collection(self, name: str = "") -> results.Collection:
        """Describe one collection."""
        return self._call(collection_calls.get(name))

    def delete_collection(self, name: str, *, missing_ok: bool = False) -> int:
        """Delete a collection; return how many items went with it."""
        return self._call(collection_calls.delete(name, missing_ok))

    # ------------------------------------------------------ index and jobs

    def rebuild_index(
        self,
        collection: str = "",
        *,
        index: results.IndexSpec | str | None = None,
        reembed: bool = False,
    ) -> results.Job:
        """Start building the index anew, if wanted of another kind; return the job."""
        return self._call(collection_calls.rebuild(collection, index, reembed))

    def job(self, job_id: str) -> results.Job:
        """Say how a job is doing."""
        return self._call(collection_calls.job(job_id))

    def jobs(self, collection: str = "") -> tuple[results.Job, ...]:
        """List the jobs, the newest first; of all collections if none is named."""
        pages = self._pages(lambda token: collection_calls.jobs_page(collection, token), "jobs")
        return tuple(map(wire.job, pages))

    def watch_job(self, job_id: str) -> Iterator[results.Job]:
        """Iterate over a job's states, now and on every change, until it ends."""
        call = collection_calls.watch(job_id)
        return map(call.parse, self._stream(call, None))

    def cancel_job(self, job_id: str) -> results.Job:
        """Ask a job to stop."""
        return self._call(collection_calls.cancel(job_id))

    # ------------------------------------------- backup, export and import

    def backup(
        self,
        target: backups.Target,
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> backups.BackupReport:
        """Save a copy of the whole store, as it is now, to a new file.

        `progress` is called with the bytes that are done and that there are. What the
        server had acknowledged before is in it.
        """
        request = admin_service_pb2.BackupRequest()
        call: calls.Call[Any] = calls.Call("AdminService", "Backup", request, lambda answer: answer)
        return backups.save(target, self._stream(call, None), progress)

    def verify(
        self,
        collection: str = "",
        *,
        probe_count: int | None = None,
        progress: Callable[[verifying.VerifyProgress], None] | None = None,
        on_finding: Callable[[verifying.VerifyFinding], None] | None = None,
    ) -> verifying.Verification:
        """Compare what is stored with its checksums, and the indexes with what is stored.

        Of one collection, or of all. `probe_count` items of each, 1000 if not said and -1
        for all, are searched for by their own vectors. True if nothing was found.
        """
        request = verifying.request(collection, probe_count)
        call: calls.Call[Any] = calls.Call("AdminService", "Verify", request, lambda answer: answer)
        return verifying.read(self._stream(call, None), progress, on_finding)

    def export(
        self,
        target: backups.Target,
        *,
        collection: str = "",
        where: Condition = None,
        images: bool = True,
        progress: Callable[[int, int], None] | None = None,
    ) -> exports.ExportReport:
        """Save a collection, or the items of it that pass, as an archive to a new file.

        With vectors, metadata and, if `images`, the pictures that the server keeps, all as
        it is now. `progress` is called with the items that are done and that there are.
        """
        call = exports.request(collection, where, images)
        shown = "" if where is None else str(where)
        return exports.save(target, self._stream(call, None), shown, images, progress)

    def import_archive(
        self,
        source: str | os.PathLike[str] | BinaryIO,
        *,
        collection: str = "",
        index: results.IndexSpec | str | None = None,
        reembed: bool = False,
        progress: Callable[[results.UploadProgress], None] | None = None,
        on_result: Callable[[results.WriteResult], None] | None = None,
    ) -> results.UploadReport:
        """Store the items of an archive with their own vectors; running it again is cheap.

        `collection`: the archive's own name if empty. One that is not there is made with
        the archive's settings, and with `index` instead of its kind of index. Vectors must
        be of the same model, or ModelMismatch is raised; with `reembed`, the originals in
        the archive are embedded anew. A file is checked whole before anything is stored.
        """
        with imports.opened(source) as file:
            archive = imports.Archive(file)
            target = self._target_of(archive.collection, collection, index, reembed)
            return self.upload(
                archive.items(reembed=reembed),
                collection=target,
                progress=progress,
                on_result=on_result,
            )

    def _target_of(
        self,
        archived: imports.ArchivedCollection,
        name: str,
        index: results.IndexSpec | str | None,
        reembed: bool,
    ) -> str:
        """Return the collection to import into, made if it is not there."""
        name = name or archived.name
        try:
            found, is_new = self.collection(name), False
        except CollectionNotFound:
            found = self.create_collection(
                name,
                description=archived.description,
                model=archived.model,
                metric=archived.metric,
                index=index if index is not None else archived.index,
                dimension=0 if archived.model_fingerprint else archived.dimension,
                image_retention=archived.image_retention,
                indexed_fields=archived.indexed_fields,
            )
            is_new = True
        try:
            if not reembed:
                imports.check_space(archived, found)
        except LookalikeError:
            if is_new:
                self.delete_collection(name)
            raise
        return name

    # ----------------------------------------------------------- the server

    def info(self) -> results.ServerInfo:
        """Say what the server is: version, limits, backends."""
        return self._call(calls.info())

    def health(self, service: str = SEARCH_SERVICE) -> results.Health:
        """Ask the standard health service; "" asks only whether the process lives."""
        try:
            return self._connection.health(service, self.timeout_s)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.NOT_FOUND:
                return results.Health.UNKNOWN
            raise error_of_call(error, self.address) from None

    def wait_ready(self, timeout_s: float = 60.0) -> None:
        """Wait until the server has loaded everything; ServerUnavailable if it takes longer."""
        deadline, pause_s = time.monotonic() + timeout_s, 0.05
        while True:
            try:
                if self.health() is results.Health.SERVING:
                    return
                state = "is not ready"
            except Unavailable:
                state = "does not answer"
            if time.monotonic() + pause_s > deadline:
                raise ServerUnavailable(
                    f"The server at {self.address} {state} after {timeout_s:g} s; "
                    "look at its log, or start one with: lookalike serve"
                )
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 1.0)
