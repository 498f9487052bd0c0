"""Finds keys and tokens of known services in a text, in time linear in its length.

The patterns are those of detect-secrets and further ones. All run in RE2 (through Arrow), since several take quadratic
time in Python's `re` on a text made for it. RE2 has no look-around: what precedes and follows a finding is a group of
its own, and a function checks what a pattern cannot express.
"""

import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.intake.detector import Span

_NOT_IN_A_WORD = "^|[^A-Za-z0-9]"  # ASCII only: with all of Unicode a pattern takes 2 ms to compile
_OPEN, _CLOSE = "\ufdd0", "\ufdd1"  # around findings; noncharacters, which are removed from the text first


class _Pattern(NamedTuple):
    """A pattern for RE2 in three parts without groups, and a check of the finding and the character after it."""

    anchor: str  # what every finding holds: a pattern for both `re` and RE2 without unbounded repeats
    core: str
    before: str = _NOT_IN_A_WORD
    after: str = ""
    check: Callable[[str, str], bool] | None = None


# What detect-secrets 1.5 does not know, or would find in plain words; from the services' own documentation.
_KEYS = (
    _Pattern(
        "PRIVATE KEY",
        r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----(?s:.*?)(?:-----END [A-Z0-9 ]*-----|\z)",
        before="",
    ),
    _Pattern("PuTTY-User-Key-File", r"PuTTY-User-Key-File-[0-9]"),
    _Pattern(  # AWS; without a digit it would be a word in capitals
        "(?:A3T[A-Z0-9]|ABIA|ACCA|AKIA|ASIA)[A-Z0-9]{16}",
        r"(?:A3T[A-Z0-9]|ABIA|ACCA|AKIA|ASIA)[A-Z0-9]{16}\b",
        check=lambda finding, _: re.search("[0-9]", finding[4:]) is not None,
    ),
    _Pattern("github_pat_", r"github_pat_[0-9A-Za-z_]{82}\b"),
    _Pattern("T3BlbkFJ", r"sk-(?:proj|svcacct|admin)-[\w-]{20,}T3BlbkFJ[\w-]{20,}"),  # OpenAI
    _Pattern("sk-ant-", r"sk-ant-[a-z0-9]+-[\w-]{80,}"),  # Anthropic
    _Pattern("AIza", r"AIza[\w-]{35}", check=lambda _, after: not re.match(r"[\w-]", after)),  # Google
    _Pattern("hf_[A-Za-z]{34}", r"hf_[A-Za-z]{34}\b"),  # Hugging Face
    _Pattern("://", r"[^\s:/?#@]+:[^\s:/?#@]+", before="://", after="@"),  # name and password in a URL
)


@cache
def _patterns() -> tuple[_Pattern, ...]:
    """Return all patterns."""
    from detect_secrets.plugins import jwt

    is_token = jwt.JwtTokenDetector.is_formally_valid
    return _KEYS + tuple(
        _Pattern(
            anchor,
            _for_re2(pattern),
            before="" if pattern.pattern.startswith(r"\/") else _NOT_IN_A_WORD,
            check=(lambda finding, _: is_token(finding)) if plugin is jwt.JwtTokenDetector else None,
        )
        for plugin, anchor in _plugins()
        for pattern in plugin.denylist
    )


def _plugins() -> tuple[tuple[Any, str], ...]:
    """Return plugins of detect-secrets, each with an anchor for its patterns.

    Only those for key formats that do not occur in plain text by chance: no entropy, no keywords, and nothing that
    sends a request.
    """
    from detect_secrets.plugins import (
        azure_storage_key,
        discord,
        github_token,
        gitlab_token,
        jwt,
        mailchimp,
        npm,
        openai,
        pypi_token,
        sendgrid,
        slack,
        square_oauth,
        stripe,
        telegram_token,
    )

    return (
        (azure_storage_key.AzureStorageKeyDetector, "AccountKey="),
        (discord.DiscordBotTokenDetector, r"[MNO][A-Za-z0-9_-]{23,25}\.[A-Za-z0-9_-]{6}\."),
        (github_token.GitHubTokenDetector, "gh[pousr]_"),
        (gitlab_token.GitLabTokenDetector, "gl[a-z]{2,5}-|GR1348941"),
        (jwt.JwtTokenDetector, "eyJ"),
        (mailchimp.MailchimpDetector, "[0-9a-z]{32}-us[0-9]"),
        (npm.NpmDetector, "_authToken="),
        (openai.OpenAIDetector, "T3BlbkFJ"),
        (pypi_token.PypiTokenDetector, "pypi-Ag"),
        (sendgrid.SendGridDetector, r"SG\."),
        (slack.SlackDetector, r"(?i:xox[abpors]-|hooks\.slack\.com)"),
        (square_oauth.SquareOAuthDetector, "sq0csp-"),
        (stripe.StripeDetector, "[rs]k_live_"),
        (telegram_token.TelegramBotTokenDetector, "[0-9]{8}:"),
    )


@cache
def prefilter() -> str:
    """Return a pattern for RE2 that matches every text in which `find` finds something."""
    in_urls = r"://[^\s/]*:[^\s/]+@"  # far rarer than the anchor
    return "|".join({pattern.anchor: None for pattern in _patterns() if pattern.anchor != "://"} | {in_urls: None})


def _for_re2(pattern: re.Pattern[str]) -> str:
    """Return a pattern of detect-secrets for RE2: without groups, look-ahead and counts above 1,000."""
    source = re.sub(r"\((?!\?)", "(?:", pattern.pattern.replace(r"(?!\w)", ""))
    source = re.sub(r"\{(\d+),(\d{4,})\}", r"{\1,}", source)
    return f"(?i:{source})" if pattern.flags & re.IGNORECASE else source


def find(text: str) -> Iterator[Span]:
    """Yield where keys, tokens, private keys and passwords in URLs start and end, each to the end of its word."""
    clean = text.encode("utf-8", "replace").decode().replace(_OPEN, "?").replace(_CLOSE, "?")
    array = pa.array([clean], pa.large_string())
    spans: list[Span] = []
    for pattern in _patterns():
        if not re.search(pattern.anchor, clean):
            continue
        reached = 0
        for start, end in _matches(array, pattern):
            if start < reached:  # within the word of the finding before
                continue
            if text[start].isalnum() and text[max(0, start - 1) : start].isalnum():
                continue
            if pattern.check and not pattern.check(text[start:end], text[end : end + 1]):
                continue
            while end < len(text) and (text[end].isalnum() or text[end] in "_-"):
                end += 1
            spans.append((start, end))
            reached = end
    yield from _merged(spans)


def _matches(array: pa.Array, pattern: _Pattern) -> Iterator[Span]:
    """Yield where `pattern` matches in the one text of `array`."""
    marked: str = pc.replace_substring_regex(
        array, f"({pattern.before})({pattern.core})({pattern.after})", rf"\1{_OPEN}\2{_CLOSE}\3"
    )[0].as_py()
    at = 0
    for piece in marked.split(_OPEN):
        finding, close, rest = piece.partition(_CLOSE)
        if close:
            yield at, at + len(finding)
        at += len(finding) + len(rest)


def _merged(spans: list[Span]) -> Iterator[Span]:
    """Yield `spans` in order, overlapping ones as one."""
    last: Span | None = None
    for start, end in sorted(spans):
        if last and start < last[1]:
            last = last[0], max(last[1], end)
            continue
        if last:
            yield last
        last = start, end
    if last:
        yield last
