"""Sketches: sentences put together freely from wide lists of words, so that the model learns the words themselves.

The other genres tell something, and so their sentences recur; here nearly any noun can meet any verb. A sketch draws
a small stock of words first and keeps to it, so that what was named once is likely to be named again.
"""

import random
from typing import NamedTuple

from starter.genres.words import ANIMALS, COLOURS, JOBS, NAMES, OBJECTS
from starter.grammar import capitalize, with_article


def _words(text: str) -> tuple[str, ...]:
    """Return the words of `text`."""
    return tuple(text.split())


def _rows(text: str) -> tuple[str, ...]:
    """Return what stands between the bars of `text`, lines joined."""
    return tuple(" ".join(row.split()) for row in text.split("|"))


PEOPLE = (
    *JOBS,
    *_words(
        """mother father sister brother bosun stoker matron purser ploughman goatherd bookseller toymaker
        schoolmistress schoolmaster stationmaster hatter huntsman lookout washerwoman fiddler sculptor actress
        dishwasher milkmaid waitress seamstress rower planter collector docker fishwife chef mate grower digger
        burner bidder buyer worker helper keeper deckhand cook aunt uncle cousin grandmother grandfather
        neighbour stranger guest child girl boy woman man friend king queen prince princess knight soldier
        captain sailor fisherman pilot judge lawyer thief beggar monk priest poet painter singer dancer drummer
        clown magician giant dwarf witch wizard hermit shepherd hunter miller weaver potter cobbler blacksmith
        butcher grocer barber clerk porter servant maid butler steward guard sergeant general admiral mayor
        minister president secretary treasurer inspector detective reporter editor librarian professor student
        scientist chemist astronomer engineer inventor mechanic electrician plumber mason carpenter roofer
        gardener forester ranger guide traveller tourist passenger driver conductor ferryman rider jockey swimmer
        climber referee dentist surgeon pharmacist nurse patient banker broker merchant trader peddler customer
        landlord tenant owner widow bride groom twin orphan veteran apprentice master boss colleague partner
        rival enemy hero coward fool liar prophet ghost dragon monster rogue cheesemaker lamplighter clockmaker
        ropemaker woodcutter beekeeper innkeeper bookbinder watchman chimney-sweep fortune-teller"""
    ),
)
CREATURES = (
    *ANIMALS,
    *_words(
        """owl crow raven pelican walrus otter goose whale shrimp clam cuckoo jellyfish hen sheep oyster octopus
        penguin gull swan duck rooster peacock parrot sparrow swallow eagle hawk stork heron robin fox wolf bear
        deer hare rabbit squirrel badger beaver hedgehog mole bat mouse rat donkey mule pony ox calf lamb kid pig
        puppy kitten lion tiger elephant monkey camel seal dolphin shark eel herring cod salmon trout crab
        lobster snail frog toad lizard snake turtle bee wasp ant spider butterfly moth beetle"""
    ),
)
THINGS = (
    *OBJECTS,
    *_words(
        """anchor apron arrow tide flood chart barge bunk cabin lighthouse ballast foghorn gale note keel canal
        barrel leak hatch tiller mooring pastry drip squall buoy bilge wreck sack hawser cable knee bucket crust
        carrot chowder broth sense debt moral errand pride courage truck lodge finger elbow pea oak signal plug
        hull railway hut figure chocolate opera helm flower shilling rent reef hemp twine plum toothache seaweed
        guinea wave breeze oilskin depot fairway galley diamond bathtub chest crate cocoa cider crack drain
        figurehead wharf cove lagoon raft jetty dock breakwater compass sextant halyard rigging hold cargo yarn
        foam shoal cliff sand pebble shell mast sailcloth tar rum grog oath whisker axe bag ball balloon banner
        basin basket bed bell belt bench biscuit blanket boat bolt bone book boot bottle bow bowl box bracelet
        branch brick bridge broom brush bundle button cabbage cabinet cage cake candle cannon cap card carpet
        cart cask chain chair clock cloak cloth coat coffin coin comb cork crown cup curtain cushion dagger desk
        dish dictionary doll door doorbell drawer dress drum egg engine envelope fan feather fence fiddle flag
        flask flute fork fountain frame garland gate glass globe glove goblet guitar hammer hammock handkerchief
        harp hat helmet hook horn hourglass inkwell instrument jar jewel jug kettle key knife knot ladder lamp
        lantern lid lens letter lock log loaf locket machine map mask mat match medal melon microscope mirror
        moon mop mug nail napkin necklace needle nest net newspaper notebook oar onion oven paddle page pail pan
        parcel pearl pen pencil piano picture pie pillow pin pipe plank plate plough pocket pole portrait pot
        potato prescription pulley pump pumpkin purse puzzle quill rail ring rope rose rudder rug saddle sail
        saucer saw scale scarf scissors-case screw seal seed shawl sheet shelf shield ship shirt shoe shovel sign
        sink skirt sled soap spade spoon stamp star statue stick stocking stone stool stove string suitcase sword
        table tablecloth tail tangle tankard tent telescope thimble thread throne ticket tile timber toolbox
        tooth torch towel tower toy trap tray treasure trousers-press trumpet trunk turnip umbrella vase veil
        violin wagon walnut wall wallet watch wheel whip whistle wig window wing wire wooden-leg wreath yoke"""
    ),
)
PLACES = _rows(
    """in the kitchen|in the attic|in the cellar|in the garden|in the yard|in the barn|in the stable|in the
    orchard|in the vineyard|in the meadow|in the forest|in the desert|in the valley|in the marsh|in the cave|in
    the mine|in the harbour|in the village|in the city|in the old town|in the suburbs|in the square|in the
    street|in the alley|in the market|in the fish market|in the bakery|in the workshop|in the forge|in the
    mill|in the factory|in the warehouse|in the office|in the bank|in the court|in the town hall|in the school|in
    the classroom|in the library|in the museum|in the theatre|in the concert hall|in the church|in the chapel|in
    the tower|in the castle|in the palace|in the dungeon| in the laboratory|in the lab|in the hospital|in the
    pharmacy|in the observatory|in the station|in the tunnel|in the carriage|in the tram|in the hotel|in the
    inn|in the tavern|in the restaurant|in the cafe|in the hat shop|in the shoe shop|in the bookshop|in the
    reading room|in the gallery|in the circus|in the zoo|in the park|in the prison|in the camp|in the tent|in the
    boat|in the snow|in the rain|in the fog|in the dark|in the moonlight|in a distant land|in a far country|in
    the north|in the south|in the east|in the west|on the hill|on the mountain|on the island|on the beach|on the
    river|on the bridge|on the roof|on the stairs|on the balcony|on the doorstep|on the farm|on the road|on the
    train|on the ship|on the deck|on the pier|on the quay|on the shelf|on the table|on the bench|on the floor|on
    the wall|at the window|at the door|at the gate|at the counter|at the well|at the mill|at the station|at the
    harbour|at the crossroads|at the end of the street|at the edge of the forest|at the top of the stairs|at the
    bottom of the lake|at sea|at home|at school|at work|at court|under the bed|under the bridge|under the old
    oak|behind the curtain|behind the stove|behind the church|beside the road|beside the river|near the sea|near
    the border|between two hills|across the bay|along the shore|beyond the
    mountains|upstairs|downstairs|outside|next door|far from home"""
)
WHEN = _rows(
    """one morning|one evening|one night|one day|one spring|one wet morning|one cold night|at dawn|at noon|at
    dusk|at midnight|at sunrise|at sunset|in the morning|in the evening|in the end|in the meantime|in spring|in
    summer|in autumn|in winter|in April|in June|in October|in December|on Monday|on Sunday|on Friday|on a windy
    day|on market day|last week|last year|the next day|the same evening|before breakfast|after supper|after the
    storm|before the frost|before the war|after the rain|by the next morning|by dawn|by nightfall|for three
    days|for seven years|for an hour|for six weeks|for a whole winter|long ago|years later|a week later|an hour
    later|soon afterwards|from time to time|now and then|every morning|every night|every summer|all day|all
    winter|once a year|twice a week|at last|at first|at once|sooner or later|until the spring|since then|this
    time|that night"""
)
MANNER = _words(
    """slowly quickly quietly loudly gently roughly carefully carelessly patiently bravely calmly angrily sadly
    happily proudly politely rudely secretly openly suddenly honestly wisely foolishly firmly softly tirelessly
    eagerly gladly kindly sternly nervously silently steadily badly neatly cheaply safely again alone together
    at-once"""
)
QUALITIES = _words(
    """young old tall short slack modest thrifty restless lanky dreamy gruff jolly ambitious stormy foggy misty
    frosty stubborn shipshape drowned fried smoked oiled stuck odd common hopeful glum limp solid thin fat strong
    weak rich poor happy sad angry calm brave shy proud humble clever foolish wise kind cruel gentle rough polite
    rude honest lazy busy patient careful careless curious quiet loud noisy silent famous unknown lonely tired
    hungry thirsty sleepy sick healthy blind deaf lame bald bearded red-haired grey-haired good-natured
    hard-working absent-minded cheerful gloomy grumpy merry solemn strange ordinary lovely ugly pretty beautiful
    handsome plain simple elegant ragged dirty clean neat untidy wet dry damp hot cold warm cool frozen burnt
    fresh stale sweet sour bitter salty ripe rotten hard soft stiff smooth sharp blunt thick narrow wide deep
    shallow high low long broad round square flat hollow empty full heavy light big large huge great small tiny
    little new ancient modern broken whole torn bent straight crooked loose tight open closed locked hidden lost
    found stolen borrowed forgotten precious cheap costly golden silver wooden iron brass copper glass stone
    leather woollen silk painted polished rusty dusty muddy shiny bright dark pale black white red blue green
    yellow brown grey purple pink orange striped spotted dangerous safe wild tame fierce timid swift slow sudden
    steady lucky unlucky guilty innocent free useful useless necessary possible impossible easy difficult certain
    doubtful true false real secret private public royal holy magic mysterious distant near foreign local
    northern southern eastern western sleepless nameless endless hopeless weather-beaten second-hand"""
)
_IRREGULAR = {
    verb: (past, participle)
    for verb, past, participle in (
        row.split()
        for row in _rows(
            """begin began begun|bend bent bent|bite bit bitten|blow blew blown|break broke broken|bring brought
            brought|build built built|burn burnt burnt|buy bought bought|catch caught caught|choose chose
            chosen|come came come|cut cut cut|dig dug dug|draw drew drawn|drink drank drunk|drive drove
            driven|eat ate eaten|fall fell fallen|feed fed fed|feel felt felt|fight fought fought|find found
            found|fly flew flown|forget forgot forgotten|forgive forgave forgiven|freeze froze frozen|get got
            got|give gave given|go went gone|grow grew grown|hang hung hung|have had had|hear heard heard|hide
            hid hidden|hit hit hit|hold held held|hurt hurt hurt|keep kept kept|know knew known|lay laid
            laid|lead led led|leave left left|lend lent lent|let let let|lie lay lain|light lit lit|lose lost
            lost|make made made|mean meant meant|meet met met|pay paid paid|put put put|read read read|ride rode
            ridden|ring rang rung|rise rose risen|run ran run|say said said|see saw seen|sell sold sold|send sent
            sent|shake shook shaken|shine shone shone|shut shut shut|sing sang sung|sink sank sunk|sit sat
            sat|sleep slept slept|speak spoke spoken|spend spent spent|stand stood stood|steal stole stolen|sweep
            swept swept|swim swam swum|take took taken|teach taught taught|tear tore torn|tell told told|think
            thought thought|throw threw thrown|understand understood understood|wake woke woken|wear wore
            worn|weep wept wept|win won won|write wrote written|swear swore sworn|weave wove woven|creep crept
            crept|dream dreamt dreamt|kneel knelt knelt"""
        )
    )
}
ACTIONS = _words(
    """bend bite break bring steer moor splice bail tow caulk lash stow trim coil drag bribe slip block obey heed
    chew earn owe build burn buy catch choose cut draw drop eat feed find forget get give hang have hear hide hit
    hold hurt keep know lay lead leave lend light lose make meet paint pay pull push put read ring see sell send
    shake shut steal sweep take tear throw wake wear win write carry cover count clean close cook copy cross
    curse deliver describe destroy discover empty envy examine fetch fill fix fold follow gather guard haul help
    hoist ignore inspect inherit kick kiss lift load lock love measure mend mind miss move name need notice offer
    open order pack patch pick plant polish pour praise press promise protect prove raise reach recognise refuse
    remember remove repair replace rescue return roll row rub save scrub search serve share show sign smell sort
    spoil stack stir store stuff swallow tame taste tie touch trade trust try tune turn unlock untie use visit
    want warm wash watch weigh welcome whip whistle-at wind wish-for wrap look-for look-at wait-for ask-for
    laugh-at listen-to point-at talk-about think-of dream-of pay-for care-for run-after stumble-over"""
)
MOVES = _words(
    """arrive begin bow drift float slip pile row argue boast grumble shuffle breathe climb come cough creep cry
    dance dig disappear dream drink fall fight fly freeze giggle go grin grow hesitate hurry jump kneel knock
    laugh lie listen march mutter nod pause play pray rest return ride rise run sail shine shiver shout sigh sing
    sink sit sleep smile snore sneeze speak stand stay stop stumble swear swim talk tremble turn vanish wait wake
    walk wander watch weep whisper whistle work worry yawn"""
)
TELLS = (
    "say",
    "tell everyone",
    "think",
    "believe",
    "know",
    "hear",
    "swear",
    "write",
    "feel",
    "forget",
    "notice",
    "hope",
)
LINKS = ("and", "but", "so", "and then", "while", "because", "until", "although", "when", "before", "after", "as if")
SAYINGS = ("said", "asked", "cried", "whispered", "muttered", "answered", "replied", "shouted", "called", "laughed")


