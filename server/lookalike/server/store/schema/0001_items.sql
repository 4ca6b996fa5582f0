-- The truth of a data folder. Times are microseconds since the epoch, UTC.
-- Vectors and pictures lie in tables of their own, so that a filter that reads
-- all metadata does not drag them through the cache.

CREATE TABLE meta (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    uuid TEXT NOT NULL,
    create_us INTEGER NOT NULL,
    -- Number of the last commit that changed collections or items.
    seq INTEGER NOT NULL,
    -- Keys are taken from here, so that none is ever used twice.
    next_key INTEGER NOT NULL,
    crc INTEGER NOT NULL
) STRICT;

CREATE TABLE collections (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    config TEXT NOT NULL,
    space TEXT NOT NULL,
    create_us INTEGER NOT NULL,
    crc INTEGER NOT NULL
) STRICT;

CREATE TABLE items (
    -- Never used twice; belongs to one vector for ever.
    key INTEGER PRIMARY KEY,
    -- The key that the item was made with; its pictures lie under it, so that a
    -- new vector does not move them.
    first_key INTEGER NOT NULL,
    collection INTEGER NOT NULL REFERENCES collections (number) ON DELETE CASCADE,
    id TEXT NOT NULL,
    seq INTEGER NOT NULL,
    metadata TEXT NOT NULL,
    digest BLOB NOT NULL,
    -- The picture; all null for an item without one.
    width INTEGER,
    height INTEGER,
    media_type TEXT,
    size_bytes INTEGER,
    sha256 BLOB,
    -- 1: a thumbnail is kept, 2: the original is.
    kept INTEGER,
    create_us INTEGER NOT NULL,
    update_us INTEGER NOT NULL,
    -- CRC-32 over all of the above.
    crc INTEGER NOT NULL,
    UNIQUE (collection, id)
) STRICT;

-- Ends with the key, as every index does: covers "all keys of a collection".
CREATE INDEX items_by_collection ON items (collection);

CREATE TABLE vectors (
    key INTEGER PRIMARY KEY,
    -- Little-endian float32.
    vector BLOB NOT NULL,
    -- CRC-32 over the vector, started from the key.
    crc INTEGER NOT NULL
) STRICT;

CREATE TABLE thumbnails (
    first_key INTEGER PRIMARY KEY,
    media_type TEXT NOT NULL,
    -- CRC-32 over key, media type and data.
    crc INTEGER NOT NULL,
    data BLOB NOT NULL
) STRICT;

CREATE TABLE originals (
    first_key INTEGER PRIMARY KEY,
    media_type TEXT NOT NULL,
    crc INTEGER NOT NULL,
    data BLOB NOT NULL
) STRICT;

CREATE TRIGGER items_leave_nothing AFTER DELETE ON items BEGIN
    DELETE FROM vectors WHERE key = old.key;
    DELETE FROM thumbnails WHERE first_key = old.first_key;
    DELETE FROM originals WHERE first_key = old.first_key;
END;

CREATE TABLE jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    collection TEXT NOT NULL,
    state TEXT NOT NULL,
    done_count INTEGER NOT NULL,
    total_count INTEGER NOT NULL,
    phase TEXT NOT NULL,
    error_code TEXT NOT NULL,
    error_message TEXT NOT NULL,
    create_time REAL NOT NULL,
    start_time REAL NOT NULL,
    end_time REAL NOT NULL
) STRICT;
