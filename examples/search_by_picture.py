"""Find what looks like a picture: python search_by_picture.py PICTURE [COLLECTION]

Writes the thumbnails of the hits to ./hits/. The server is the one that
LOOKALIKE_ADDRESS names, or that of this machine.
"""

import os
import sys
from pathlib import Path

from lookalike.client import Client

ADDRESS = os.environ.get("LOOKALIKE_ADDRESS", "localhost:50051")


def main(picture: str, collection: str = "") -> None:
    folder = Path("hits")
    folder.mkdir(exist_ok=True)
    with Client(ADDRESS) as client:
        result = client.search(image=picture, k=5, collection=collection)
        for place, hit in enumerate(result, 1):
            print(f"{hit.score:.3f}  {hit.id}")
            if hit.image is not None and hit.image.has_thumbnail:
                thumbnail = client.image(hit.id, collection=collection)
                (folder / f"{place}.jpg").write_bytes(thumbnail.data)
    how = "all items" if result.info.exact else "the index"
    print(f"compared with {how} in {result.info.total_ms:.1f} ms")


if __name__ == "__main__":
    main(*sys.argv[1:])
