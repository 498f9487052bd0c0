"""Write one text of a genre: what is drawn once for the whole text, and how its sentences are put together.

The sentences themselves are in `genres/*.yaml`. The order of the draws decides what a seed writes, and the starter
model and `pipeline/evaluation/general.csv` were made from these texts: keep it.
"""

import random
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from starter.english import PRONOUNS
from starter.grammar import Grammar, Rules, compose, deal, expand, join, join_paragraphs, read_grammar
from starter.sketches import sketch

GENRES = Path(__file__).parent / "genres"


def write(genre: str, rng: random.Random) -> str:
    """Return one text of `genre` whose number of words is within the bounds in its file."""
    common, grammar = read_grammar(GENRES / "words.yaml"), read_grammar(GENRES / f"{genre}.yaml")
    shortest, longest = grammar.get("words", (0, sys.maxsize))
    while True:
        text = _WRITERS[genre](rng, common, grammar)
        if shortest <= len(text.split()) <= longest:
            return text


def dialogue(rng: random.Random, common: Grammar, grammar: Grammar) -> str:
    """Return a conversation between two people."""
    rules = common["rules"] | grammar["rules"]
    bound = two_people(rng, common)
    for symbol in ("object", "relative"):
        bound[symbol] = rng.choice(common["rules"][symbol])
    speakers = {
        "1": {key: bound[key] for key in ("name", "he", "his")},
        "2": {key: bound[key + "2"] for key in ("name", "he", "his")},
    }
    opening, *turn_choices = rng.choice(grammar["scenes"])
    parts: list[list[str]] = [[rng.choice(opening).removeprefix("-:")]]
    if rng.random() < 0.3:
        parts[0].insert(0, "{weather_line}")
    inline = rng.random() < 0.35
    tagless = 0.0 if inline else rng.random()
    turns = [turn for choices in turn_choices for turn in rng.choice(choices).split(">>")]
    spoken: set[str] = set()
    for turn in turns:
        speaker, _, line = turn.partition(":")
        if speaker == "-":
            parts.append([line])
        elif line:
            line = expand(rng, rules, line, **bound)
            parts.append([_quote(rng, grammar, speakers[speaker], line, speaker not in spoken, tagless)])
            spoken.add(speaker)
    if rng.random() < 0.15:
        del parts[rng.randrange(len(parts) - 3, len(parts)) + 1 :]
    expanded = [" ".join(expand(rng, rules, line, **bound) for line in part) for part in parts]
    return " ".join(expanded) if inline else "\n\n".join(expanded)


def _quote(
    rng: random.Random, grammar: Grammar, speaker: Mapping[str, str], line: str, first_turn: bool, tagless: float
) -> str:
    """Return `line` in quotation marks, mostly with words about who says it (`tagless` from 0 to 1: less often)."""
    kind = rng.random()
    verbs = {mark: rng.choice(grammar[key]) for mark, key in (("?", "asked"), ("!", "cried"), (",", "said"))}
    end = line[-1] if line[-1] in "?!" else ","
    verb = verbs[end]
    who = speaker["name"] if first_turn or rng.random() < 0.6 else speaker["he"]
    if first_turn and verb in ("replied", "answered", "murmured"):
        verb = "said"
    tag = f"{who} {verb}"
    if verb in ("said", "asked", "replied", "answered", "cried", "shouted") and who != speaker["he"]:
        tag = f"{verb} {who}" if rng.random() < 0.6 else tag
    if rng.random() < 0.3 and " " not in verb:
        tag += f" {rng.choice(grammar['manner'])}"
    if kind < 0.15 + 0.45 * tagless or speaker["name"] in line:
        return f'"{line}"'
    if kind < 0.8 and ". " not in line:
        return f'"{line[:-1]}{end}" {tag}.'
    first, dot, rest = line.partition(". ")
    if dot and "?" not in first and "!" not in first:
        return f'"{first}," {who} said. "{rest}"'
    action = expand(rng, {}, rng.choice(grammar["actions"]), **speaker)
    return f'{action} "{line}"' if rng.random() < 0.7 else f'"{line}" {action}'


