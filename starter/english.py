"""English spelling rules that a grammar needs: articles, capitals, pronouns and verb forms."""

import re
from collections.abc import Iterable

PRONOUNS = {
    "m": {"he": "he", "him": "him", "his": "his", "himself": "himself"},
    "f": {"he": "she", "him": "her", "his": "her", "himself": "herself"},
}


def with_article(words: str) -> str:
    """Return `words` behind "a" or "an", by the sound they begin with."""
    silent_h = re.match(r"(hour|honest|heir|honou?r)", words, re.IGNORECASE)
    spoken_consonant = re.match(r"(uni([^nm]|$)|use|usu|eu|one\b|once\b|ewe)", words, re.IGNORECASE)
    vowel = words[:1].lower() in "aeiou" and not spoken_consonant
    return f"{'an' if vowel or silent_h else 'a'} {words}"


def capitalize(words: str) -> str:
    """Return `words` with a capital first letter and the rest unchanged."""
    return words[:1].upper() + words[1:]


class Verbs:
    """Inflects verbs from their base form; "look-at" is a verb with a preposition, which follows the ending."""

    def __init__(self, irregular: Iterable[str], doubled: Iterable[str], doubled_gerund: Iterable[str]) -> None:
        """Take "go went gone" for each irregular verb, and the verbs that double their last letter.

        Those in `doubled` do so before "-ed" and "-ing", those in `doubled_gerund` before "-ing" only.
        """
        self._irregular = {base: (past, participle) for base, past, participle in map(str.split, irregular)}
        self._doubled = frozenset(doubled)
        self._doubled_gerund = self._doubled | frozenset(doubled_gerund)

    def past(self, verb: str) -> str:
        """Return the simple past: "looked at"."""
        head, preposition = _split(verb)
        head, _, rest = head.partition(" ")
        past = self._irregular[head][0] if head in self._irregular else self._regular(head)
        return f"{past}{' ' + rest if rest else ''}{preposition}"

    def participle(self, verb: str) -> str:
        """Return the past participle: "looked at"."""
        head, preposition = _split(verb)
        return (self._irregular[head][1] if head in self._irregular else self._regular(head)) + preposition

    def gerund(self, verb: str) -> str:
        """Return the "-ing" form: "looking at"."""
        head, preposition = _split(verb)
        if head in ("lie", "die", "tie", "untie"):
            return head[:-2] + "ying" + preposition
        if head.endswith("e") and not head.endswith("ee"):
            return head[:-1] + "ing" + preposition
        return (head + head[-1] if head in self._doubled_gerund else head) + "ing" + preposition

    def third_person(self, verb: str) -> str:
        """Return the third person singular: "looks at"."""
        head, preposition = _split(verb)
        if head in ("have", "go"):
            return {"have": "has", "go": "goes"}[head] + preposition
        if head.endswith("y") and head[-2] not in "aeiou":
            return head[:-1] + "ies" + preposition
        return head + ("es" if head.endswith(("s", "sh", "ch", "x", "o")) else "s") + preposition

    def _regular(self, verb: str) -> str:
        if verb.endswith("e"):
            return verb + "d"
        if verb.endswith("y") and verb[-2] not in "aeiou":
            return verb[:-1] + "ied"
        return (verb + verb[-1] if verb in self._doubled else verb) + "ed"


def _split(verb: str) -> tuple[str, str]:
    """Return the verb, and its preposition behind a space or ""."""
    head, _, preposition = verb.partition("-")
    return head, f" {preposition}" if preposition else ""