class Noun(NamedTuple):
    """A noun with its adjective, and how it is spoken of."""

    words: str
    alive: bool
    pronoun: str


class Stock(NamedTuple):
    """The words that one sketch keeps to."""

    people: list[Noun]
    things: list[Noun]
    actions: list[str]
    moves: list[str]
    qualities: list[str]
    places: list[str]


def write(rng: random.Random) -> str:
    """Return one sketch of five to ten sentences."""
    stock = _stock(rng)
    sentences = [capitalize(_sentence(rng, stock)) for _ in range(rng.randint(5, 10))]
    cut = rng.randint(2, len(sentences) - 2)
    gap = "\n\n" if rng.random() < 0.3 else " "
    return " ".join(sentences[:cut]) + gap + " ".join(sentences[cut:])


def _stock(rng: random.Random) -> Stock:
    people: list[Noun] = []
    for _ in range(rng.randint(2, 3)):
        if rng.random() < 0.3:
            name, pronoun, _, _ = rng.choice(NAMES)
            people.append(Noun(name, True, pronoun))
        elif rng.random() < 0.75:
            people.append(Noun(rng.choice(PEOPLE), True, rng.choice(("he", "she"))))
        else:
            people.append(Noun(rng.choice(CREATURES), True, "it"))
    things = [Noun(rng.choice(THINGS).replace("-", " "), False, "it") for _ in range(rng.randint(3, 5))]
    return Stock(
        people,
        things,
        rng.sample(ACTIONS, 7),
        rng.sample(MOVES, 5),
        [*rng.sample(QUALITIES, 6), rng.choice(COLOURS)],
        rng.sample(PLACES, 4),
    )


