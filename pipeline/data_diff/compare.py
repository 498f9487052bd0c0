"""What changed between two clean data sets: rows, splits, lengths, words; as numbers and as a page.

`python -m pipeline.data_diff OLD [NEW]` stands beside the stages: it reads what they made and changes nothing.
OLD and NEW are each a clean parquet file, a git revision, a model folder with its manifest.json, or a version of the
registry: its tag, its digits (the first 12 will do), champion or previous.

Memory stays bounded: texts are streamed, and DuckDB joins their digests and adds up word counts, on disk where need be.
"""

# ruff: noqa: S608 - queries are put together from names in this module alone

import difflib
import hashlib
import json
import math
import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import regex

from pipeline import escape, params, paths
from pipeline.command import UserError, arg_parser, echo, echo_json
from pipeline.intake.duplicates import minhash_signatures
from pipeline.intake.splits import normalize_text
from pipeline.redaction import redact
from pipeline.registry.model_version import short
from pipeline.registry.store import Registry
from pipeline.reporting.formatting import excerpt, percent
from pipeline.reporting.histogram import Bar, Histogram, bars_on_one_axis

# Two texts are one text edited from this similarity on: the Jaccard index of their sets of 5-character pieces.
EDITED = 0.5
_BANDS, _BAND = 32, 4  # a pair of similarity s is compared with probability 1 - (1 - s^4)^32: 0.87 at 0.5, 0.99 at 0.6
_NEIGHBOURS = 3  # within a band's bucket a row meets the rows of about its own rank, so that clusters cost no squares
_WORDS_AT_ONCE = 300_000  # different words counted in memory before they go to the database
_ROWS_AT_ONCE = 4096
_PAIRS_AT_ONCE = 1 << 16
_EXPECTED = "expected row (whole number), text and split, as `dvc repro validate` writes them"

# Unicode's default word boundaries (UAX #29), and the same rules spelled out for ASCII, which is thrice as fast.
_WORD = regex.compile(r"(?w)\w(?:\B.)*")
_ASCII_WORD = re.compile(
    r"\w+(?:(?:(?<=[a-zA-Z])[.':](?=[a-zA-Z])|(?<=[0-9])[.,;'](?=[0-9]))\w+)*",
    re.ASCII,
)
# Shown words are of letters only: numbers and keys may be someone's own.
_SHOWN = r"[\p{L}\p{M}'\x{2019}]{1,30}"

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Version:
    """A clean data set."""

    name: str  # as the caller called it
    data: str  # SHA-256 of its texts and splits, as `pipeline.tokenize.data_hash` and every manifest have it


@dataclass(frozen=True)
class Rows:
    """How many rows became what; old = unchanged + edited + removed, new = unchanged + edited + added."""

    old: int
    new: int
    unchanged: int
    edited: int  # other case, white space or Unicode form, or a near-copy (similarity of at least EDITED, estimated)
    removed: int
    added: int


@dataclass(frozen=True)
class Splits:
    """Rows of each split, and the texts that are in another one now."""

    old: dict[str, int]
    new: dict[str, int]
    moved: int  # texts equal after normalisation: none, unless the shares in params.yaml changed
    moved_by_edit: int  # near-copies, which have a hash, hence a place, of their own
    moves: dict[str, int]  # "train to test" -> `moved` texts


@dataclass(frozen=True)
class Length:
    """Characters of a text; None where there is no text."""

    mean: float | None
    median: float | None
    p95: float | None


@dataclass(frozen=True)
class LengthDrift:
    """How the lengths differ; distances are None where a data set is empty.

    `psi` is the population stability index over the old lengths' deciles, sum((q - p) ln(q / p)) with 0.5 added to each
    count, read as: below 0.1 no shift, up to 0.25 some, above a large one (Siddiqi, Credit Risk Scorecards, 2006).
    `ks` is the two-sample Kolmogorov-Smirnov statistic, the largest distance between the two cumulative
    distributions; `p_value` its p-value in the limit of large samples, too large where there are many ties.
    """

    old: Length
    new: Length
    psi: float | None
    ks: float | None
    p_value: float | None


@dataclass(frozen=True)
class Word:
    """A word and how often each data set has it."""

    word: str
    old: int
    new: int


