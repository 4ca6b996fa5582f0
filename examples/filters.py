"""Every kind of condition, on a few items: python filters.py

The server is the one that LOOKALIKE_ADDRESS names, or that of this machine.
"""

import os
from typing import Any

from lookalike.client import Client, F, NewItem

ADDRESS = os.environ.get("LOOKALIKE_ADDRESS", "localhost:50051")
SHOES: dict[str, dict[str, Any]] = {
    "sneaker": {"brand": "acme", "price": 80, "tags": ["red", "sport"], "size": {"eu": 42}},
    "boot": {"brand": "acme", "price": 140, "tags": ["black"], "size": {"eu": 44}},
    "sandal": {"brand": "zed", "price": 35, "tags": ["red"]},
    "clog": {"price": 60},
}
CONDITIONS: list[Any] = [
    F.price < 100,
    (F.brand == "acme") & (F.price < 100),
    (F.brand == "zed") | (F.price > 100),
    ~(F.brand == "acme"),  # what has no brand passes too
    F.brand.in_(["acme", "zed"]),
    F.brand.exists(False),
    F.tags.contains("red"),
    F["size.eu"] >= 43,
    F["@id"].startswith("s"),
    "price < 100 and not (tags contains 'sport')",  # the same as a text
]


def main() -> None:
    with Client(ADDRESS) as client:
        client.create_collection("shoes", model="none", dimension=2, exist_ok=True)
        client.upsert(
            [
                NewItem(id=name, vector=[1, i], metadata=m)
                for i, (name, m) in enumerate(SHOES.items())
            ],
            collection="shoes",
        )
        for where in CONDITIONS:
            result = client.search(vector=[1, 0], where=where, collection="shoes")
            print(f"{where!s:50}  {', '.join(result.ids)}")


if __name__ == "__main__":
    main()