def diary(rng: random.Random, common: Grammar, grammar: Grammar) -> str:
    """Return a diary entry on one to four topics."""
    rules = common["rules"] | grammar["rules"]
    bound = two_people(rng, common)
    bound["pet"] = rng.choice(rules["pet"])
    head = expand(rng, rules, "{head}", **bound)
    paragraphs: list[list[str]] = [[rng.choice(rules["opening"])] if rng.random() < 0.8 else []]
    for number, topic in enumerate(rng.sample(grammar["topics"], rng.choice((1, 2, 2, 3, 3, 4)))):
        sentences = [rng.choice(choices) for choices in topic]
        if number and rng.random() < 0.5:
            paragraphs.append(sentences)
        else:
            paragraphs[-1] += [rng.choice(rules["link"]), *sentences] if number else sentences
    if rng.random() < 0.4:
        paragraphs.append([])
    paragraphs[-1] += rng.sample(rules["closing"], rng.choice((0, 1, 1, 2)))
    return join_paragraphs([head, *_expand_all(rng, rules, paragraphs, bound)])


def explain(rng: random.Random, _common: Grammar, grammar: Grammar) -> str:
    """Return an explanation: facts in order, without those that the shape has no room for."""
    question = rng.choice(tuple(grammar["topics"]))
    shape = rng.choice(grammar["shapes"])
    facts = list(grammar["topics"][question])
    while len(facts) > shape.count("F"):  # never the fact that a "+" refers to
        free = [i for i in range(1, len(facts)) if i + 1 == len(facts) or not facts[i + 1].startswith("+")]
        del facts[rng.choice(free)]
    facts.reverse()
    text = ""
    for letter in shape:
        if letter == "F":
            text += facts.pop().removeprefix("+") + " " if facts else ""
        elif letter != "J" or (facts and not facts[-1].startswith("+")):
            text += {"O": "{open} ", "J": "{join} ", "E": "{end} ", "/": "\n\n"}[letter]
    return compose(rng, grammar["rules"], text, {"q": question})


def guides(rng: random.Random, _common: Grammar, grammar: Grammar) -> str:
    """Return instructions, as a numbered list or as prose."""
    rules = grammar["rules"]
    (task, doing, needs, tip), steps = rng.choice(grammar["tasks"])
    bound = dict(zip(("v1", "v2"), rng.sample(rules["veg"], 2), strict=True))
    bound["f1"] = rng.choice(rules["fruit"])
    bound["task"] = expand(rng, rules, task, **bound)
    bound["doing"] = expand(rng, rules, doing, **bound)
    parts = {
        "T": "How to {task}\n\n",
        "O": "{open} ",
        "N": needs + " ",
        "W": tip + " ",
        "E": "{end} ",
        "S": _steps(rng, steps, grammar["unordered"]) + " ",
        "/": "\n\n",
        " ": " ",
    }
    return compose(rng, rules, "".join(parts[letter] for letter in rng.choice(grammar["shapes"])), bound)


def _steps(rng: random.Random, steps: Sequence[str], unordered: Sequence[str]) -> str:
    """Return the steps, some optional ones left out, as a numbered list or as sentences."""
    steps = [step.removeprefix("?") for step in steps if not step.startswith("?") or rng.random() < 0.6]
    style = rng.randrange(3)
    if style == 0:
        return "\n\n" + "\n".join(f"{number}. {step}." for number, step in enumerate(steps, 1)) + "\n\n"
    if steps[0].startswith(tuple(unordered)):
        return " ".join(f"{step}." for step in steps)
    sentences: list[str] = []
    at, last = 0, len(steps) - 1
    while at <= last:
        lead = "{first} " if at == 0 else "{last} " if at == last else "{next} "
        if steps[at].startswith("do not"):
            lead = ""
        sentence = steps[at]
        if style == 1 and 0 < at < last - 1 and rng.random() < 0.4 and " and " not in sentence:
            at += 1
            sentence += f"[, and then| and] {steps[at]}"
        sentences.append(f"{lead}{sentence}.")
        at += 1
    return " ".join(sentences)