@dataclass(frozen=True)
class Vocabulary:
    """How the words differ: words of the normalised texts by UAX #29, without pieces that hold an @ (addresses).

    `distance` is the Jensen-Shannon distance (base 2: 0 same, 1 nothing in common) of the two word frequencies; `rose`
    and `fell` are the words that add most to it (doi:10.1140/epjds/s13688-021-00260-3, eq. 15).
    Only words of letters are listed; all are counted.
    """

    words_old: int  # running words
    words_new: int
    distinct_old: int
    distinct_new: int
    distinct_added: int  # of the new data set, never seen in the old one
    distinct_gone: int
    unseen_share: float | None  # of the new data set's running words, those the old one never has
    distance: float | None
    added: tuple[Word, ...]
    gone: tuple[Word, ...]
    rose: tuple[Word, ...]
    fell: tuple[Word, ...]


@dataclass(frozen=True)
class Examples:
    """What the page shows; texts are redacted and cut."""

    edited: list[dict[str, Any]]  # rows `old` and `new`, and the `parts` that `marked` returns
    removed: list[dict[str, Any]]  # `row` and `text`
    added: list[dict[str, Any]]  # likewise
    histogram: dict[str, list[Bar]]  # of lengths: for "old" and "new", bars on one axis


@dataclass(frozen=True)
class DataDiff:
    """What `diff` found; the same two files give the same numbers."""

    old: Version
    new: Version
    rows: Rows
    splits: Splits
    length: LengthDrift
    vocabulary: Vocabulary
    examples: Examples

    def numbers(self) -> dict[str, Any]:
        """Return everything but the examples, for JSON; no text of a row is in it."""
        numbers = asdict(self)
        del numbers["examples"]
        return numbers


def main() -> None:
    """Run the command."""
    parser = arg_parser()
    what = "a clean parquet file, a git revision, a model folder, or a version of the registry (champion, a tag, ...)"
    parser.add_argument("old", metavar="OLD", help=what)
    parser.add_argument("new", metavar="NEW", nargs="?", default=str(paths.CLEAN), help=f"likewise; {paths.CLEAN}")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--page", metavar="FILE", type=Path, help="write an HTML page too")
    wanted = parser.parse_args()

    with clean_data(wanted.old) as old, clean_data(wanted.new) as new:
        found = diff(old, new, names=(wanted.old, wanted.new), region=_region())
    if wanted.page:
        try:
            wanted.page.parent.mkdir(parents=True, exist_ok=True)
            wanted.page.write_text(page(found), encoding="utf-8")
        except OSError as error:
            raise UserError(f"--page {wanted.page}: cannot be written ({error.strerror}); name another file") from None
    if wanted.json:
        echo_json(found.numbers())
    else:
        echo(table(found))


def _region() -> str:
    """Return the region of the rule `phone`; outside a checkout there is none."""
    return params.load().validate_.rules.phone.region if paths.PARAMS.is_file() else "none"


@contextmanager
def clean_data(name: str) -> Iterator[Path]:
    """Yield the clean parquet file that `name` names: a path, a git revision, a model folder or a registered version.

    What exists as a file or folder is taken as one, then what the registry knows by this whole name; anything else is a
    git revision. A revision's dvc.lock and a model's manifest.json have the file's MD5, by which it is looked for in
    this repository's DVC cache, then in its default remote. Raises UserError where there is no such thing.
    """
    path = Path(name)
    if path.is_file():
        yield path
        return
    if path == paths.CLEAN:
        raise UserError(f"there is no {paths.CLEAN}, the clean data; make it with `dvc repro validate`")
    if not path.is_dir() and (registered := _registered(name)):
        path = registered
    whose, md5 = (path / paths.MANIFEST.name, _md5_of_model(path)) if path.is_dir() else (name, _md5_of_revision(name))
    with tempfile.TemporaryDirectory(prefix="data_diff_") as scratch:
        yield _cached(md5, str(whose), Path(scratch) / paths.CLEAN.name)


def _registered(name: str) -> Path | None:
    """Return the folder of a registered version; beginnings of one are left to git, whose commits look the same."""
    registry = Registry()
    if not registry.history():
        return None
    whole = [known for tag in registry.tags() for known in (tag, tag.partition(":")[2])]
    versions = {*whole, *map(short, whole)}
    return registry.get(name).folder if name in ("champion", "previous", *versions) else None


