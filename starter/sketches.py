"""Write sketches: sentences put together freely, in which nearly any noun can meet any verb.

The other genres tell something, and so their sentences recur; from sketches the model learns the words themselves.
A sketch draws a small vocabulary first and keeps to it, so that what was named once is likely to be named again.
"""

import random
from functools import cache
from typing import NamedTuple

from starter.english import Verbs, capitalize, with_article
from starter.grammar import Grammar

_BEFORE_LIVING = ("our", "my", "this", "that", "another", "every", "no")
_BEFORE_THING = ("his", "her", "their", "my", "this", "another", "no")


class Noun(NamedTuple):
    """A noun and how a sentence refers to it."""

    words: str
    alive: bool
    pronoun: str


class Draft(NamedTuple):
    """What every sentence begins from; some forms use only a part of it."""

    subject: str
    pronoun: str
    clause: str


def sketch(rng: random.Random, common: Grammar, grammar: Grammar) -> str:
    """Return a sketch of five to ten sentences."""
    writer = _SketchWriter(rng, common, grammar)
    sentences = [capitalize(writer.sentence()) for _ in range(rng.randint(5, 10))]
    cut = rng.randint(2, len(sentences) - 2)
    gap = "\n\n" if rng.random() < 0.3 else " "
    return " ".join(sentences[:cut]) + gap + " ".join(sentences[cut:])