def letters(rng: random.Random, common: Grammar, grammar: Grammar) -> str:
    """Return a letter or an e-mail with its greeting and its close."""
    rules = common["rules"] | grammar["rules"]
    bound = _correspondents(rng, common, rules)
    kind = rng.choice(grammar["kinds"])
    (manner,), subjects, steps = kind["manner"], kind["subjects"], list(kind["body"])
    informal = manner in ("friend", "family")
    if subjects[0] not in ("Sorry", "Get well soon") and informal and rng.random() < 0.7:
        steps.insert(-1, rules["aside"])
    body: list[list[str]] = [[]]
    for choices in steps:
        sentence = rng.choice(choices)
        if sentence.startswith("/"):
            body.append([])
        body[-1].append(expand(rng, rules, sentence.removeprefix("/"), **bound))
    sender = bound["name"]
    if manner == "formal" or (manner == "neighbour" and rng.random() < 0.5):
        sender += " " + rng.choice(common["rules"]["surname"])
    greeting = expand(rng, rules, f"{{greeting_{manner}}}", **bound)
    end = expand(rng, rules, f"{{end_{manner}}}", **bound)
    if greeting.startswith("Dear Sir"):
        end = "Yours faithfully,"
    elif end == "Yours faithfully,":
        end = "Yours sincerely,"
    head = ""
    if rng.random() < (0.2 if manner == "friend" else 0.5) and manner not in ("family", "neighbour"):
        head = "Subject: " + expand(rng, rules, rng.choice(subjects), **bound)
    elif rng.random() < 0.25:
        head = expand(rng, rules, "{date}", **bound)
    return join_paragraphs([head, greeting, *map(join, body), f"{end}\n{sender}"])


def _correspondents(rng: random.Random, common: Grammar, rules: Rules) -> dict[str, str]:
    """Return the bindings of a letter: the writer, a third person, the reader, and what belongs to them."""
    bound = two_people(rng, common)
    bound["to"] = _person(rng, common, but=bound["name"])[0]
    bound["surname_to"] = rng.choice(rules["surname"])
    for symbol in ("job", "child", "goods", "pet"):
        bound[symbol] = rng.choice(rules[symbol])
    second_is_woman = bound["he2"] == "she"
    if bound["child"] == ("son" if second_is_woman else "daughter"):
        bound["child"] = "daughter" if second_is_woman else "son"
    bound["child_me"] = "son" if bound["he"] == "he" else "daughter"
    return bound


def news(rng: random.Random, _common: Grammar, grammar: Grammar) -> str:
    """Return a local news report."""
    rules = grammar["rules"]
    kind = grammar["kinds"][rng.choice(tuple(grammar["kinds"]))]
    woman = rng.random() < 0.5
    bound = {
        "first": rng.choice(grammar["women" if woman else "men"]),
        "last": rng.choice(grammar["surnames"]),
        "she": "she" if woman else "he",
        "her": "her" if woman else "his",
        "place": rng.choice(grammar["ordinal"]),
        "town": rng.choice(rules["town"]),
        "street": rng.choice(rules["street"]),
    }
    for symbol, choices in kind["bind"].items():
        bound[symbol] = expand(rng, rules, rng.choice(choices), **bound)
    return compose(rng, rules, deal(rng, rng.choice(grammar["shapes"]), kind["lines"]), bound)


def places(rng: random.Random, _common: Grammar, grammar: Grammar) -> str:
    """Return a description of a place or a season."""
    rules = grammar["rules"]
    kind = rng.choice(tuple(grammar["kinds"]))
    bound = {symbol: rng.choice(choices) for symbol, choices in grammar["bind"].items()}
    bound["shop"], bound["shop2"] = rng.sample(rules["shop"], 2)
    lines = {**grammar["kinds"][kind], "E": rules["verdict"]}
    if kind == "season":
        lines["D"] = lines["D"][bound["season"]]
    return compose(rng, rules, deal(rng, rng.choice(grammar["shapes"]), lines), bound)


def service(rng: random.Random, _common: Grammar, grammar: Grammar) -> str:
    """Return a conversation with a customer, or a review."""
    rules = grammar["rules"]
    bound = {symbol: expand(rng, rules, rng.choice(choices)) for symbol, choices in grammar["bind"].items()}
    bound["color"], bound["color2"] = rng.sample(rules["color"], 2)
    if rng.random() < 0.6:
        shape = rng.choice(grammar["conversations"])
        text = _customer_conversation(rng, shape, grammar["topics"][rng.choice(tuple(grammar["topics"]))])
    else:
        lines = grammar["products"][rng.choice(tuple(grammar["products"]))]
        text = deal(rng, rng.choice(grammar["reviews"]), lines)
    after_label = re.compile(r"((?:^|[.!?] |\.\" |: |\n)\"?)([a-z])")  # a sentence also starts behind "Question: "
    return compose(rng, rules, text, bound, after_label)