def _md5_of_revision(revision: str) -> str:
    from dvc.api import DVCFileSystem
    from dvc.exceptions import NotDvcRepoError
    from dvc.scm import SCMError

    try:
        return str(DVCFileSystem(rev=revision).info(str(paths.CLEAN))["md5"])
    except (SCMError, NotDvcRepoError):
        raise UserError(
            f"{revision!r} is no file, no model folder, no version in the registry and no git revision known here; "
            f"{paths.meant(Path(revision))}name a clean parquet file, a revision that `git log` shows, a folder with "
            f"{paths.MANIFEST.name}, or a version that `python -m pipeline.registry list` shows"
        ) from None
    except (FileNotFoundError, KeyError):  # not there, or in git but not an output
        raise UserError(
            f"{revision}: the dvc.lock of this git revision records no {paths.CLEAN}; name a revision that "
            "was committed after `dvc repro`"
        ) from None


def _md5_of_model(folder: Path) -> str:
    manifest = folder / paths.MANIFEST.name
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{folder} is a folder without {manifest.name}; name a model folder, a clean parquet file or a git revision"
        ) from None
    except ValueError:
        raise UserError(f"{manifest}: is not JSON; name a model folder that `dvc repro` made") from None
    md5 = content.get("clean_md5") if isinstance(content, dict) else None
    if not (isinstance(md5, str) and re.fullmatch(r"[0-9a-f]{32}", md5)):
        raise UserError(
            f"{manifest}: has no clean_md5, the MD5 of the clean data, as models have that were made before it was "
            "recorded; name the git revision that made the model instead"
        )
    return md5


def _cached(md5: str, whose: str, copy: Path) -> Path:
    """Return the file of this MD5 in DVC's cache, or `copy`, fetched from the remote."""
    from dvc.config import NoRemoteError
    from dvc.exceptions import NotDvcRepoError

    from pipeline.dvc_repo import open_repo

    try:
        repo = open_repo()
    except NotDvcRepoError:
        raise UserError(f"{whose}: its clean data is in a DVC cache, but there is no DVC repository here") from None
    with repo:
        cache = repo.cache.local
        if cache.exists(md5):
            return Path(cache.oid_to_path(md5))
        try:
            remote = repo.cloud.get_remote_odb()
            remote.fs.get_file(remote.oid_to_path(md5), str(copy))
        except (NoRemoteError, FileNotFoundError):
            raise UserError(
                f"{whose}: its clean data (MD5 {md5}) is neither in the DVC cache nor in a remote; run "
                "`dvc fetch --all-commits validate` where a remote has it, else check that revision out and run "
                "`dvc repro validate`"
            ) from None
    return copy


def diff(old: Path, new: Path, *, names: tuple[str, str] | None = None, region: str = "none") -> DataDiff:
    """Compare two clean data sets; `names` is what the result calls them, their paths unless given.

    `region` is that of the rule `phone`, by which the examples are redacted.

    A text that both have is unchanged; then one that only differs in case, white space or Unicode form is edited; then
    what is left of both is paired by similarity, most similar first, and edited from EDITED on. The rest is removed or
    added. Raises UserError for a file that is no clean data set.
    """
    names = names or (str(old), str(new))
    files = [_open(path, name) for path, name in zip((old, new), names, strict=True)]
    with tempfile.TemporaryDirectory(prefix="data_diff_") as scratch:
        database = duckdb.connect(
            str(Path(scratch) / "diff.duckdb"),
            config={
                "memory_limit": "400MB",
                "temp_directory": str(Path(scratch) / "spill"),
                "preserve_insertion_order": "false",
                "autoinstall_known_extensions": "false",
                "autoload_known_extensions": "false",
            },
        )
        with database:
            database.execute("CREATE TABLE counts (side VARCHAR, word VARCHAR, n BIGINT)")
            database.execute("CREATE TABLE pairs (old INTEGER, new INTEGER, kind VARCHAR)")
            versions, lengths = [], []
            for side, name, file in zip(("old", "new"), names, files, strict=True):
                data, length = _take_in(side, name, file, database)
                versions.append(Version(name, data))
                lengths.append(length)
            _pair(files, database)
            return DataDiff(
                versions[0],
                versions[1],
                _rows(database),
                _splits(database),
                _length_drift(lengths[0], lengths[1]),
                _vocabulary(database),
                _examples(files, lengths, database, region),
            )