def _noun_phrase(rng: random.Random, noun: Noun, stock: Stock, known: bool = False) -> str:
    """Return the noun with an article and perhaps more; `known` things get "the"."""
    if noun.words[0].isupper():
        return noun.words
    described = f"{rng.choice(stock.qualities)} {noun.words}" if rng.random() < 0.35 else noun.words
    chance = rng.random()
    if known or chance < 0.45:
        phrase = f"the {described}"
    elif chance < 0.75:
        phrase = with_article(described)
    elif noun.alive:
        phrase = rng.choice(("our {}", "my {}", "this {}", "that {}", "another {}", "every {}", "no {}")).format(
            described
        )
    else:
        phrase = rng.choice(("his {}", "her {}", "their {}", "my {}", "this {}", "another {}", "no {}")).format(
            described
        )
    if rng.random() < 0.12:
        phrase += f" {rng.choice(stock.places)}"
    elif rng.random() < 0.08:
        thing = rng.choice(stock.things).words
        phrase += rng.choice((f" with the {thing}", f" without {with_article(thing)}"))
    return phrase


def _person(rng: random.Random, stock: Stock) -> tuple[str, str]:
    """Return a subject and its pronoun."""
    noun = rng.choice(stock.people)
    return _noun_phrase(rng, noun, stock), noun.pronoun


