"""Real texts of several scripts and kinds that this machine has: the sample, manual pages, programs and messages."""

import ast
import csv
import gettext
import gzip
import hashlib
import re
import sysconfig
import textwrap
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path

_SHARED = Path("../shared/data")
_MESSAGES = Path("/usr/share/locale")
_MANUALS = Path("/usr/share/man")
_PACKAGES = Path("/var/lib/dpkg/status")
_LONGEST = 500  # characters


def corpora(fewest: int, most: int | None = None, first: int | None = None) -> dict[str, list[str]]:
    """Return the texts of each corpus of which this machine has enough, in random order.

    Args:
        fewest: How many texts are enough.
        most: How many corpora to read; None reads all.
        first: How many texts of each to read; None reads all.
    """
    found = {name: sorted(set(islice(read(), first)), key=_digest) for name, read in list(_READERS.items())[:most]}
    return {name: texts for name, texts in found.items() if len(texts) >= fewest}


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _column(path: Path, column: str = "text") -> list[str]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [row[column].strip() for row in csv.DictReader(file)]


def _functions() -> Iterable[str]:
    """Yield short functions of Python's own library."""
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        source = path.read_text(encoding="utf-8", errors="replace")
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef) and node.end_lineno:
                text = textwrap.dedent("\n".join(source.splitlines()[node.lineno - 1 : node.end_lineno]))
                if 100 <= len(text) <= _LONGEST:
                    yield text


def _manuals(language: str) -> Iterable[str]:
    """Yield paragraphs of manual pages, without their markup."""
    for path in sorted((_MANUALS / language).glob("man*/*.gz")):
        page = gzip.decompress(path.read_bytes()).decode(errors="replace")
        for paragraph in re.split(r"\n\.(?:PP|P|LP|TP|IP|SH|SS|RS|RE|sp|br).*|\n\n", page):
            text = re.sub(r"^\.[A-Z]+ ?|^\.\\\".*$", "", paragraph, flags=re.MULTILINE)
            text = " ".join(re.sub(r"\\f.|\\[&|/,^]|\\\(..|\\", "", text).split())
            if len(text) >= 60:
                yield text[:_LONGEST]


def _translations(language: str, shortest: int) -> Iterable[str]:
    """Yield messages of programs, a few together."""
    messages: list[str] = []
    for path in sorted((_MESSAGES / language / "LC_MESSAGES").glob("*.mo")):
        with path.open("rb") as file:
            translations = gettext.GNUTranslations(file)
        catalog: dict[str, str] = vars(translations)["_catalog"]
        messages += [text.strip() for key, text in catalog.items() if key and len(text) >= shortest]
    messages = sorted(set(messages), key=_digest)
    return ("\n".join(messages[first : first + 3])[:_LONGEST] for first in range(0, len(messages) - 2, 3))


def _speeches() -> list[str]:
    path = _SHARED / "tinyshakespeare" / "input.txt"
    return [text for text in path.read_text().split("\n\n") if len(text) >= 80] if path.is_file() else []


def _products() -> Iterable[str]:
    """Yield software packages as a shop describes its goods."""
    records = _PACKAGES.read_text(errors="replace").split("\n\n") if _PACKAGES.is_file() else []
    for record in records:
        fields = dict(re.findall(r"^(Package|Section|Version|Installed-Size|Description): (.*)$", record, re.MULTILINE))
        if "Description" in fields:
            size = f"{fields.get('Installed-Size', 0)} kB"
            more = " ".join(re.findall(r"^ (?!\.$)(.*)", record.partition("Description: ")[2], re.MULTILINE)[:3])
            yield " | ".join([fields["Package"], fields.get("Section", ""), size, fields["Description"], more])


_READERS: dict[str, Callable[[], Iterable[str]]] = {
    "prose (the sample)": lambda: _column(Path("data/tales.csv")),
    "code (Python's library)": _functions,
    "German (manuals)": lambda: _manuals("de"),
    "Chinese (messages)": lambda: _translations("zh_CN", 12),
    "Japanese (messages)": lambda: _translations("ja", 15),
    "Russian (messages)": lambda: _translations("ru", 25),
    "verse (tinyshakespeare)": _speeches,
    "product data (packages)": _products,
    "support (banking77)": lambda: _column(_SHARED / "banking77-customer-support" / "train.csv"),
}