def _open(path: Path, name: str) -> pq.ParquetFile:
    """Return the file, checked to be a clean data set."""
    try:
        file = pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)  # else it keeps what it has read
    except pa.ArrowInvalid:
        raise UserError(f"{name}: is no clean data set: not a Parquet file; {_EXPECTED}") from None
    schema = file.schema_arrow
    kinds = {"row": pa.types.is_integer, "text": _is_text, "split": _is_text}
    if not all(name in schema.names and fits(schema.field(name).type) for name, fits in kinds.items()):
        columns = ", ".join(f"{column.name} ({column.type})" for column in schema) or "none"
        raise UserError(f"{name}: is no clean data set: its columns are {columns}; {_EXPECTED}")
    return file


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _batches(file: pq.ParquetFile) -> Iterator[tuple[int, dict[str, list[Any]]]]:
    """Yield the columns of some rows at a time, with the position of the first."""
    position = 0
    for batch in file.iter_batches(_ROWS_AT_ONCE, columns=["row", "text", "split"], use_threads=False):
        yield position, batch.to_pydict()
        position += len(batch)


def _take_in(side: str, name: str, file: pq.ParquetFile, database: duckdb.DuckDBPyConnection) -> tuple[str, Array]:
    """Put digests and word counts into the database; return the data set's hash and its texts' lengths."""
    database.execute(
        f"CREATE TABLE {side} (position INTEGER, row BIGINT, split VARCHAR, identical BLOB, normalized BLOB)"
    )
    database.execute(
        f"CREATE VIEW {side}_left AS SELECT * FROM {side} ANTI JOIN pairs ON {side}.position = pairs.{side}"
    )
    total, counts = hashlib.sha256(), Counter[str]()
    lengths = np.empty(file.metadata.num_rows, np.int32)
    for position, columns in _batches(file):
        for column, values in columns.items():
            if None in values:
                raise UserError(
                    f"{name}: is no clean data set: its column {column} has a missing value in row "
                    f"{position + values.index(None) + 1} of the file; {_EXPECTED}"
                )
        texts, splits = columns["text"], columns["split"]
        normalized = [normalize_text(text) for text in texts]
        for text, split in zip(texts, splits, strict=True):
            total.update(f"{split}\0{text}\0".encode())
        lengths[position : position + len(texts)] = [len(text) for text in texts]
        chunk = pa.table(
            {
                "position": np.arange(position, position + len(texts)),
                "row": columns["row"],
                "split": splits,
                "identical": [_digest(text) for text in texts],
                "normalized": [_digest(text) for text in normalized],
            }
        )
        database.register("chunk", chunk).execute(f"INSERT INTO {side} SELECT * FROM chunk")
        for of_ascii in (True, False):  # apart, for the speed of `words`
            counts.update(words("\n".join(text for text in normalized if text.isascii() == of_ascii)))
        if len(counts) > _WORDS_AT_ONCE:
            _put_counts(side, counts, database)
    _put_counts(side, counts, database)
    return total.hexdigest(), lengths


def _digest(text: str) -> bytes:
    """Return 96 bits: the longest that DuckDB holds in place, and no two of 4 million texts alike by chance (1e-16)."""
    return hashlib.blake2b(text.encode(), digest_size=12).digest()


def words(normalized: str) -> list[str]:
    """Return the words of a normalised text by Unicode's default boundaries; not those of addresses (with an @)."""
    if "@" in normalized:
        normalized = " ".join(piece for piece in re.split(r"([ \n])", normalized) if "@" not in piece)
    found: list[str] = (_ASCII_WORD if normalized.isascii() else _WORD).findall(normalized)
    return found


def _put_counts(side: str, counts: Counter[str], database: duckdb.DuckDBPyConnection) -> None:
    chunk = pa.table({"word": list(counts.keys()), "n": list(counts.values())})
    database.register("chunk", chunk).execute("INSERT INTO counts SELECT ?, word, n FROM chunk", [side])
    counts.clear()