def _object(rng: random.Random, stock: Stock) -> str:
    noun = rng.choice(stock.things if rng.random() < 0.9 else stock.people)
    return _noun_phrase(rng, noun, stock)


def _split_verb(verb: str) -> tuple[str, str]:
    """Return the verb and its preposition with a space before it, or ""."""
    head, _, tail = verb.partition("-")
    return head, f" {tail}" if tail else ""


def _past(verb: str) -> str:
    head, tail = _split_verb(verb)
    head, _, more = head.partition(" ")
    past = _IRREGULAR[head][0] if head in _IRREGULAR else _regular(head)
    return f"{past}{' ' + more if more else ''}{tail}"


def _participle(verb: str) -> str:
    head, tail = _split_verb(verb)
    return (_IRREGULAR[head][1] if head in _IRREGULAR else _regular(head)) + tail


_DOUBLED = {
    "drop",
    "trim",
    "drag",
    "slip",
    "hum",
    "grin",
    "hug",
    "knit",
    "nod",
    "rub",
    "scrub",
    "stir",
    "stop",
    "whip",
    "wrap",
    "rob",
}


def _regular(verb: str) -> str:
    if verb.endswith("e"):
        return verb + "d"
    if verb.endswith("y") and verb[-2] not in "aeiou":
        return verb[:-1] + "ied"
    return (verb + verb[-1] if verb in _DOUBLED else verb) + "ed"


