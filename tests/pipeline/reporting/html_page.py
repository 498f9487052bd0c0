"""What tests look for in an HTML page, parsed or in a browser."""

import json
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

VOID = {"meta", "br"}
INLINE = {"code", "data", "del", "ins", "mark", "small", "span", "strong"}


class Page(HTMLParser):
    """What the tests look for in a page; every element but the void ones must be closed, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.words.append("" if tag in INLINE else " ")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        """What a browser shows, as one line."""
        return " ".join("".join(self.words).split())

    def of(self, *tags: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag in tags]


FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
PROBE = """<!DOCTYPE html><iframe id="f" width="{width}" height="3000" srcdoc=""></iframe><pre id="out"></pre><script>
f.onload = () => {{ const d = f.contentDocument.documentElement;
  const wide = [...f.contentDocument.querySelectorAll("body *")].filter(e => !e.closest(".scroll") &&
    e.getBoundingClientRect().right > d.clientWidth).map(e => e.tagName + "." + e.getAttribute("class"));
  const cut = [...f.contentDocument.querySelectorAll(".scroll")].filter(e => e.querySelector("table") &&
    f.contentWindow.innerWidth < 480 && e.scrollWidth > e.clientWidth);  // columns out of sight on a phone
  const found = [...new Set(wide), ...cut.map(e => e.textContent.trim().slice(0, 60))];
  out.textContent = JSON.stringify([f.contentWindow.innerWidth, d.scrollWidth - d.clientWidth, found]); }};
f.srcdoc = {html};
</script>"""


def measured_in_browser(folder: Path, html: str, width: int) -> tuple[list[Any], str]:
    """Return [the window's width, by how much the page is wider, what stands out] and what the console said."""
    quoted = json.dumps(html).replace("</", "<\\/")
    probe = folder / "probe.html"
    probe.write_text(PROBE.format(width=width, html=quoted), encoding="utf-8")
    done = subprocess.run(
        ["chromium", *FLAGS, "--enable-logging=stderr", f"--user-data-dir={folder / 'profile'}",
         "--window-size=1600,3200", "--virtual-time-budget=5000", "--dump-dom", probe.as_uri()],
        capture_output=True, text=True, check=True, timeout=600,
    )  # fmt: skip
    output = re.search(r'<pre id="out">(.*?)</pre>', done.stdout)
    assert output, done.stdout[-2000:]
    return json.loads(output[1]), "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)