def _pair(files: Sequence[pq.ParquetFile], database: duckdb.DuckDBPyConnection) -> None:
    """Fill the table `pairs`: the rows of old and new that are one text, one normalised text, or near-copies."""
    for kind in ("identical", "normalized"):
        # A text that is there twice is paired twice.
        ranked = f"*, row_number() OVER (PARTITION BY {kind} ORDER BY position) AS nth"
        database.execute(
            f"INSERT INTO pairs SELECT old.position, new.position, '{kind}' "
            f"FROM (SELECT {ranked} FROM old_left) AS old "
            f"JOIN (SELECT {ranked} FROM new_left) AS new USING ({kind}, nth)"
        )
    left = [
        database.execute(f"SELECT position FROM {side}_left ORDER BY position").fetchnumpy()["position"]
        for side in ("old", "new")
    ]
    if all(map(len, left)):
        signatures = [_signatures_of(file, positions) for file, positions in zip(files, left, strict=True)]
        old, new = near_pairs(*signatures)
        chunk = pa.table({"old": left[0][old], "new": left[1][new]})
        database.register("chunk", chunk).execute("INSERT INTO pairs SELECT old, new, 'near' FROM chunk")


def _signatures_of(file: pq.ParquetFile, positions: Array) -> Array:
    """Return the signatures of the texts at `positions` (rising)."""
    signatures = np.empty((len(positions), _BANDS * _BAND), np.uint8)
    done = 0
    for first, columns in _batches(file):
        last = np.searchsorted(positions, first + len(columns["text"]))
        if last > done:
            texts = [columns["text"][position - first] for position in positions[done:last]]
            signatures[done:last] = signatures_of([normalize_text(text) for text in texts])
            done = int(last)
    return signatures


def signatures_of(normalized: Sequence[str]) -> npt.NDArray[np.uint8]:
    """Return a MinHash signature a text, of its set of 5-character pieces; a shorter text is one piece.

    Of each minimum 8 bits are kept (b-bit minwise hashing, Li and König 2010): two texts of similarity s agree in
    a share s + (1 - s) / 256 of the 128 places.
    """
    return minhash_signatures(normalized, _BANDS * _BAND).astype(np.uint8)


def near_pairs(old: npt.NDArray[np.uint8], new: npt.NDArray[np.uint8]) -> tuple[Array, Array]:
    """Return positions in `old` and in `new` of near-copies, each row in one pair at most.

    Very similar ones are paired first, whichever band they share; then, within each band, the likest first.
    """
    mates, taken = np.full(len(old), -1, np.int32), np.zeros(len(new), bool)
    for least, band in product((0.8, EDITED), range(_BANDS)):
        left, right = (np.flatnonzero(~paired).astype(np.int32) for paired in (mates >= 0, taken))
        places = slice(band * _BAND, (band + 1) * _BAND)
        keys = [
            np.ascontiguousarray(signatures[rows, places]).view(np.uint32).ravel()
            for signatures, rows in ((old, left), (new, right))
        ]
        likely = []
        for i, j in _of_one_bucket(*keys):
            i, j = left[i], right[j]
            agreeing = np.empty(len(i), np.uint8)
            for some in _slices(i):
                agreeing[some] = (old[i[some]] == new[j[some]]).sum(axis=1)
            near = agreeing >= (least + (1 - least) / 256) * _BANDS * _BAND
            likely.append((i[near], j[near], agreeing[near]))
        i, j, agreeing = (np.concatenate(values) for values in zip(*likely, strict=True))
        likest = np.argsort(-agreeing.astype(np.int16), kind="stable")
        for some in _slices(likest):
            for a, b in zip(i[likest[some]].tolist(), j[likest[some]].tolist(), strict=True):
                if mates[a] < 0 and not taken[b]:
                    mates[a], taken[b] = b, True
    paired = np.flatnonzero(mates >= 0)
    return paired, mates[paired]


def _slices(values: Array) -> list[slice]:
    return [slice(first, first + _PAIRS_AT_ONCE) for first in range(0, len(values), _PAIRS_AT_ONCE)]