_DOUBLED_ING = {"begin", "cut", "dig", "get", "hit", "let", "put", "run", "shut", "sit", "swim", "win", *_DOUBLED}


def _ing(verb: str) -> str:
    head, tail = _split_verb(verb)
    if head in ("lie", "die", "tie", "untie"):
        return head[:-2] + "ying" + tail
    if head.endswith("e") and not head.endswith("ee"):
        return head[:-1] + "ing" + tail
    return (head + head[-1] if head in _DOUBLED_ING else head) + "ing" + tail


def _third(verb: str) -> str:
    head, tail = _split_verb(verb)
    if head in ("have", "go"):
        return {"have": "has", "go": "goes"}[head] + tail
    if head.endswith("y") and head[-2] not in "aeiou":
        return head[:-1] + "ies" + tail
    return head + ("es" if head.endswith(("s", "sh", "ch", "x", "o")) else "s") + tail


def _clause(rng: random.Random, stock: Stock, subject: str) -> str:
    """Return what `subject` did, does or will do."""
    kind = rng.random()
    action, move = rng.choice(stock.actions), rng.choice(stock.moves)
    object_ = _object(rng, stock)
    bare = action.replace("-", " ")
    if kind < 0.4:
        text = f"{subject} {_past(action)} {object_}"
    elif kind < 0.6:
        text = f"{subject} {_past(move)}"
        if rng.random() < 0.6:
            text += f" {rng.choice(stock.places)}"
    elif kind < 0.68:
        text = f"{subject} had {_participle(action)} {object_}"
    elif kind < 0.75:
        text = f"{subject} was {_ing(rng.choice((move, action + '*')).rstrip('*'))}"
        if text.endswith(_ing(action)):
            text += f" {object_}"
    elif kind < 0.82:
        text = (
            f"{subject} {rng.choice(('could', 'could not', 'would', 'would not', 'did not', 'had to', 'wanted to'))} "
        )
        text += f"{bare} {object_}"
    elif kind < 0.9:
        text = f"{subject} was {rng.choice(('', 'very ', 'too ', 'not ', 'as '))}{rng.choice(stock.qualities)}"
        if " as " in text:
            text += f" as {_object(rng, stock)}"
        elif " too " in text:
            text += f" to {bare} {object_}"
    elif kind < 0.95:
        text = f"{subject} {_third(action)} {object_}"
    else:
        text = f"{subject} will {bare} {object_}"
    if rng.random() < 0.15:
        text += f" {rng.choice(MANNER).replace('-', ' ')}"
    return text


