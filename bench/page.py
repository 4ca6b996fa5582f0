"""How soon the page shows something: from the drop of a picture to the first hit in sight.

    python bench/page.py --photos DIR [--drops 10] [--json FILE] [--check]

Stores the pictures on a server of its own, opens the page in Debian's chromium, drops
pictures one after the other and reads the page's own marks: `lookalike-drop` when the
file arrives, `lookalike-first-result` when the first hit's thumbnail has loaded. Also
counts the bytes of the page. Needs pip install playwright, and chromium.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from lookalike.client import Client
from lookalike.client.local_server import LocalServer

BAR_MS = 300.0
BAR_BYTES = 150_000
_ARGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")
_DROP = """
async ([name, text]) => {
  performance.clearMarks();
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const data = new DataTransfer();
  data.items.add(new File([bytes], name, {type: "image/jpeg"}));
  const init = {dataTransfer: data, bubbles: true, cancelable: true};
  document.body.dispatchEvent(new DragEvent("drop", init));
  const mark = (name) => performance.getEntriesByName(name)[0]?.startTime;
  while (mark("lookalike-first-result") === undefined) await new Promise((f) => setTimeout(f, 5));
  return mark("lookalike-first-result") - mark("lookalike-drop");
}
"""


def pictures_of(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))


def run(photos: Path, drops: int, seed: int) -> dict[str, Any]:
    files = pictures_of(photos)
    with tempfile.TemporaryDirectory(prefix="lookalike-bench-") as data:
        with LocalServer(Path(data)) as server:
            with Client(server.address) as client:
                client.upload(photos)
                stored = client.count()
            command = [sys.executable, "-m", "lookalike.web", "--listen", "127.0.0.1:0"]
            with subprocess.Popen(
                [*command, "--server", server.address], stdout=subprocess.PIPE, text=True
            ) as page:
                assert page.stdout is not None
                ready = re.search(r"http://\S+", page.stdout.readline())
                assert ready is not None
                try:
                    figures = visit(ready[0], random.Random(seed).sample(files, drops))
                finally:
                    page.terminate()
    return {"pictures": stored, "seed": seed, **figures}


def visit(url: str, files: list[Path]) -> dict[str, Any]:
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(_ARGS))
        tab = browser.new_page(viewport={"width": 1360, "height": 860})
        sizes: dict[str, int] = {}

        def count(response: Any) -> None:
            path = response.url.removeprefix(url)
            if path == "" or path.startswith("static/"):
                sizes[path] = len(response.body())

        tab.on("response", count)
        tab.goto(url)
        tab.wait_for_selector(".tile img.in")
        time.sleep(3.0)  # the page asks what scores mean, once
        drops_ms = []
        for file in files:
            text = base64.b64encode(file.read_bytes()).decode()
            drops_ms.append(tab.evaluate(_DROP, [file.name, text]))
            tab.wait_for_selector(".card:first-child .tier", timeout=60_000)
            time.sleep(0.3)
        browser.close()
    return {"drop_to_first_ms": drops_ms, "page_bytes": sum(sizes.values()), "files": sizes}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--photos", type=Path, required=True, help="a folder of pictures")
    parser.add_argument("--drops", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--check", action="store_true", help="exit 1 if a bar is missed")
    args = parser.parse_args()
    figures = run(args.photos, args.drops, args.seed)
    times = figures["drop_to_first_ms"]
    median = statistics.median(times)
    print(
        f"{figures['pictures']} pictures, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}: "
        f"first hit in sight {median:.0f} ms after the drop [{min(times):.0f}-{max(times):.0f}], "
        f"median of {len(times)}; the page has {figures['page_bytes'] / 1000:.0f} kB"
    )
    if args.json:
        args.json.write_text(json.dumps({**figures, "median_ms": median}, indent=1))
    missed = []
    if median > BAR_MS:
        missed.append(f"first hit after {median:.0f} ms > {BAR_MS:.0f}")
    if figures["page_bytes"] >= BAR_BYTES:
        missed.append(f"the page has {figures['page_bytes']} bytes >= {BAR_BYTES}")
    for bar in missed:
        print(f"MISSED: {bar}", file=sys.stderr)
    return 1 if args.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