def _of_one_bucket(old: Array, new: Array) -> Iterator[tuple[Array, Array]]:
    """Yield positions in `old` and in `new` of equal keys, first those of the same rank among the equal ones.

    Not all pairs of a bucket: 100,000 rows of one template would make 10 billion.
    """
    order_old, order_new = (np.argsort(keys, kind="stable").astype(np.int32) for keys in (old, new))
    old, new = old[order_old], new[order_new]
    rank = np.arange(len(old)) - np.searchsorted(old, old)
    start, end = np.searchsorted(new, old), np.searchsorted(new, old, side="right")
    for offset in sorted(range(-_NEIGHBOURS, _NEIGHBOURS + 1), key=abs):
        at = start + rank + offset
        within = (start <= at) & (at < end)
        yield order_old[within], order_new[at[within]]


def _one(database: duckdb.DuckDBPyConnection, query: str) -> tuple[int, ...]:
    """Return the query's only row, of counts."""
    return tuple(int(value or 0) for value in database.execute(query).fetchall()[0])


def _rows(database: duckdb.DuckDBPyConnection) -> Rows:
    (old,) = _one(database, "SELECT count(*) FROM old")
    (new,) = _one(database, "SELECT count(*) FROM new")
    unchanged, pairs = _one(database, "SELECT count(*) FILTER (kind = 'identical'), count(*) FROM pairs")
    return Rows(old, new, unchanged, edited=pairs - unchanged, removed=old - pairs, added=new - pairs)


def _splits(database: duckdb.DuckDBPyConnection) -> Splits:
    counts: list[dict[str, int]] = []
    for side in ("old", "new"):
        found = dict(database.execute(f"SELECT split, count(*) FROM {side} GROUP BY split ORDER BY split").fetchall())
        counts.append({split: found.pop(split, 0) for split in ("train", "validation", "test")} | found)
    moves = database.execute(
        "SELECT old.split || ' to ' || new.split AS move, count(*) FILTER (kind <> 'near'), "
        "count(*) FILTER (kind = 'near') FROM pairs JOIN old ON pairs.old = old.position "
        "JOIN new ON pairs.new = new.position WHERE old.split <> new.split GROUP BY move ORDER BY move"
    ).fetchall()
    return Splits(
        counts[0],
        counts[1],
        moved=sum(same for _, same, _ in moves),
        moved_by_edit=sum(near for _, _, near in moves),
        moves={move: same for move, same, _ in moves if same},
    )


def _rounded(number: float) -> float:
    """Six digits: what a reader may use, and the same on every machine."""
    return float(f"{number:.6g}")


def _length_drift(old: Array, new: Array) -> LengthDrift:
    if not (len(old) and len(new)):
        return LengthDrift(_length(old), _length(new), psi=None, ks=None, p_value=None)
    statistic, p_value = kolmogorov_smirnov(old, new)
    return LengthDrift(
        _length(old),
        _length(new),
        psi=_rounded(psi(old, new)),
        ks=_rounded(statistic),
        p_value=_rounded(p_value),
    )


def kolmogorov_smirnov(old: Array, new: Array) -> tuple[float, float]:
    """Return the two-sample statistic and its p-value in the limit of large samples; see LengthDrift.

    Not scipy's `ks_2samp`, whose exact p-value fails with a warning for some small samples.
    """
    from scipy.special import kolmogorov

    values = np.union1d(old, new)
    shares = [np.searchsorted(np.sort(lengths), values, side="right") / len(lengths) for lengths in (old, new)]
    statistic = float(np.abs(shares[0] - shares[1]).max())
    return statistic, float(kolmogorov(statistic * math.sqrt(len(old) * len(new) / (len(old) + len(new)))))


def _length(lengths: Array) -> Length:
    if not len(lengths):
        return Length(None, None, None)
    mean = int(lengths.sum(dtype=np.int64)) / len(lengths)
    return Length(*(_rounded(value) for value in (mean, np.median(lengths), np.percentile(lengths, 95))))


def psi(old: Array, new: Array) -> float:
    """Return the population stability index of two samples; see LengthDrift."""
    edges = np.unique(np.percentile(old, np.arange(10, 100, 10), method="inverted_cdf"))
    # Half a row more in each bin, so that an empty one does not make the index infinite.
    counts = [np.bincount(np.searchsorted(edges, lengths), minlength=len(edges) + 1) + 0.5 for lengths in (old, new)]
    p, q = (count / count.sum() for count in counts)
    return math.fsum((q - p) * np.log(q / p))