def _sentence(rng: random.Random, stock: Stock) -> str:
    subject, pronoun = _person(rng, stock)
    clause = _clause(rng, stock, subject)
    kind = rng.random()
    if kind < 0.22:
        return f"{clause}."
    if kind < 0.36:
        return f"{rng.choice(WHEN)}, {clause}."
    if kind < 0.54:
        link = rng.choice(LINKS)
        other = pronoun if rng.random() < 0.6 else _person(rng, stock)[0]
        comma = "," if link in ("but", "so", "although", "and then") else ""
        return f"{clause}{comma} {link} {_clause(rng, stock, other)}."
    if kind < 0.62:
        spoken = capitalize(_clause(rng, stock, rng.choice(("I", "we", "you", _person(rng, stock)[0]))))
        spoken = spoken.replace("We was", "We were").replace("You was", "You were")
        for wrong, right in _AGREEMENT:
            spoken = spoken.replace(wrong, right) if not spoken.startswith(("The", "A")) else spoken
        mark = rng.choice((",", ",", "!", "?"))
        return f'"{spoken}{mark}" {rng.choice(SAYINGS)} {subject}.'
    if kind < 0.7:
        where = rng.choice(stock.places)
        object_ = _noun_phrase(rng, rng.choice(stock.things), stock)
        return f"there was {object_} {where}{rng.choice(('', ', and nobody knew why', ', as everybody knew'))}."
    if kind < 0.77:
        thing = _noun_phrase(rng, rng.choice(stock.things), stock, known=True)
        done = _participle(rng.choice(stock.actions))
        return f"{thing} {rng.choice(('was', 'had been', 'would be', 'could not be'))} {done} by {subject}."
    if kind < 0.83:
        other = _person(rng, stock)[0]
        return f"{subject} {_past(rng.choice(TELLS))} that {_clause(rng, stock, other)}."
    if kind < 0.88:
        link = rng.choice(("when", "because", "if", "although", "as soon as", "while", "before", "after"))
        return f"{link} {clause}, {_clause(rng, stock, pronoun)}."
    if kind < 0.92:
        asked = rng.choice(("why", "how", "when", "where", "whether"))
        return f"nobody knew {asked} {clause}."
    if kind < 0.96:
        thing = rng.choice(stock.things).words
        action, other = rng.choice(stock.actions).replace("-", " "), rng.choice(stock.actions).replace("-", " ")
        return f"never {action} {with_article(thing)} before you {other} {_object(rng, stock)}."
    action = rng.choice(stock.actions).replace("-", " ")
    return f"{rng.choice(('did', 'could', 'would', 'why did', 'how could'))} {subject} {action} {_object(rng, stock)}?"


# What the first and second person have where the third has an s.
_AGREEMENT = tuple(
    (f"{who} {_third(verb)} ", f"{who} {_split_verb(verb)[0]}{_split_verb(verb)[1]} ")
    for who in ("I", "We", "You")
    for verb in ACTIONS
)