def _customer_conversation(rng: random.Random, shape: str, topic: Rules) -> str:
    """Return the parts of a question and its answer in the order of `shape`."""
    decks = {letter: rng.sample(lines, len(lines)) for letter, lines in topic.items()}
    close = "{bye}\n\n{sign}" if rng.random() < 0.3 else "{bye} "
    question, answer = rng.choice((("Question: ", "Answer: "), ("Customer: ", "Agent: "), ("Q: ", "A: ")))
    parts = {"G": "{hello}\n\n", "H": "{thank} ", "K": "{ask} ", "Z": close, "F": question, "U": answer}
    parts |= {"/": "\n\n", "g": "", "h": "", "w": "{thanks} ", "z": ""}
    quotes = {"q": '"', "a": '"{thank} '}
    text = ""
    for letter in shape:
        if letter in parts:
            text += parts[letter]
        elif letter.islower() or decks[letter]:
            text += quotes.get(letter, "") + decks[letter.upper()].pop() + " "
    if shape[0] in "gq":
        text = re.sub(r"(?<=[.?]) (?=\n|$)", '" ', text, count=2).replace('"" ', '" ')
    return text


def stories(rng: random.Random, common: Grammar, grammar: Grammar) -> str:
    """Return a story: a scene, a plot that may belong to its setting, and a moral."""
    setting = rng.choice(tuple(grammar["settings"]))
    rules = common["rules"] | grammar["rules"] | grammar["settings"][setting]
    bound = two_people(rng, common)
    for symbol in grammar["fixed"]:
        bound[symbol] = expand(rng, rules, rng.choice(rules[symbol]), **bound)
    spots = rng.sample(rules["spot"], len(rules["spot"]))
    rules["spot"], rules["spot_b"] = spots[:2], spots[2:]  # one sentence can name two different ones
    bound["animal"] = rng.choice(rules["small_animal"])
    bound["thing"] = expand(rng, rules, "{thing}")
    bound["food"] = rng.choice(common["rules"]["food"])

    local_plots = grammar["local_plots"].get(setting)
    local = local_plots and rng.random() < 0.35
    plot = rng.choice(local_plots if local else tuple(grammar["plots"].values()))
    scene = [rng.choice(rules["opening"])]
    extras = ["{trait_sentence}", "{detail}", "{weather_past}"]
    rng.shuffle(extras)
    scene += extras[: rng.choice((0, 1, 1, 2, 2, 3))]
    if scene[-1] != "{trait_sentence}" and rng.random() < 0.15:
        scene.insert(0, scene.pop())
    sentences = [*filter(None, [rng.choice(choices) for choices in plot])]
    cuts = sorted(rng.sample(range(1, len(sentences)), rng.choice((0, 1, 1, 2))))
    runs = [sentences[start:end] for start, end in zip([0, *cuts], [*cuts, len(sentences)], strict=True)]
    paragraphs = [scene, *runs[:-1], [*runs[-1], "{moral}"]]
    if rng.random() < 0.25:
        paragraphs = [[sentence for paragraph in paragraphs for sentence in paragraph]]
    return join_paragraphs(_expand_all(rng, rules, paragraphs, bound))


def two_people(rng: random.Random, common: Grammar) -> dict[str, str]:
    """Return bindings for two people whose pronouns differ, those of the second with the suffix 2."""
    first, gender = _person(rng, common)
    other = "f" if gender == "m" else "m"
    second, _ = _person(rng, common, but=first, gender=other)
    return _bind_person(first, gender) | {f"{key}2": word for key, word in _bind_person(second, other).items()}


def _person(rng: random.Random, common: Grammar, but: str = "", gender: str = "") -> tuple[str, str]:
    """Return a name, never `but`, and its gender ("m" or "f"); only of `gender` if one is given."""
    people = [(name, g) for g, names in (("f", common["women"]), ("m", common["men"])) for name in names]
    return rng.choice([person for person in people if person[0] != but and gender in ("", person[1])])


def _bind_person(name: str, gender: str) -> dict[str, str]:
    man, boy = ("man", "boy") if gender == "m" else ("woman", "girl")
    return {"name": name, **PRONOUNS[gender], "man": man, "boy": boy}


def _expand_all(
    rng: random.Random, rules: Rules, paragraphs: Sequence[Sequence[str]], bound: Mapping[str, str]
) -> list[str]:
    return [join(expand(rng, rules, sentence, **bound) for sentence in paragraph) for paragraph in paragraphs]


_WRITERS: dict[str, Callable[[random.Random, Grammar, Grammar], str]] = {
    "dialogue": dialogue,
    "diary": diary,
    "explain": explain,
    "guides": guides,
    "letters": letters,
    "news": news,
    "places": places,
    "service": service,
    "sketches": sketch,
    "stories": stories,
}