def _vocabulary(database: duckdb.DuckDBPyConnection) -> Vocabulary:
    database.execute(
        "CREATE TABLE words AS SELECT word, coalesce(sum(n) FILTER (side = 'old'), 0)::BIGINT AS old, "
        "coalesce(sum(n) FILTER (side = 'new'), 0)::BIGINT AS new FROM counts GROUP BY word"
    )
    total_old, total_new, distinct_old, distinct_new, added, gone, unseen = _one(
        database,
        "SELECT sum(old), sum(new), count(*) FILTER (old > 0), count(*) FILTER (new > 0), "
        "count(*) FILTER (old = 0), count(*) FILTER (new = 0), sum(new) FILTER (old = 0) FROM words",
    )

    def top(where: str, by: str) -> tuple[Word, ...]:
        shown = database.execute(
            f"SELECT word, old, new FROM words WHERE {where} AND regexp_full_match(word, ?) "
            f"ORDER BY {by} DESC, word LIMIT 15",
            [_SHOWN],
        )
        return tuple(Word(*found) for found in shown.fetchall())

    distance: float | None = None
    rose: tuple[Word, ...] = ()
    fell: tuple[Word, ...] = ()
    if total_old and total_new:
        # Summed here, exactly: a sum of floats by several threads is not the same twice.
        frequencies = database.execute(
            "SELECT old, new, count(*) FROM words GROUP BY old, new ORDER BY old, new"
        ).fetchall()
        divergence = math.fsum(n * _js_part(old / total_old, new / total_new) for old, new, n in frequencies)
        distance = _rounded(math.sqrt(max(0.0, divergence)))
        p, q = f"(old / {total_old})", f"(new / {total_new})"
        part = " + ".join(f"CASE WHEN {x} > 0 THEN {x} * log2(2 * {x} / ({p} + {q})) ELSE 0 END" for x in (p, q))
        rose, fell = top(f"{q} > {p}", part), top(f"{q} < {p}", part)
    return Vocabulary(
        total_old,
        total_new,
        distinct_old,
        distinct_new,
        added,
        gone,
        _rounded(unseen / total_new) if total_new else None,
        distance,
        added=top("old = 0", "new"),
        gone=top("new = 0", "old"),
        rose=rose,
        fell=fell,
    )


def _js_part(p: float, q: float) -> float:
    """Return what a word of probabilities `p` and `q` adds to the Jensen-Shannon divergence, in bits."""
    return sum(x * math.log2(2 * x / (p + q)) / 2 for x in (p, q) if x > 0)


def _examples(
    files: Sequence[pq.ParquetFile],
    lengths: Sequence[Array],
    database: duckdb.DuckDBPyConnection,
    region: str,
    most: int = 5,
) -> Examples:
    """Return the first few rows of each kind, and the histogram of lengths."""
    edited = database.execute(
        "SELECT pairs.old, pairs.new, old.row, new.row FROM pairs JOIN old ON pairs.old = old.position "
        "JOIN new ON pairs.new = new.position WHERE kind <> 'identical' "
        f"ORDER BY kind = 'normalized', pairs.new LIMIT {2 * most}"
    ).fetchall()
    left = {
        side: database.execute(f"SELECT position, row FROM {side}_left ORDER BY position LIMIT {most}").fetchall()
        for side in ("old", "new")
    }
    old = _texts_at(files[0], {at for at, *_ in edited} | {at for at, _ in left["old"]})
    new = _texts_at(files[1], {at for _, at, *_ in edited} | {at for at, _ in left["new"]})
    mask = partial(redact, region=region)
    return Examples(
        edited=[
            {"old": row_old, "new": row_new, "parts": marked(mask(old[at_old]), mask(new[at_new]))}
            for at_old, at_new, row_old, row_new in edited
        ],
        removed=[{"row": row, "text": excerpt(old[at], mask=mask)} for at, row in left["old"]],
        added=[{"row": row, "text": excerpt(new[at], mask=mask)} for at, row in left["new"]],
        histogram=_histogram(old=lengths[0], new=lengths[1]),
    )


def _texts_at(file: pq.ParquetFile, positions: set[int]) -> dict[int, str]:
    found: dict[int, str] = {}
    for first, columns in _batches(file):
        if len(found) == len(positions):
            break
        here = range(first, first + len(columns["text"]))
        found |= {position: columns["text"][position - first] for position in positions if position in here}
    return found