class _SketchWriter:
    """Writes sentences with the vocabulary of one sketch."""

    def __init__(self, rng: random.Random, common: Grammar, grammar: Grammar) -> None:
        self.rng = rng
        self.grammar = grammar
        self.verbs = _verbs(grammar["irregular"], grammar["doubled"], grammar["doubled_gerund"])
        self.people = [self._draw_person(common) for _ in range(rng.randint(2, 3))]
        things = (*common["rules"]["object"], *grammar["things"])
        self.things = [Noun(_spaced(rng.choice(things)), False, "it") for _ in range(rng.randint(3, 5))]
        self.actions = rng.sample(grammar["actions"], 7)
        self.moves = rng.sample(grammar["moves"], 5)
        self.qualities = [*rng.sample(grammar["qualities"], 6), rng.choice(common["rules"]["colour"])]
        self.places = rng.sample(grammar["places"], 4)

    def _draw_person(self, common: Grammar) -> Noun:
        if self.rng.random() < 0.3:
            name = self.rng.choice((*common["women"], *common["men"]))
            return Noun(name, True, "she" if name in common["women"] else "he")
        if self.rng.random() < 0.75:
            people = (*common["rules"]["job"], *self.grammar["people"])
            return Noun(self.rng.choice(people), True, self.rng.choice(("he", "she")))
        return Noun(self.rng.choice((*common["rules"]["animal"], *self.grammar["creatures"])), True, "it")

    def noun_phrase(self, noun: Noun, known: bool = False) -> str:
        """Return the noun with an article and perhaps more; a `known` thing gets "the"."""
        rng = self.rng
        if noun.words[0].isupper():
            return noun.words
        described = f"{rng.choice(self.qualities)} {noun.words}" if rng.random() < 0.35 else noun.words
        chance = rng.random()
        if known or chance < 0.45:
            phrase = f"the {described}"
        elif chance < 0.75:
            phrase = with_article(described)
        else:
            phrase = f"{rng.choice(_BEFORE_LIVING if noun.alive else _BEFORE_THING)} {described}"
        if rng.random() < 0.12:
            phrase += f" {rng.choice(self.places)}"
        elif rng.random() < 0.08:
            thing = rng.choice(self.things).words
            phrase += rng.choice((f" with the {thing}", f" without {with_article(thing)}"))
        return phrase

    def subject(self) -> tuple[str, str]:
        """Return a noun phrase for a person or a creature, and its pronoun."""
        noun = self.rng.choice(self.people)
        return self.noun_phrase(noun), noun.pronoun

    def object(self) -> str:
        """Return a noun phrase, mostly for a thing."""
        return self.noun_phrase(self.rng.choice(self.things if self.rng.random() < 0.9 else self.people))

    def clause(self, subject: str) -> str:
        """Return what `subject` did, does or will do."""
        kind = self.rng.random()
        action, move = self.rng.choice(self.actions), self.rng.choice(self.moves)
        text = f"{subject} {self._predicate(kind, action, move, self.object())}"
        if self.rng.random() < 0.15:
            text += f" {_spaced(self.rng.choice(self.grammar['manner']))}"
        return text

    def _predicate(self, kind: float, action: str, move: str, target: str) -> str:
        rng, verbs = self.rng, self.verbs
        if kind < 0.4:
            return f"{verbs.past(action)} {target}"
        if kind < 0.6:
            return verbs.past(move) + (f" {rng.choice(self.places)}" if rng.random() < 0.6 else "")
        if kind < 0.68:
            return f"had {verbs.participle(action)} {target}"
        if kind < 0.75:
            gerund = verbs.gerund(rng.choice((move, action)))
            return f"was {gerund}" + (f" {target}" if gerund.endswith(verbs.gerund(action)) else "")
        if kind < 0.82:
            modal = rng.choice(("could", "could not", "would", "would not", "did not", "had to", "wanted to"))
            return f"{modal} {_spaced(action)} {target}"
        if kind < 0.9:
            degree = rng.choice(("", "very ", "too ", "not ", "as "))
            text = f"was {degree}{rng.choice(self.qualities)}"
            if degree == "as ":
                return f"{text} as {self.object()}"
            return f"{text} to {_spaced(action)} {target}" if degree == "too " else text
        return f"{verbs.third_person(action) if kind < 0.95 else 'will ' + _spaced(action)} {target}"

    def sentence(self) -> str:
        """Return one sentence."""
        subject, pronoun = self.subject()
        draft = Draft(subject, pronoun, self.clause(subject))
        kind = self.rng.random()
        form = next(form for limit, form in _FORMS if kind < limit)
        return form(self, draft)

    def statement(self, draft: Draft) -> str:
        """Return the clause alone."""
        return f"{draft.clause}."

    def timed(self, draft: Draft) -> str:
        """Return the clause behind a time."""
        return f"{self.rng.choice(self.grammar['when'])}, {draft.clause}."

    def linked(self, draft: Draft) -> str:
        """Return the clause and another one, joined by a conjunction."""
        link = self.rng.choice(self.grammar["links"])
        other = draft.pronoun if self.rng.random() < 0.6 else self.subject()[0]
        comma = "," if link in ("but", "so", "although", "and then") else ""
        return f"{draft.clause}{comma} {link} {self.clause(other)}."

    def quoted(self, draft: Draft) -> str:
        """Return what the subject says."""
        speech = capitalize(self.clause(self.rng.choice(("I", "we", "you", self.subject()[0]))))
        speech = speech.replace("We was", "We were").replace("You was", "You were")
        if not speech.startswith(("The", "A")):
            for third_person, base in self._agreement():
                speech = speech.replace(third_person, base)
        mark = self.rng.choice((",", ",", "!", "?"))
        return f'"{speech}{mark}" {self.rng.choice(self.grammar["sayings"])} {draft.subject}.'

    def _agreement(self) -> list[tuple[str, str]]:
        """Return "I takes " and "I take " for each verb and each of I, we and you."""
        actions = self.grammar["actions"]
        pairs = [(self.verbs.third_person(verb), _spaced(verb)) for verb in actions]
        return [(f"{who} {third} ", f"{who} {base} ") for who in ("I", "We", "You") for third, base in pairs]

    def existential(self, draft: Draft) -> str:
        """Return that there was a thing."""
        place = self.rng.choice(self.places)
        thing = self.noun_phrase(self.rng.choice(self.things))
        return f"there was {thing} {place}{self.rng.choice(('', ', and nobody knew why', ', as everybody knew'))}."

    def passive(self, draft: Draft) -> str:
        """Return what the subject did to a thing."""
        thing = self.noun_phrase(self.rng.choice(self.things), known=True)
        participle = self.verbs.participle(self.rng.choice(self.actions))
        auxiliary = self.rng.choice(("was", "had been", "would be", "could not be"))
        return f"{thing} {auxiliary} {participle} by {draft.subject}."

    def reported(self, draft: Draft) -> str:
        """Return what the subject says that somebody did."""
        other = self.subject()[0]
        return f"{draft.subject} {self.verbs.past(self.rng.choice(self.grammar['tells']))} that {self.clause(other)}."

    def subordinate(self, draft: Draft) -> str:
        """Return the clause as the condition or the time of another one."""
        link = self.rng.choice(("when", "because", "if", "although", "as soon as", "while", "before", "after"))
        return f"{link} {draft.clause}, {self.clause(draft.pronoun)}."

    def unknown(self, draft: Draft) -> str:
        """Return the clause as an indirect question."""
        return f"nobody knew {self.rng.choice(('why', 'how', 'when', 'where', 'whether'))} {draft.clause}."

    def proverb(self, draft: Draft) -> str:
        """Return advice on the order of two actions."""
        thing = with_article(self.rng.choice(self.things).words)
        action, other = _spaced(self.rng.choice(self.actions)), _spaced(self.rng.choice(self.actions))
        return f"never {action} {thing} before you {other} {self.object()}."

    def question(self, draft: Draft) -> str:
        """Return a question about the subject."""
        action = _spaced(self.rng.choice(self.actions))
        auxiliary = self.rng.choice(("did", "could", "would", "why did", "how could"))
        return f"{auxiliary} {draft.subject} {action} {self.object()}?"


_FORMS = (  # cumulative probabilities
    (0.22, _SketchWriter.statement),
    (0.36, _SketchWriter.timed),
    (0.54, _SketchWriter.linked),
    (0.62, _SketchWriter.quoted),
    (0.7, _SketchWriter.existential),
    (0.77, _SketchWriter.passive),
    (0.83, _SketchWriter.reported),
    (0.88, _SketchWriter.subordinate),
    (0.92, _SketchWriter.unknown),
    (0.96, _SketchWriter.proverb),
    (1.0, _SketchWriter.question),
)


@cache
def _verbs(irregular: tuple[str, ...], doubled: tuple[str, ...], doubled_gerund: tuple[str, ...]) -> Verbs:
    return Verbs(irregular, doubled, doubled_gerund)


def _spaced(words: str) -> str:
    return words.replace("-", " ")