def marked(old: str, new: str, around: int = 60, most: int = 2000) -> list[tuple[str, str]]:
    """Return what makes `new` of `old`: ("same" | "removed" | "added", text), long equal stretches cut short.

    Compared are words, white space and single marks, of at most `most` characters from the first difference on.
    """
    start = max(0, _alike(old, new) - 2 * around)
    old, new = old[start:], new[start:]
    end = max(0, _alike(old[::-1], new[::-1]) - 2 * around)
    old, new = old[: len(old) - end], new[: len(new) - end]
    cut = max(len(old), len(new)) > most
    before, after = (re.findall(r"\s+|\w+|[^\w\s]", text[:most]) for text in (old, new))
    opcodes = difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
    if cut and len(opcodes) > 1 and opcodes[-1][0] != "equal":
        opcodes.pop()  # it may be there only because one text was cut sooner
    parts: list[tuple[str, str]] = [("same", "…")] if start else []
    for tag, i1, i2, j1, j2 in opcodes:
        if tag == "equal":
            stretch = "".join(before[i1:i2])
            parts.append(
                ("same", stretch if len(stretch) <= 4 * around else f"{stretch[:around]} … {stretch[-around:]}")
            )
        else:
            pieces = (("removed", "".join(before[i1:i2])), ("added", "".join(after[j1:j2])))
            parts += [(kind, piece) for kind, piece in pieces if piece]
    return [*parts, ("same", "…")] if end or cut else parts


def _alike(old: str, new: str) -> int:
    """Return how many characters both begin with."""
    return next((at for at, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))


def _histogram(**lengths: Array) -> dict[str, list[Bar]]:
    """Return the share of the texts of each length, on one axis of bins that grow with the length."""
    histograms = {side: Histogram() for side in lengths}
    for side, values in lengths.items():
        histograms[side].add(values)
    return bars_on_one_axis(histograms)


def reading(psi: float | None) -> str:
    """Return the usual reading of a population stability index."""
    if psi is None:
        return "not comparable"
    if psi < 0.1:
        return "no shift"
    return "some shift" if psi <= 0.25 else "large shift"


def table(found: DataDiff) -> str:
    """Return the numbers as a short table for people."""
    rows, splits, length, vocabulary = found.rows, found.splits, found.length, found.vocabulary

    def change(old: float | None, new: float | None) -> str:
        return " -> ".join("none" if value is None else f"{value:,.7g}" for value in (old, new))

    names = list(splits.old | splits.new)
    lines = {
        "old": f"{found.old.name}: {rows.old:,} rows, data {found.old.data[:12]}",
        "new": f"{found.new.name}: {rows.new:,} rows, data {found.new.data[:12]}",
        "rows": f"{rows.unchanged:,} unchanged, {rows.edited:,} edited, {rows.removed:,} removed, {rows.added:,} added",
        "splits": ", ".join(f"{name} {change(splits.old.get(name, 0), splits.new.get(name, 0))}" for name in names),
        "moved": f"{splits.moved:,} texts"
        + "".join(f", {count:,} {move}" for move, count in splits.moves.items())
        + f"; {splits.moved_by_edit:,} by an edit",
        "length": f"mean {change(length.old.mean, length.new.mean)}, median "
        f"{change(length.old.median, length.new.median)}, 95 % {change(length.old.p95, length.new.p95)} characters",
        "": f"{reading(length.psi)} (PSI {length.psi}); KS {length.ks}, p {length.p_value}",
        "words": f"{change(vocabulary.distinct_old, vocabulary.distinct_new)} different ones, "
        f"{vocabulary.distinct_added:,} new, {vocabulary.distinct_gone:,} gone",
        " ": f"unseen share {vocabulary.unseen_share}, Jensen-Shannon distance {vocabulary.distance}",
        "rose": ", ".join(word.word for word in vocabulary.rose) or "none",
        "fell": ", ".join(word.word for word in vocabulary.fell) or "none",
    }
    return "\n".join(f"{name:8}{line}" for name, line in lines.items())


def page(found: DataDiff) -> str:
    """Return one HTML page, which needs no network."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("pipeline", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        finalize=escape.finalize,
    )
    environment.filters |= {"percent": percent}
    return environment.get_template("data_diff.html").render(
        found=found, reading=reading(found.length.psi), edited_from=EDITED
    )
