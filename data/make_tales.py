"""Write data/tales.csv: an old harbour pilot's tall tales, made by grammar from a fixed seed.

Every tale is one paragraph: an opening in some setting, a plot of three steps, and a moral on the plot's theme.
No sentence is taken from anywhere; the alternatives below were written for this file.
A few faulty rows are planted on purpose (see the constants), so that the validation step has something to find.

Run from the repository root: `python -m data.make_tales`
"""

import csv
import random
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from pipeline.command import arg_parser, echo, run
from starter.grammar import Rules, expand

SEED = 1851
OUTPUT = Path(__file__).resolve().parent / "tales.csv"

GOOD_TALES = 2200
MIN_WORDS, MAX_WORDS = 35, 72  # of a tale; the limit is drawn for each, from SHORT_WORDS up, to mix the lengths
SHORT_WORDS = 46
RUN_WORDS, MAX_REPEATS = 12, 18  # no run of 12 words is in more than 18 tales, so that copying does not pay

# Planted faults. Nothing marks these rows: their ids are ordinary numbers like any other row's.
EXACT_DUPLICATES = 12  # the same text again
NEAR_DUPLICATES = 6  # the same text but for case and whitespace
EMPTY_TEXTS = 5  # no text at all; the last of them is spaces only
OVERLONG_TEXTS = 3  # one yarn that never ends
OVERLONG_CHARACTERS = 2000  # each of those is longer than this


class Setting(NamedTuple):
    """One place to tell of; `roles` end in :m, :f or :e (either) for the pronoun."""

    heart: tuple[str, ...]
    at: str
    places: tuple[str, ...]
    roles: tuple[str, ...]
    things: tuple[str, ...]
    goods: tuple[str, ...]
    crowd: tuple[str, ...]


CITY = (
    "{city_adjective.a} city",
    "{city_adjective.a} city",
    "{city_adjective.a} town",
    "the {city_adjective} old town",
)

SETTINGS: tuple[Setting, ...] = (
    Setting(
        CITY,
        "in",
        ("lab", "laboratory", "lab", "laboratory"),
        ("scientist:e", "scientist:e", "chemist:e", "inventor:e", "professor:e"),
        ("brass microscope", "glass engine", "copper still", "weather machine", "blue lamp"),
        ("bottles", "flasks", "notebooks", "jars"),
        ("students", "assistants", "other scientists"),
    ),
    Setting(
        CITY,
        "in",
        ("school", "schoolhouse", "classroom"),
        ("teacher:e", "schoolmaster:m", "schoolmistress:f", "music teacher:e"),
        ("globe", "hand bell", "great atlas", "silver whistle"),
        ("slates", "desks", "copybooks", "inkpots"),
        ("pupils", "children", "parents"),
    ),
    Setting(
        CITY,
        "in",
        ("bakery", "bakehouse", "bread shop"),
        ("baker:e", "pastry cook:e", "oven keeper:e"),
        ("rolling pin", "flour sieve", "bread knife", "honey cake"),
        ("loaves", "buns", "flour sacks", "baskets"),
        ("customers", "neighbours", "apprentices"),
    ),
    Setting(
        ("a green kingdom", "{far.a} kingdom", "{far.a} land", "a country without a coast"),
        "in",
        ("castle", "palace", "throne room"),
        ("king:m", "queen:f", "princess:f", "knight:m", "steward:e"),
        ("golden crown", "silver sword", "velvet cloak", "royal seal"),
        ("shields", "goblets", "banners", "candlesticks"),
        ("courtiers", "knights", "servants"),
    ),
    Setting(
        ("the widest desert there is", "a dry red desert", "a desert of yellow sand", "the sands of the south"),
        "at",
        ("desert inn", "desert fort", "oasis tavern"),
        ("camel driver:e", "well digger:e", "innkeeper:e", "date merchant:e"),
        ("water jar", "camel saddle", "carved flute", "sun dial"),
        ("water skins", "date baskets", "carpets", "saddles"),
        ("travellers", "camel drivers", "merchants"),
    ),
    Setting(
        ("a dark forest", "the old pine woods", "a forest no road goes through", "the deep green woods"),
        "in",
        ("forest lodge", "woodland cabin", "hunting lodge"),
        ("woodcutter:e", "huntsman:m", "charcoal burner:e", "forester:e"),
        ("sharp axe", "hunting horn", "fur hat", "oak staff"),
        ("logs", "snowshoes", "traps", "barrels"),
        ("woodcutters", "foresters", "villagers"),
    ),
    Setting(
        CITY,
        "in",
        ("hospital", "sick ward", "doctor's house"),
        ("doctor:e", "nurse:e", "surgeon:e", "matron:f"),
        ("black bag", "silver thermometer", "bone saw", "bottle of tonic"),
        ("bandages", "beds", "pillows", "medicine bottles"),
        ("patients", "nurses", "young doctors"),
    ),
    Setting(
        CITY,
        "in",
        ("library", "reading room", "bookshop"),
        ("librarian:e", "bookbinder:e", "poet:e", "bookseller:e"),
        ("big dictionary", "old atlas", "leather diary", "date stamp"),
        ("books", "shelves", "ladders", "dictionaries"),
        ("readers", "scholars", "poets"),
    ),
    Setting(
        CITY,
        "in",
        ("theatre", "opera house", "concert hall"),
        ("actor:m", "actress:f", "singer:e", "fiddler:e", "drummer:e"),
        ("gilded fiddle", "feathered hat", "kettle drum", "velvet costume"),
        ("costumes", "music stands", "curtains", "chairs"),
        ("dancers", "musicians", "stagehands"),
    ),
    Setting(
        ("a mountain country", "the high mountains", "a snowy valley", "a land of goats and granite"),
        "in",
        ("mountain hut", "mountain chapel", "mountain inn"),
        ("shepherd:e", "mountain guide:e", "goatherd:e", "cheesemaker:e"),
        ("sheep bell", "walking stick", "alpine horn", "snow shovel"),
        ("sledges", "cheeses", "blankets", "milk pails"),
        ("goatherds", "climbers", "villagers"),
    ),
    Setting(
        CITY,
        "at",
        ("railway station", "engine shed", "tram depot"),
        ("stationmaster:e", "engine driver:e", "porter:e", "ticket clerk:e"),
        ("station clock", "green flag", "signal lamp", "brass whistle"),
        ("suitcases", "trunks", "mailbags", "benches"),
        ("passengers", "porters", "drivers"),
    ),
    Setting(
        ("the flat farm country", "a land of wheat and cows", "the corn country", "a quiet green county"),
        "in",
        ("barn", "dairy", "farmhouse", "cowshed"),
        ("farmer:e", "milkmaid:f", "ploughman:m", "beekeeper:e"),
        ("hay rake", "milk churn", "hay fork", "prize pumpkin"),
        ("hay bales", "milk pails", "apple crates", "beehives"),
        ("farmhands", "neighbours", "milkmaids"),
    ),
    Setting(
        CITY,
        "in",
        ("workshop", "clock shop", "toy shop"),
        ("clockmaker:e", "carpenter:e", "toymaker:e", "locksmith:e"),
        ("cuckoo clock", "wooden horse", "music box", "iron lock"),
        ("clocks", "tools", "toys", "boxes"),
        ("apprentices", "customers", "neighbours"),
    ),
    Setting(
        CITY,
        "in",
        ("bank", "counting house", "town hall", "office"),
        ("banker:e", "clerk:e", "mayor:e", "tax collector:e"),
        ("silver inkstand", "iron strongbox", "rubber stamp", "gold pen"),
        ("ledgers", "coin bags", "papers", "stools"),
        ("clerks", "townsfolk", "taxpayers"),
    ),
    Setting(
        ("a river town", "a small river port", "a town of ferries", "an island in a lake"),
        "in",
        ("harbour office", "boathouse", "lighthouse", "fish market"),
        ("captain:e", "lighthouse keeper:e", "fishwife:f", "ferryman:m", "harbour master:e"),
        ("brass telescope", "fog bell", "oilskin coat", "ship's compass"),
        ("nets", "crab pots", "oars", "lanterns"),
        ("fishermen", "dockers", "deckhands"),
    ),
    Setting(
        CITY,
        "in",
        ("observatory", "star tower", "planetarium"),
        ("astronomer:e", "stargazer:e", "scientist:e"),
        ("long telescope", "star chart", "moon globe", "brass sextant"),
        ("lenses", "star maps", "charts", "lamps"),
        ("students", "stargazers", "visitors"),
    ),
    Setting(
        ("a land of roses", "a walled garden", "a land where it never snowed", "a warm southern county"),
        "in",
        ("glasshouse", "flower shop", "garden house"),
        ("gardener:e", "florist:e", "rose grower:e"),
        ("watering can", "prize melon", "black tulip", "garden fork"),
        ("flowerpots", "seed boxes", "rakes", "baskets"),
        ("gardeners", "visitors", "neighbours"),
    ),
    Setting(
        CITY,
        "in",
        ("museum", "picture gallery", "painter's attic"),
        ("painter:e", "sculptor:e", "museum keeper:e", "night watchman:m"),
        ("marble lion", "gold frame", "painted vase", "stuffed walrus"),
        ("pictures", "statues", "vases", "frames"),
        ("visitors", "painters", "guards"),
    ),
    Setting(
        CITY,
        "in",
        ("kitchen", "soup kitchen", "restaurant", "tea house"),
        ("cook:e", "chef:e", "waiter:m", "waitress:f", "dishwasher:e"),
        ("copper kettle", "soup ladle", "pepper mill", "bread board"),
        ("pots", "pans", "plates", "soup bowls"),
        ("guests", "cooks", "waiters"),
    ),
    Setting(
        CITY,
        "in",
        ("tailor's shop", "shoe shop", "hat shop", "laundry"),
        ("tailor:e", "cobbler:e", "hatter:e", "seamstress:f", "washerwoman:f"),
        ("silver thimble", "flat iron", "silk hat", "dancing shoe"),
        ("coats", "boots", "hats", "shirts"),
        ("customers", "apprentices", "neighbours"),
    ),
)

NAMES: dict[str, tuple[str, ...]] = {
    "m": (
        *("Tobias", "Barnaby", "Amos Pike", "Silas", "Jonah Reed", "Ned Harker", "Oskar", "Mateo", "Gideon"),
        *("Perkin", "Ivo", "Rufus Crane", "Casper", "Ambrose", "Tom Tully", "Henrik", "Josiah", "Pascal"),
    ),
    "f": (
        *("Marigold", "Hester", "Nell Harker", "Agnes", "Tamsin", "Odile", "Ruth Pike", "Greta", "Philippa"),
        *("Annika", "Dorothea", "Mabel Crane", "Rosalind", "Ingrid", "Bess Tully", "Lucia", "Wilhelmina"),
    ),
}

PRONOUNS: dict[str, dict[str, str]] = {
    "m": {"he": "he", "him": "him", "his": "his", "himself": "himself"},
    "f": {"he": "she", "him": "her", "his": "her", "himself": "herself"},
}

# Openings: three kinds that everybody knows, each in many variations, and the pilot's own.
FAIRY_OPENINGS: tuple[str, ...] = (
    "Once upon a time in {far.a} land, {life}.",
    "Once upon a time in {far.a} land, {life}.",
    "Once upon a time in {far.a} land there lived {who}.",
    "Once upon a time, in {heart}, {life}.",
    "Once upon a tide in {far.a} land, {life}.",
    "Long ago in {far.a} land, {life}.",
    "Once, {past_landmark}, {life}.",
    "In {far.a} land, {past_landmark}, there lived {who}.",
    "Once upon a time in a land {land_is}, there {life_verb} {who}.",
    "There was once {who} who {ran}, in {far.a} land.",
)
HEART_OPENINGS: tuple[str, ...] = (
    "In the heart of {heart}, {life}.",
    "In the heart of {heart}, {life}.",
    "In the heart of {heart}, {between}, {life_short}.",
    "In the heart of {heart}, as far from the sea as {far_from}, {life_short}.",
    "Deep in the heart of {heart}, {life}.",
    "In the middle of {heart}, {life}.",
    "Somewhere in {heart}, {between}, {life_short}.",
)
WORK_OPENINGS: tuple[str, ...] = (
    "The {role} worked {hard} {at}, {busy}.",
    "The {role} worked {hard} {at}, {busy}.",
    "The {adjective} {role} worked {hard} {at}, {all_hours}.",
    "The {role} worked {hard} {at}.",
    "{all_hours.cap}, the {role} worked {hard} {at}.",
    "{name} the {role} worked {hard} {at}, {busy}.",
    "The {role} toiled {hard} {at}, and never {never}.",
)
PILOT_OPENINGS: tuple[str, ...] = (
    "{listen}, shipmate, and hear of {who} who {ran}.",
    "{listen}, shipmate: {life_short}.",
    "{listen}, for this is the yarn of {who}.",
    "I once knew {who}, shipmate, who {ran} {at}.",
    "I once piloted {who} who {ran}.",
    "I once shared some {meal} with {who} {at}.",
    "It is on no chart, shipmate, but {past_landmark} {life_short}.",
    "The year {the_year}, {life_short}.",
    "It was the year {the_year}, and {who} {ran}.",
    "{storm_tells} tells of {who} {at}.",
    "They still talk {at} of {who}, {busy}.",
    "{who.cap} {ran} {at}, {past_landmark}.",
    "{who.cap} {ran} {at}.",
    "{who.cap}, {busy}, {ran}.",
    "When I was {pilot_young}, {life_short}.",
    "No gull ever flew as far as {heart}, yet there {life_verb} {who}.",
    "Of all the {salty} souls I met, the {adjective_two} was {who} {at}.",
    "{swear}, shipmate, {life_short}.",
    "{swear}, {who} {ran} {at}.",
    "Ask any {sailor} about {who} who {ran}.",
    "There is {hook.a} hook {at}, shipmate, and it belonged to {who}.",
    "Not every sailor has a ship: {who} {ran} {at}.",
    "{place.a.cap} is only a ship that forgot to float, as {who} found out.",
    "Now {who} {ran} {at}, and never {never}.",
    "At each {spring} tide I drink to {who} who {ran}.",
    "I once knew {who}, shipmate.",
    "There was {who} {at}, shipmate.",
    "There was once {who} {at}.",
    "{listen}, shipmate: there was {who}.",
    "Hear of {who}, shipmate.",
    "They tell it {at} of {who}.",
    "This is the log of {who} {at}.",
    "{who.cap} {ran}.",
    "I drank {drink} once with {who}.",
    "Did I ever tell you of {who}, shipmate?",
    "This happened {at} to {who}.",
    "Some are born with a tiller in the hand, and {who} {at} was one.",
)

RULES: Rules = {
    "far": (
        *("distant", "distant", "far", "forgotten", "foggy", "windy", "faraway", "quiet", "drowsy", "rainy", "golden"),
        *("nameless", "stony", "silent", "snowy", "sunny", "flat", "strange", "sleepy", "peaceful", "misty", "wide"),
    ),
    "land_is": (
        *("with more fog than fields", "that no keel had ever touched", "three weeks beyond the last buoy"),
        *("where the rivers ran uphill", "that every chart left blank", "where nobody owned a boat"),
        *("so dry that the frogs wore boots", "where the wind came home to sleep", "with one hill and no harbour"),
    ),
    "past_landmark": (
        *("{number} days' sail past the last lighthouse", "a long haul inland from my harbour"),
        *("well above the high water mark", "{number} leagues from the nearest anchor", "beyond the reach of any tide"),
        *("further inland than a gull will fly", "on the lee side of the hills", "where the charts run out of ink"),
        *("a week's walk from the nearest oar", "up the river and past the last lock", "on the far shore of nowhere"),
        *("{number} fathoms above the nearest sea", "upwind of all good sense", "two bridges above the old dock"),
    ),
    "hour": ("five", "six", "seven", "ten", "noon"),
    "bells": ("two", "three", "four", "five", "six", "seven", "eight"),
    "number": ("three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "twenty", "forty"),
    "city_adjective": (
        *("bustling", "bustling", "busy", "noisy", "crowded", "smoky", "great", "grand", "hurried", "proud", "rich"),
        *("restless", "sooty", "stone", "crooked", "bright", "rainy", "cold", "clever", "foggy", "merry", "brick"),
    ),
    "between": (
        *("between a tavern and a rope shop", "where the trams run like ferries", "under chimneys as tall as masts"),
        *("where the streets are narrow as a gangway", "two turns to port of the fountain"),
        *("where the lamps are lit at {hour}", "past the square with the broken anchor"),
        *("where the noise never ebbs", "behind a door as low as a cabin's", "just where the wind goes about"),
        *("moored between two taller roofs", "where folk flow in and out like a tide"),
        *("where the rain drums like a deckhand", "with not a gull in sight", "far from any honest salt water"),
    ),
    "far_from": (
        *("a gull from prayer", "a herring from heaven", "a crab from a ballroom", "an anchor from the moon"),
        *("a captain from humble", "the cook from sober", "a whale from a walnut", "a mule from a masthead"),
    ),
    "life": (
        *("there lived {who} who {ran}", "{who} {ran} {at}", "there was {who} {at}, {busy}"),
        *("{who} kept a good lookout {at}", "there lived {who}, {busy}", "there {life_verb} {who}"),
        *("{who} worked {hard} {at}", "there {life_verb} {who} who {ran}", "{who} {ran} {at}"),
    ),
    "life_short": (
        *(
            "{who} {ran}",
            "there was {who} {at}",
            "{who} {ran} {at}",
            "there {life_verb} {who}",
            "{who} worked {hard} {at}",
        ),
    ),
    "life_verb": ("lived", "dwelt", "lay at anchor", "dropped anchor"),
    "ran": (
        *("worked {hard}", "kept the night watch", "kept the morning watch", "stood at the helm", "held the tiller"),
        *("kept {number} lanterns burning", "kept the log", "worked the long watch", "earned an honest crust"),
        *("rang the bell for every watch", "whistled up the wind each day", "kept everything shipshape"),
        *("never missed a tide", "coiled every rope twice", "gave orders like an admiral", "slung a hammock"),
        *("counted the days like knots on a line", "kept a weather eye open", "steered a straight course"),
        *(
            "wore a pilot's cap",
            "scrubbed the floor like a deck",
            "called every floor a deck",
            "answered to no admiral",
        ),
    ),
    "hard": (
        *("tirelessly", "tirelessly", "patiently", "quietly", "stubbornly", "cheerfully", "day and night", "steadily"),
        *(
            "late",
            "alone",
            "hard",
            "hard and long",
            "bravely",
            "busily",
            "by lantern light",
            "without rest",
            "carefully",
        ),
        *("from tide to tide", "like a full crew", "to the last candle", "in all weathers", "gladly", "grimly"),
    ),
    "busy": (
        *("steady as a stone quay", "sleeves rolled up like a docker's", "humming like wind in the rigging"),
        *("with one eye on the weather", "busy as a crab at low water", "as patient as a moored barge"),
        *("with tar under every fingernail", "brave as a tug in a gale", "keeping time by the tides"),
        *("never far from a mug of black tea", "with a lantern at each elbow", "as happy as a gull behind a trawler"),
        *("with a pencil behind each ear", "bent over like an old mast", "salty as a ship's biscuit"),
        *("cheerful as a kettle in the galley", "with a knot for every trouble", "as lonely as a buoy"),
        *("with pockets full of twine", "quick as a ship's cat", "solid as an oak keel", "with a voice like a foghorn"),
    ),
    "all_hours": (
        *("watch after watch", "from first bell to last lamp", "through ebb and flood", "seven tides a week"),
        *("until the oil ran out", "while the rest of the crew slept", "from dawn until the dog watch"),
        *("in fog and in fair weather", "tide in and tide out", "long after the gulls had gone to bed"),
        *("with the lantern turned low", "summer and winter alike", "through one gale and the next"),
    ),
    "never": (
        *(
            "spilled a drop",
            "missed a tide",
            "dropped anchor before midnight",
            "asked for shore leave",
            "lost a lantern",
        ),
        *("cursed before breakfast", "looked astern", "ran aground", "trusted a dry rope", "refused a mug of tea"),
        *("whistled on a Friday", "let go of a good rope", "slept through a bell", "struck the colours"),
    ),
    "listen": (
        *("Sit down on that barrel", "Pour yourself something warm", "Haul your chair closer", "Trim the lamp"),
        *("Make fast and listen", "Let the kettle boil", "Hang up your oilskin", "Lend me an ear", "Ship your oars"),
        *("Put your boots by the stove", "Mind the wet rope and sit", "Fill your pipe", "Belay that yawning"),
        *("Close the hatch against the wind", "Drop your anchor here a while", "Pass the biscuits"),
    ),
    "the_year": (
        *("the herring came late", "the fog stayed until June", "the river froze", "the great bell cracked"),
        *(
            "the old pier burned",
            "the gulls went north",
            "it rained upward",
            "the harbour ran dry",
            "tea cost a fortune",
        ),
        *("the ice took the ferry", "of the two winters", "the moon forgot to rise", "a whale blocked the canal"),
        *("the wind blew backward", "the eels learned to climb", "the lighthouse leaned", "I lost my best hat"),
    ),
    "storm_tells": (
        *("My old log book", "A song from the rope walk", "The cook of the pilot boat", "My grandmother's parrot"),
        *("A verse on the tavern wall", "Every lamp lighter on the quay", "The one-eyed ferryman"),
        *("The chaplain of the docks", "A bottle I fished up in May", "The bosun of the mud barge"),
    ),
    "pilot_young": (
        *("a boy on the pilot boat", "still wet behind the oars", "no taller than a bollard", "young and had teeth"),
        *("learning my knots", "second mate of a mud barge", "too small for my boots", "green as seaweed"),
        *("a deckhand with two shirts", "ashore with a bad foot", "between two ships", "hiding from a boatswain"),
    ),
    "swear": (
        *("By my lantern", "By my beard and my barnacles", "By every rope on the quay", "As true as the tide"),
        *("As sure as tar sticks", "On my pilot's oath", "By the bell of the old pier"),
        *("As I hope for a dry bunk", "By the bones of my first boat"),
    ),
    "sailor": (
        "stoker",
        "deckhand",
        "ferryman",
        "bosun",
        "ropemaker",
        "docker",
        "herring girl",
        "ship's cook",
        "stevedore",
    ),
    "hook": ("rusty", "brass", "bent", "big", "lonely", "crooked", "long", "tarred"),
    "spring": ("spring", "neap", "summer", "winter", "autumn", "April", "November"),
    "adjective": (
        *("stubborn", "patient", "gloomy", "cheerful", "quiet", "proud", "careful", "clever", "honest", "old", "young"),
        *("weathered", "thrifty", "sleepy", "dreamy", "gruff", "hopeful", "modest", "nervous", "round", "lanky", "shy"),
        *("hungry", "kindly", "restless", "absent-minded", "bold", "ambitious", "red-haired", "grey-haired", "jolly"),
    ),
    "salty": ("salty", "odd", "lost", "wet", "landlocked", "seagoing", "hard-working", "far-off", "storm-proof"),
    "adjective_two": ("saltiest", "driest", "wettest", "strangest", "steadiest", "loudest", "luckiest", "stiffest"),
    # Times and weather.
    "when": (
        *("One {grey} {morning}", "One {grey} {morning}", "One {grey} {morning}", "On the {third} {morning},"),
        *("At slack water", "Then", "Then one {morning}", "Then", "One {morning}", "One {month} {morning}"),
        *(
            "Come the spring tide,",
            "Just after the {third} bell,",
            "In the dog watch,",
            "On a falling tide,",
            "In {month}",
        ),
        *(
            "With the glass falling,",
            "Then, at {bells} bells,",
            "Between two tides",
            "Late in {month}",
            "Then one tide",
        ),
        *(
            "At the turn of the tide,",
            "When the {month} fogs came,",
            "At high water",
            "At low water",
            "Then",
            "That {month}",
        ),
    ),
    "grey": (
        "grey",
        "foggy",
        "black",
        "windy",
        "wet",
        "raw",
        "salty",
        "moonless",
        "frosty",
        "stormy",
        "thirsty",
        "slack",
    ),
    "morning": ("morning", "night", "evening", "afternoon", "dawn"),
    "third": ("second", "third", "fourth", "fifth", "sixth", "seventh", "ninth", "last"),
    "month": ("March", "April", "May", "June", "August", "September", "October", "November", "January", "February"),
    "gale": (
        *("a gale", "a squall", "a storm", "a black northerly", "a wind with teeth", "half a hurricane", "a sea wind"),
        *("a howling easterly", "a great wet wind", "foul weather", "the mother of all storms", "a roaring squall"),
    ),
    "dawn": (
        *("By dawn", "By sunrise", "By the morning bell,", "By the next tide,", "Before the ebb,", "By low water"),
        *("At first light", "When the gulls woke,", "By the change of the watch,", "When the fog lifted,", "By noon"),
    ),
    "soon": (
        *("Within the hour,", "Inside a week", "Before long,", "In less time than it takes to splice a rope,"),
        *("In {number} minutes", "Before the kettle boiled,", "Two tides later", "Before the bell had stopped,"),
        *("Faster than a hawser runs out,", "In the time it takes to fill a pipe,", "One tide later"),
    ),
    "years": (
        *(
            "From that tide on,",
            "Afterwards",
            "In the years after,",
            "For {number} winters after,",
            "From that night on,",
        ),
        *(
            "As long as the lamp hung there,",
            "From then on",
            "Until the last of the oil,",
            "For the rest of the voyage,",
        ),
    ),
    # Likenesses.
    "proudly": (
        *("like a cockerel on a masthead", "like an admiral with two hats", "like a figurehead with fresh paint"),
        *("like a gull with a whole herring", "like a brass band on a barge", "like a tug towing a palace"),
        *("like a flag in a fair wind", "like a lighthouse at noon", "like a bosun with a new whistle"),
    ),
    "loudly": (
        *("like a foghorn", "like a gull over fish guts", "like a bosun with a stubbed toe", "like a loose sail"),
        *("like a chain through a hawsehole", "like a walrus in a bath", "like a ship's bell in a gale"),
        *("like {number} drunken stokers", "like surf on shingle", "like a parrot in a thunderstorm"),
    ),
    "sunk": (
        *("like a stone anchor", "like a kettle with no bottom", "like a lead line", "like an iron boot"),
        *("like a holed dinghy", "like a barrel of nails", "like a cannon with no gun port", "like old bread in soup"),
    ),
    "still": (
        *(
            "quiet as a harbour under snow",
            "still as slack water",
            "silent as a cod in church",
            "dumb as a mooring post",
        ),
        *("hushed as a boat under its winter tarpaulin", "calm as oil on a pond", "quiet as fog on the mud flats"),
    ),
    "fast": (
        *("like a rat down a mooring line", "faster than a hawser parts", "like a dolphin before the bow"),
        *("like a squall across the bay", "like a cork in a mill race", "quicker than a cook leaves a burning galley"),
        *("like a kite with its string cut", "as fast as an ebb under a bridge"),
    ),
    "glad": (
        *("glad as a gull in a herring boat", "merry as a crew on pay day", "happy as a clam at high water"),
        *(
            "bright as a new lantern",
            "warm as a stoker's pocket",
            "light as a cork",
            "pleased as a seal on a sunny rock",
        ),
    ),
    "low": (
        *("low as a spring ebb", "glum as a wet flag", "flat as a calm at noon", "sour as bilge water"),
        *("red as a port lamp", "limp as a windless sail", "pale as a dead jellyfish", "small as a shrimp in a bucket"),
    ),
    "crew_said": (
        *("The {crowd} laughed {loudly}", "The {crowd} stood {still}", "The {crowd} shook their heads like wet dogs"),
        *("The {crowd} took off their hats", "The {crowd} scratched their beards, and some had none to scratch"),
        *("The {crowd} cheered {loudly}", "The {crowd} lined the rail to watch"),
    ),
    "rope": ("rope", "hemp line", "old hawser", "tarred line", "length of cable", "ball of twine", "signal halyard"),
    "knot": ("bowline", "reef knot", "clove hitch", "sheet bend", "double hitch", "fisherman's knot", "rolling hitch"),
    "meal": (
        *("fish soup", "salt pork", "pea soup", "hot chowder", "ship's biscuit", "fried herring", "plum duff"),
        *("bread and butter", "potato stew", "cod pie", "onion broth", "smoked eel"),
    ),
    "drink": ("black tea", "hot rum", "cocoa", "strong coffee", "ginger beer", "cider", "grog", "lime juice"),
    "beast": ("gull", "cat", "goat", "parrot", "dog", "heron", "donkey", "goose", "pelican", "otter"),
    "sea_job": (
        "bosun",
        "purser",
        "first mate",
        "harbour clerk",
        "sea captain",
        "ropemaker",
        "ship's carpenter",
        "stoker",
    ),
    "child": ("cabin boy", "kitchen girl", "errand boy", "lamp girl", "young apprentice", "coal boy", "ferry girl"),
    "hiding": (
        *("in the bottom of a boot", "in the tea kettle", "under the cat", "in a bucket of tar", "behind the stove"),
        *("inside the soup pot", "in a coil of rope", "under a hat", "in the coal box", "beneath a sleeping donkey"),
        *("in the crook of the lamp bracket", "in a barrel of apples", "wrapped in an old flag", "on its own hook"),
    ),
    "coin": (
        "silver coins",
        "gold pieces",
        "shillings",
        "barrels of rum",
        "new sails",
        "crates of oranges",
        "fat hens",
    ),
    "treasure": ("gold", "silver", "pearls", "rubies", "doubloons", "diamonds"),
    "money": ("silver coins", "gold pieces", "shillings", "doubloons", "guineas", "crowns"),
    "noise": (
        *("a knocking like an oar on a hull", "a groan like an old mast", "a scratching in the bilges"),
        *("a splash where no water was", "a long wet sigh", "a rattle of chain", "a whistle with no lips behind it"),
        *("a thump like a dropped anchor", "a creak like a gangway", "a moan like wind in a bottle"),
    ),
    "torn": ("torn", "greasy", "yellow", "stained", "wet", "folded", "patched", "tarred"),
    "adjective_odd": (
        "thin",
        "tall",
        "damp",
        "frowning",
        "new",
        "one-eyed",
        "sleepless",
        "long-nosed",
        "angry",
        "grey",
    ),
    "junk": (
        *(
            "buttons",
            "old rope",
            "sand",
            "fish bones",
            "corks",
            "seaweed",
            "broken biscuits",
            "rusty nails",
            "wet socks",
        ),
        *("empty shells", "last year's newspapers", "pebbles", "one very angry crab", "nothing but fog"),
    ),
    # Morals: a truth on the theme, mostly with a coda.
    "coda": (
        *("the tide keeps no ledger", "the tide waits for nobody's hat", "salt water forgets no debt"),
        *("no gull was ever hanged for singing", "the fog is nobody's cousin", "an anchor has no ears"),
        *("the moon still pulls the rope", "a lantern never argues", "the sea has time to spare"),
        *("every ebb has a flood behind it", "the harbour bell rings for all", "a rope remembers every hand"),
        *("the rocks never read the chart", "the wind signs no papers", "the mud keeps what it gets"),
        *("low water shows every bottle", "no wave comes twice", "tar comes off slowly", "the gulls see everything"),
        *("the sea has never said sorry", "the lighthouse does not chase ships", "there is no back door to the sea"),
        *("a wet match lights no lamp", "even the admiral has to swim", "a cork needs no captain"),
        *("the quay is always harder than the boat", "good oil burns quietly", "the bell never asks who rings it"),
        *("barnacles travel free", "a calm is only a gale asleep", "the longest rope still needs a knot"),
        *("the pilot still wants paying", "fish never praise the net", "the kettle boils for all ranks"),
        *("a leak needs no invitation", "the stars do not hurry", "a buoy knows its place", "rust never sleeps ashore"),
    ),
}

TRUTHS: dict[str, tuple[str, ...]] = {
    "pride": (
        *("a tall mast is the first to meet the lightning", "brass shines best with the mouth shut"),
        *("the loudest foghorn has seen the least", "no flag ever pulled a ship", "a puffed sail is mostly air"),
        *("he who polishes his own bell goes deaf", "boasting is ballast on the wrong side"),
        *("pride floats high until the plug comes out", "an admiral's hat keeps off no rain"),
    ),
    "patience": (
        *("what the ebb takes away the flood brings home", "a slow tug still gets the ship to the quay"),
        *("the knot that is bitten never comes loose", "those who can wait own half the sea"),
        *("a good anchor does its work lying down", "you cannot row the moon", "no one ever hurried a tide"),
        *("the long watch ends like any other", "still water carries the heaviest barge"),
    ),
    "kindness": (
        *("a light in the window is worth ten in the drawer", "a thrown rope always has two ends"),
        *("warm soup has turned more ships than rudders have", "a kind word weighs less than ballast and holds better"),
        *("a lantern loses nothing by lighting another", "an open door is a harbour"),
        *("whoever feeds one gull is never quite alone", "there is always room for one more hammock"),
        "the hand that hauls you out is never cold",
    ),
    "care": (
        *("a small leak is only a shipwreck with patience", "a rope is mended before the storm or not at all"),
        *(
            "paint never kept out the sea",
            "knots are best looked at in the sun",
            "the dry bucket is the one to mend",
        ),
        *("a lazy splice waits for a dark night", "it is the little worm that eats the big keel"),
        *("an oiled hinge spares the door", "the best lookout starts with the bilge"),
    ),
    "greed": (
        *("a full net can drown the fisherman", "two anchors make a poor swimmer", "gold is only yellow ballast"),
        *("the fattest purse goes down the fastest", "a bargain at midnight is a bill at dawn"),
        *("who buys the wind must also feed it", "whoever sells the oar to buy the paint will drift"),
        *("an empty hold rides easier than a stolen one", "the shark also began with a small bite"),
    ),
    "listening": (
        *("a chart is only paper until you ask the fisherman", "the smallest hand may hold the lead line"),
        *("two ears make a better pilot than one mouth", "even the captain should heed the cook's nose"),
        *("wisdom often comes aboard without a ticket", "the one who asks the depth stays dry"),
        *("old maps and old pride leak alike", "a whisper from the bow saves a shout from the stern"),
        "the barnacle knows the hull better than the owner",
    ),
    "haste": (
        *("the quick oar splashes the rower", "a hurried knot is a promise to the fishes"),
        *("more boats are lost to the clock than to the rocks", "the shortest cut runs over the reef"),
        *("who hauls too fast will land only rope", "he who jumps for the quay measures the water"),
        *("full sail is no use in a bathtub", "slow astern is also a course", "a running crew trips on its own rope"),
    ),
    "honesty": (
        *("a straight wake needs no excuses", "a lie is a boat with the plug in your pocket"),
        *("truth floats, however wet it gets", "a painted plank is still a rotten plank"),
        *("an honest log is the best pillow", "a borrowed oar should come home dry"),
        *("you cannot bribe a barometer", "false lights wreck their own keeper", "the lead line never flatters"),
    ),
    "crew": (
        *("one strand is string, but many are a hawser", "many oars make a short sea"),
        *("nobody ever hoisted a mainsail alone", "a ship with two captains has none"),
        *(
            "the best ballast is good company",
            "shared bread never goes mouldy",
            "it takes a whole crew to make one pilot",
        ),
        *("a crew may quarrel in harbour but must pull together at sea", "every rope is somebody's elbow"),
    ),
    "courage": (
        *("fear is only fog with teeth painted on", "most monsters are hungry cats", "the bow always gets wet first"),
        *("courage is a small lamp carried forward", "a brave cork outlives a timid anchor"),
        *("a wave looks tallest from the cellar", "the dark has no more rocks than the day"),
        *("shaking knees can still climb a mast", "you must face the wind to tack against it"),
    ),
    "home": (
        *("the best harbour is the one that knows your name", "every voyage is only a long way round to supper"),
        *("you must lose sight of the quay to love it", "a boat without a mooring is only driftwood"),
        *("home is where your hook is on the wall", "the tide goes out only to come back"),
        *("far waters make the old kettle sweet", "the compass in the chest points to the kitchen"),
        "the roots of an anchor go deeper than an oak's",
    ),
}

MORALS: tuple[str, ...] = (
    "{truth.cap}, and {coda}, shipmate.",
    "{truth.cap}, and {coda}.",
    "For {truth}, shipmate.",
    "{mark}: {truth}.",
    "{mark}, shipmate: {truth}.",
    "So {truth}, shipmate.",
    "{truth.cap}, shipmate.",
    "{truth.cap}, shipmate, as {moral_teller} used to say.",
    "{coda.cap}, shipmate, and {truth}.",
    "You see, shipmate, {truth}.",
    "{truth.cap}; and if {doubt}, shipmate, {do_ask}.",
    "Aye, shipmate, {truth}.",
    "That is why {truth}, shipmate.",
    "And {coda}, shipmate.",
)

MORAL_RULES: Rules = {
    "mark": (
        *("Write it in your log", "Mark it on your chart", "Carve it on your oar", "Tie it in your handkerchief"),
        *("Keep this under your cap", "Take it from an old pilot", "Hang this in your cabin", "Here is the sum of it"),
        *("I have it in tar on my door", "The moral is short", "Stow this where it stays dry", "And this is the catch"),
    ),
    "moral_teller": (
        *("my mother", "the old ferryman", "the cook", "my first captain", "the bosun's widow", "the harbour master"),
        *("my one-eyed uncle", "the blind ropemaker", "the lamp lighter", "the stoker", "my grandfather"),
    ),
    "doubt": (
        *("you doubt it", "you think otherwise", "anyone laughs", "you want proof", "you find that hard to swallow"),
    ),
    "do_ask": (
        *(
            "ask the gulls",
            "go and ask the tide",
            "look at my boots",
            "count my fingers",
            "the stove is warm and we can wait",
        ),
        *("the mud flats are full of proof", "sleep one night on the pier", "try it in November", "ask the fishes"),
    ),
}

# The plots: theme, then the steps of the tale, each with its alternatives ("" where a step can be left out).
PLOTS: tuple[tuple[str, tuple[tuple[str, ...], ...]], ...] = (
    (
        "pride",
        (
            (
                "{when} {hero} boasted {loudly} that no {thing} on land or sea could match {his} own.",
                '"There is no finer {thing} afloat," said {hero}, strutting {proudly}.',
                "{he.cap} carried {his} {thing} about {proudly} and let nobody touch it.",
                "Now {hero} had {thing.a}, and praised it {loudly} from bell to bell.",
            ),
            (
                "{when} {gale} came through the door and took the {thing} off {fast}.",
                "Then {beast.a} sat down on it, and the boast went to the bottom {sunk}.",
                "{when} it slipped, rolled, and sank in a tub of {meal} {sunk}.",
                "So the {crowd} asked to see it at its best, and it only creaked {loudly} and fell apart.",
            ),
            (
                "{hero.cap} stood there {low}, and {sea_job.a} kindly handed {him} a broom.",
                "{years} {hero} spoke of nothing but the weather.",
                "The {crowd} said nothing, which is the loudest thing a crew can say.",
                "{he.cap} ate {his} {meal} alone that night, {low}.",
            ),
        ),
    ),
    (
        "patience",
        (
            (
                "{when} {his} {thing} was gone, and {hero} searched the {place} from keel to truck.",
                "{when} {hero} lost {his} {thing} as a careless sailor loses {his} hat.",
                "{when} the {thing} slipped its moorings, and nobody knew where it had drifted.",
                "Then the {thing} went missing, and {hero} dragged the whole {place} with a hook and {rope.a}.",
            ),
            (
                "",
                "",
                "The {crowd} looked behind all the {goods} and found {junk}.",
                "{he.cap} turned out every locker and netted {junk}.",
                "{number.cap} days {he} hunted it, and hauled up {junk}.",
                "{he.cap} shouted for it {loudly}, as if it could answer.",
            ),
            (
                "At last {he} sat down for a mug of {drink}, and there it lay, {hiding}.",
                "When {he} gave up and went to bed, the ebb ran out and showed it {hiding}.",
                "{dawn} it turned up by itself, {hiding}, {still}.",
                "Then, while {he} ate {meal}, the {beast} found it {hiding}.",
            ),
        ),
    ),
    (
        "kindness",
        (
            (
                "{when} a fog rolled in so thick that the {crowd} could not find their own noses.",
                "{when} fog came under the door and filled the {place} to the rafters.",
                "{when} such a fog came down that the {beast} walked into the {sea_job}.",
                "Then came the great fog, thick as {meal}, and the {crowd} were lost in it.",
            ),
            (
                "{hero.cap} hung a lantern on the roof and beat on a pot {loudly}.",
                "So {hero} tied {rope.a} to the door and walked out along it, singing {loudly}.",
                "{hero.cap} put a candle in each window and rang a bell until {his} arm went numb.",
                "{hero.cap} climbed up with a lamp and called the depth {loudly}.",
            ),
            (
                "One by one they came in along the light, and there was {meal} for all.",
                "{dawn} {number} souls were drying by the stove, {glad}.",
                "{soon} every last one was safe at the quay, as we say, {glad}.",
                "Even the {sea_job} came home by it, and {he} asked no fare but a song.",
            ),
        ),
    ),
    (
        "care",
        (
            (
                "{when} the rain came down like a river with its plug out, and the {place} began to fill.",
                "{when} the water rose to the door of the {place} and knocked politely.",
                "{when} {gale} burst the pipes, and the {goods} began to float.",
                "Then the river climbed its banks and came in {fast}.",
            ),
            (
                "But {hero} had lashed down the {goods} with {knot.a} the week before.",
                "The {crowd} ran about {loudly}, but {hero} had kept the bilge pump oiled.",
                "{hero.cap}, who had laughed at nobody, took {number} buckets from under {his} bunk.",
                "Only {hero} had thought to tie the {goods} to the beams with {rope.a}.",
            ),
            (
                "{dawn} everything was wet, but not so much as a spoon was lost.",
                "{soon} the water gave up and went out by the way it had come.",
                "The {place} rode out the night {still}, and the {crowd} clung to the {goods}.",
                "When the flood went down, the {crowd} asked {him} to teach them knots.",
            ),
        ),
    ),
    (
        "greed",
        (
            (
                "{when} a stranger in a wet coat offered {number} {money} for {his} {thing}.",
                "{when} {sea_job.a} with a gold tooth came to buy the {thing}.",
                "Along came {adjective_odd.a} trader who smelled of {junk} and wanted the {thing}.",
                "Then a merchant with rings on every finger bid {number} {money} for the {thing}.",
            ),
            (
                "{hero.cap} asked for double, then double again, and the price swelled like a wet plank.",
                '"More," said {hero}, and again "More," {loudly}.',
                "{hero.cap} haggled until the tide had turned twice.",
                "{hero.cap} saw the gold shine and threw in the {goods} as well.",
            ),
            (
                "{dawn} the buyer had sailed, and the purse held {junk}.",
                "When the chest was opened at last, it was full of {junk}, and {hero} sat {low}.",
                "{soon} the gold had melted like sea foam, leaving {junk}.",
                "But the coins were chocolate, shipmate, and the {beast} ate them all.",
            ),
        ),
    ),
    (
        "haste",
        (
            (
                "{when} {hero} wagered {number} {coin} to finish the work before the bell.",
                "{when} {sea_job.a} bet {number} {coin} that {hero} could not stack all the {goods} in an hour.",
                'Then the {crowd} cried, "Faster!" and {hero} crowded on all sail.',
                "{when} {hero} was late, and late folk tie poor knots.",
            ),
            (
                "{he.cap} threw the {goods} about {fast} and looked neither to port nor to starboard.",
                "{he.cap} ran {fast} and skipped every second knot.",
                "{hero.cap} flew up the stairs {fast}, with the {goods} under both arms.",
                "{hero.cap} left out the lashing, the caulking and the common sense.",
            ),
            (
                "Halfway there {he} tripped over the {beast}, and the whole cargo shifted.",
                "{soon} the pile listed to port, groaned {loudly} and went over.",
                "{dawn} it all had to be done again, and slowly, {low}.",
                "It held for {number} breaths, shipmate, and then it sank {sunk}.",
            ),
        ),
    ),
    (
        "listening",
        (
            (
                "{when} {hero} bought {torn.a} old chart that showed the way to {treasure}.",
                "{when} {hero} set out for {far.a} land with a chart and no questions.",
                "Now {hero} had a map to {number} chests of {treasure}, and trusted it like a mother.",
                "{when} a bottle brought {him} a map, and {he} sailed off by it, cart and all.",
            ),
            (
                "{child.a.cap} told {him} that it was upside down, but {he} only hoisted {his} chin.",
                '"You hold it wrong," said the {child}, but {hero} was deaf as an anchor.',
                "{he.cap} passed {number} fishermen and asked none of them.",
                "The {crowd} pointed the other way, and {hero} waved back {proudly}.",
            ),
            (
                "After {number} days {he} dug under the cross and struck {his} own cellar.",
                "{dawn} {he} was up to the knees in a marsh, talking to {beast.a}.",
                "{soon} {he} ran aground on a haystack and had to be towed home.",
                "The cross, it turned out, was a spot of {meal}.",
            ),
        ),
    ),
    (
        "kindness",
        (
            (
                "{when} {beast.a} with a hurt foot came to the door of the {place}.",
                "{when} {gale} threw a half-drowned {beast} against the window.",
                "{when} {hero} found {beast.a} tangled in {rope.a}.",
                "Then a hungry {beast} drifted in and looked at {his} supper.",
            ),
            (
                "{hero.cap} gave it half the {meal} and a dry corner behind the {goods}.",
                '"Every crew needs one fool more," said {hero}, and shared the {meal}.',
                "The {crowd} grumbled, but {hero} made it a bunk among the {goods}.",
                "{hero.cap} signed it on as ship's mate, and paid it in {meal}.",
            ),
            (
                "{when_later.cap} it smelled smoke, woke {him}, and was made {sea_job.a}.",
                "{when_later.cap} the {thing} fell in the river, and the creature brought it back, {glad}.",
                "{when_later.cap} thieves came, and it chased them off {loudly}.",
                "{years} it kept the night watch with {him}, {glad}.",
            ),
        ),
    ),
    (
        "care",
        (
            (
                "{when} a drop fell from the roof of the {place}, no bigger than a fish's tear.",
                "{when} {hero} saw a crack in the wall, as thin as a herring bone.",
                "{when} the {child} heard a drip behind the {goods}.",
                "Now there was a hole in the roof, so small that a shrimp would have stuck in it.",
            ),
            (
                "",
                "",
                '"Tomorrow," said {hero}, and put a cup under it, and slept like a moored barge.',
                "{hero.cap} hung a picture over it and called the job done.",
                "{hero.cap} whistled and said that a little water never hurt a sailor.",
                "{hero.cap} stuffed it with old bread and went to drink {drink}.",
            ),
            (
                "{soon} the {goods} were afloat, and {hero} paddled out on a door.",
                "{dawn} the whole wall lay down {loudly}, and in came the weather.",
                "A month later there were herring in it, and {he} sat on the roof, {low}.",
                "Then came {gale}, and the {crowd} bailed for {number} hours with their hats.",
            ),
        ),
    ),
    (
        "patience",
        (
            (
                "There was an old bell {at} that would not ring for anyone.",
                "Now the great bell {at} had been dumb since the {third} flood.",
                "{when} the bell of the {place} stopped, {still}.",
                "{hero.cap} had been given a bell with no voice, and every tide {he} pulled the rope.",
            ),
            (
                "",
                "",
                "The {crowd} beat it with hammers, with oars, and once with the {sea_job}.",
                "Some kicked it, some cursed it, and {sea_job.a} proposed marriage to it.",
                "{number.cap} experts came, ate {meal}, and left it as it was.",
                "The {crowd} wanted to sell it for {number} {coin} and be done.",
            ),
            (
                "But {hero} oiled it a little each day, and {when_later} it rang {loudly}.",
                "{hero.cap} only waited, cloth in hand, until {beast.a} flew out and the bell sang.",
                "{hero.cap} sat by it {number} winters, and then a warm wind set it singing.",
                "{hero.cap} scraped the salt off with a spoon, and {dawn_later} it rang, {glad}.",
            ),
        ),
    ),
    (
        "kindness",
        (
            (
                "Each night {hero} set a lamp in the window, though nobody was expected.",
                "{he.cap} burned good oil all night in an empty window, and the {crowd} called it waste.",
                '"Who is that lamp for?" asked the {crowd}, and {hero} said, "For whoever is late."',
                "Now {hero} never put out the lamp over the door, not even in {month}.",
            ),
            (
                "{when} {gale} blew out every other light for {number} miles.",
                "{when} {sea_job.a} lost the road in {gale}, with a sick {child} on the cart.",
                "{when} a coach full of strangers went adrift in the snow.",
                "{when} {number} lost travellers saw that one spark and steered by it.",
            ),
            (
                "{dawn} the benches {at} were full of wet boots and thankful people.",
                "They came in under it {low}, and went out again {glad}.",
                "They paid {him} with {meal}, a song and a barrel of lamp oil.",
                "{years} there was oil enough, for every guest had brought a pint.",
            ),
        ),
    ),
    (
        "honesty",
        (
            (
                "{when} an inspector came aboard to count the {goods}, and some were missing.",
                "{when} the admiral's {adjective_odd} inspector asked {him} for the log.",
                "Word came that an inspector was on the way, with a lantern and no sense of humour.",
                "{when} {adjective_odd.a} inspector came in and wanted the {goods} weighed.",
            ),
            (
                '"Paint some barrels," said the {sea_job}, but {hero} shook {his} head.',
                "The {crowd} whispered that a small lie would float, but {hero} would not launch it.",
                "{hero.cap} could have fudged the figures, for the ink was still wet.",
                "The {sea_job} had stuffed the empty sacks with {junk}, and {hero} said so.",
            ),
            (
                '"I am {number} short," said {hero}, "and here is why," and the inspector put down the pen.',
                "{hero.cap} told it straight, and the inspector stayed for {meal}.",
                "The truth cost {him} {number} {coin}, and {he} slept like a moored barge.",
                "{dawn} the inspector had gone, leaving a note that said only: shipshape.",
            ),
        ),
    ),
    (
        "pride",
        (
            (
                "{when} the {crowd} brought in a great machine with {number} wheels to do {his} work.",
                "{when} a salesman unloaded a steam engine that could do anything but blush.",
                "Then {hero} built an engine of pipes and pulleys and called it the future.",
                "{when} {hero} bought a clockwork {beast} that was to mind the {place} by itself.",
            ),
            (
                "It puffed {proudly}, threw the {goods} at the ceiling, and steamed for the door.",
                "For an hour it ran {fast}, and then it began to stack the {crowd}.",
                "It hummed, it whistled, and it swallowed the {thing} {loudly}.",
                "It obeyed no bell and no rudder, and chased the {sea_job} up the curtains.",
            ),
            (
                "At last the {child} pulled out one peg, and it sat down {sunk}.",
                "{dawn} it lay in the yard, {still}, and the {beast} had nested in it.",
                "It took {number} hands and {rope.a} to stop it, and {hero} fetched {his} old broom.",
                "They use it as a mooring post now, and it is very good at that.",
            ),
        ),
    ),
    (
        "crew",
        (
            (
                "{when} {child.a} fell down the dry well, and no rope {at} was long enough.",
                "{when} the {beast} got stuck on the chimney, and {hero} had only {rope.a}, much too short.",
                "{when} the {thing} went down a shaft {number} fathoms deep.",
                "{when} {sea_job.a} was left hanging over a cliff by the coat tails.",
            ),
            (
                "{hero.cap} took off {his} belt, and the {crowd} took off theirs.",
                "{hero.cap} knotted curtains to aprons and aprons to scarves, each with {knot.a}.",
                "So {hero} called all hands, and every one gave a lace, a strap or a ribbon.",
                '"All hands to the line," cried {hero}, and the {crowd} tied on whatever they wore.',
            ),
            (
                "They hauled {fast}, trousers round their ankles, and nothing was lost but dignity.",
                "It held, shipmate, every silly inch of it, and up came the catch, {glad}.",
                "{soon} all were safe on deck, sharing {meal} and sorting out the belts.",
                "{years} that patchwork line hung by the door {at}, and nobody wanted a better.",
            ),
        ),
    ),
    (
        "crew",
        (
            (
                "{when} {hero} and {sea_job.a} fell out over which of them was captain.",
                "{when} two crews quarrelled {at}, one pulling to port and one to starboard.",
                "There was a second {role}, shipmate, and the two could not agree on the time of day.",
                "{when} the {crowd} split over how to stack the {goods}.",
            ),
            (
                "One hoisted, the other lowered, and the {place} went round and round.",
                "They drew a chalk line down the floor and would not lend each other a spoon.",
                "They shouted {loudly} until the {beast} left by the window.",
                "For {number} days no kettle was boiled, as nobody would fetch the water.",
            ),
            (
                "Then came {gale}, and by midnight they were all on one rope, {still}.",
                "{dawn} the {child} had eaten all the {meal}, and they laughed and made peace.",
                "{when_later.cap} the roof blew off, and it took both to catch it.",
                "In the end they steered by turns, and the {place} sailed straight at last.",
            ),
        ),
    ),
    (
        "greed",
        (
            (
                "{when} a barrel washed up at the door, marked in red: do not open.",
                "{when} {hero} found a locked sea chest behind the {goods}.",
                "An old {sea_job} left {him} a sealed jar and said to keep it shut.",
                "{when} {hero} inherited a box from an uncle who was mostly shark.",
            ),
            (
                "{hero.cap} thought of {treasure} and fetched an iron bar.",
                "For {number} nights {hero} sat on it, dreaming of {treasure}.",
                "{he.cap} counted the {treasure} inside before {he} had so much as shaken it.",
                "The {crowd} begged {him} to leave it be, but {hero} smelled gold.",
            ),
            (
                "Out came {gale}, and it took {his} hat, {his} supper and half the {goods}.",
                "Inside sat {junk}, and under that a note: I told you so.",
                "{he.cap} lifted the lid, and a smell came out that is still there {at}.",
                "Open it went, and out walked a very old crab, who took over the {place}.",
            ),
        ),
    ),
    (
        "courage",
        (
            (
                "{when} {gale} came roaring over the roofs, and the {crowd} hid under the {goods}.",
                "{when} the sky went black as a tar pot, and the shutters flew off {fast}.",
                "{when} {gale} put out every lamp {at} but one.",
                "Then {gale} struck, and the bravest {sea_job} crept into a cupboard.",
            ),
            (
                "{hero.cap} was afraid too, and {his} knees rattled {loudly}.",
                "The {child} cried out that the roof was going, and {hero} swallowed hard.",
                "{hero.cap} had never climbed higher than a footstool.",
                '"I would rather be in bed," said {hero}, and put on {his} boots.',
            ),
            (
                "Still {he} went up with {rope.a}, made {knot.a}, and held on until morning.",
                "But {he} took the lamp and walked out into it, and the {crowd} followed the light.",
                "{dawn} the roof was tied down with {knot.a}, and {hero} was asleep on the ridge.",
                "So {he} sang {loudly} at the wind, and the wind, I think, was embarrassed.",
            ),
        ),
    ),
    (
        "honesty",
        (
            (
                "{when} {hero} lent {his} {thing} to {sea_job.a} who was never seen again.",
                "{when} {hero} borrowed {thing.a} and swore to bring it back by the next tide.",
                "{when} a poor {sea_job} left {thing.a} {at}, to be kept until the ship came home.",
                "{when} {hero} picked up a purse of {money} on the wet stones.",
            ),
            (
                "",
                "",
                "{number.cap} winters went by, and the {crowd} said that what drifts in is yours.",
                "A merchant offered {meal} and {number} {coin} for it, and nobody would have known.",
                "The {crowd} winked, as if such things were lost at sea every day.",
                "It would have been easy, shipmate, to let the fog settle over the matter.",
            ),
            (
                "Yet {when_later} the debt was paid to the last button, and both sides wept into their {drink}.",
                "But {dawn_later} it was back with its owner, oiled and wrapped in a clean flag.",
                "But a promise is {rope.a} round the ankle, and {when_later} all was made good.",
                "Still, everything came home {when_later}, with a jar of {meal} for interest.",
            ),
        ),
    ),
    (
        "kindness",
        (
            (
                "{when} {hero} caught a thief with both arms round the {thing}.",
                "{when} a thin thief came through the window {at} and fell over the {beast}.",
                "Somebody was stealing the {goods} by night, and {hero} lay in wait behind the stove.",
                "{when} a hand came through the hatch and felt about for the {thing}.",
            ),
            (
                "{hero.cap} lit the lantern and saw that the thief had no shoes.",
                "The {crowd} called for irons, but {hero} called for {meal}.",
                '"You row badly," said {hero}, "and you must be hungry."',
                "Instead of the whistle {hero} reached for the kettle, and poured some {drink}.",
            ),
            (
                "{dawn} the thief had signed on, and no better watchman ever stood {at}.",
                "{soon} the two were splicing rope together, {glad}.",
                "The rogue wept {loudly}, put back the loot, and swept the floor.",
                "{years} nothing was stolen there but the odd biscuit.",
            ),
        ),
    ),
    (
        "courage",
        (
            (
                "{when} there came from below {noise}, and the {crowd} ran out in their nightshirts.",
                "{when} {hero} woke to {noise}, and then again, nearer.",
                "They said that a drowned {sea_job} walked {at} and made {noise}.",
                "For {number} nights there had been {noise} behind the {goods}.",
            ),
            (
                "{hero.cap} took a lantern in one hand and the {thing} in the other.",
                "Nobody would go down, so {hero} went, a rope round {his} waist.",
                "{hero.cap} crept down the ladder, pale as a sail, and called the depth.",
                '"Ghosts pay no rent," said {hero}, and opened the hatch.',
            ),
            (
                "It was only {beast.a} with its head in a pot, and it was more afraid than {he} was.",
                "And there sat the {child}, shipmate, eating {meal} in the dark.",
                "It was a loose shutter, and {he} hushed it with {knot.a}.",
                "There was no ghost at all, just {beast.a} asleep {hiding_big}.",
            ),
        ),
    ),
    (
        "patience",
        (
            (
                "{when} {hero} put a letter in a bottle and threw it into the gutter.",
                "{when} {hero} wrote a letter to whoever might find it, and gave it to the stream.",
                "As {he} had no one to write to, {hero} posted a bottle in the river.",
                "{when} {hero} dropped a corked bottle off the bridge, with a question in it.",
            ),
            (
                "",
                "",
                "{number.cap} years passed, and the {crowd} thought {him} soft in the planks.",
                "No answer came with the ebb, and none with the flood.",
                "Every tide {he} looked for a reply, and found {junk}.",
                "The {crowd} smiled behind their hands, but {hero} kept looking down the water.",
            ),
            (
                "{when_later.cap} a bottle came up against the current, and inside was one word: coming.",
                "Then {sea_job.a} knocked at the door, grey and smiling, with the letter in hand.",
                "Then the very same bottle came back, with a drawing of {beast.a} and a kiss.",
                "And {when_later} it was answered, in green ink, from the far side of the world.",
            ),
        ),
    ),
    (
        "greed",
        (
            (
                "{when} a pedlar sold {him} a bag of fair wind for {number} {coin}.",
                "{when} {sea_job.a} came by, selling wind in sacks at a shilling a sack.",
                "Now {hero} wanted a wind of {his} own, to run everything {at} without work.",
                "{when} {hero} caught a young storm in a jar and meant to rent it out.",
            ),
            (
                "{hero.cap} untied one knot and had a breeze, and that was pleasant.",
                "At first it dried the washing and turned the spit, and {hero} smiled {proudly}.",
                "One puff would have been plenty, but {hero} wanted to be first in everything.",
                '"Why only a breeze?" thought {hero}, and pulled the last knot loose.',
            ),
            (
                "Out it came {loudly}, and the {goods} were last seen going east.",
                "{soon} the roof, the {beast} and {his} wig were over the next county.",
                "{dawn} {hero} hung in a tree {number} miles off, {low}.",
                "It blew for {number} days, and it sent {him} a bill.",
            ),
        ),
    ),
    (
        "care",
        (
            (
                "Wherever {he} went, {hero} dragged an iron anchor along on {rope.a}.",
                "Now {hero} kept a small anchor by the bed, and took it to church on Sundays.",
                "{hero.cap} would go nowhere without a whistle, a candle and {number} yards of line.",
                "Each evening {hero} checked every knot {at} twice, from the cellar to the roof.",
            ),
            (
                "The {crowd} laughed {loudly} and asked when the {place} would put to sea.",
                '"Expecting waves?" asked the {sea_job}, and {hero} said, "Sooner or later."',
                "The children sang a rude song about it, and {hero} hummed along.",
                "{sea_job.a.cap} called {him} a fool, and borrowed the candle the same night.",
            ),
            (
                "{when_later.cap} the hill began to slide, and only what {he} had tied down stayed put.",
                "Then {gale} lifted the {place} off its stones, and that line alone held it.",
                "Then the cart ran away downhill with the {crowd}, and guess what stopped it, shipmate.",
                "When {gale} came, all the laughers sat on {his} end of the rope, {still}.",
            ),
        ),
    ),
    (
        "pride",
        (
            (
                "{when} {hero} ordered the clocks {at} to wait until {he} was ready.",
                "{when} {hero} told the tide to stay out, and put it in writing.",
                "Grown grand on praise, {hero} ordered the sun to rise at {hour}, sharp.",
                "{when} {hero} wrote a law against wind and nailed it to the mast.",
            ),
            (
                "{he.cap} sat down in {his} best chair to see it obeyed, {proudly}.",
                "The {crowd} bowed, and the {child} went to fetch a bucket.",
                "The {sea_job} coughed, looked at the water, and stepped up on a stool.",
                '"It knows who I am," said {hero}, and folded {his} arms.',
            ),
            (
                "{soon} the chair was floating, and {hero} was still giving orders to it.",
                "The water came, read the order, and washed off the ink.",
                "{dawn} they fished {him} out with a boathook, {low}, and dried {him} by the galley stove.",
                "Nothing obeyed but the {beast}, and that was asleep.",
            ),
        ),
    ),
    (
        "crew",
        (
            (
                "{when} there was nothing left to eat {at} but one onion.",
                "That was a hungry winter, and {hero} had only a kettle of hot water.",
                "{when} the stores ran out, and every one of the {crowd} hid a last crust.",
                "{when} {hero} hung an empty pot over the fire and stirred it {proudly}.",
            ),
            (
                '"It wants a carrot," said {hero}, and someone had a carrot.',
                "{sea_job.a.cap} gave a bone, the {child} a turnip, and the {crowd} a pinch of salt.",
                "{hero.cap} went from bunk to bunk with a ladle, whistling {loudly}.",
                "Then {hero} threw in {his} own last herring, and that shamed the rest.",
            ),
            (
                "{soon} there was a chowder that would have raised a wreck.",
                "{dawn} {number} bowls had been emptied, and the {beast} licked the pot clean.",
                "They ate until the buttons flew, and the {crowd} sang {loudly}.",
                "Nobody had much, shipmate, and yet everyone had seconds.",
            ),
        ),
    ),
    (
        "listening",
        (
            (
                "{when} the {thing} stuck fast, and {number} learned men could not move it.",
                "{when} the great door of the {place} would not open, and the {crowd} were shut in.",
                "{when} the {beast} got its head stuck in the railings, howling {loudly}.",
                "{when} a cart jammed under the arch, tight as a cork in a bottle.",
            ),
            (
                "{hero.cap} called for engines, for oil, and for {sea_job.a} with a drill.",
                "The {crowd} heaved on {rope.a} until their ears turned red.",
                "{hero.cap} drew {number} plans, each with more pulleys than the last.",
                "A small voice spoke up, and {hero} told it to be quiet, and pushed harder.",
            ),
            (
                'Then the {child} said, "Pull it the other way," and it gave way {fast}.',
                "At last the {child} was allowed to try, and did it with a spoon of butter.",
                "It was the {child} who saw it, shipmate: nobody had lifted the latch.",
                "{dawn} {hero} asked the {child}, bowed, and handed over {his} pilot's cap.",
            ),
        ),
    ),
    (
        "listening",
        (
            (
                "{when} {hero} dreamed of a whale that knocked at the door of the {place}.",
                "{when} an old woman who smelled of kelp told {him} to move the {goods} upstairs.",
                "{when} the {beast} pulled at {his} sleeve and would not let go.",
                "For {number} days the old {sea_job} had sniffed the air and told {him} to shorten sail.",
            ),
            (
                "The {crowd} called it bilge, but {hero} had learned to heed such things.",
                '"Why not?" said {hero}, who had been wrong before and was not proud of it.',
                "{hero.cap} thought it over with a mug of {drink}, and did as {he} was told.",
                "Anyone else would have laughed, shipmate, but {hero} took off {his} hat and obeyed.",
            ),
            (
                "{soon} the river came through the ground floor and found nobody home.",
                "That night {gale} took the chimney, and it fell just where {he} had stood.",
                "{dawn} the cellar was full of sea, and of surprised herring, but {hero} was dry.",
                "When the bank slid into the stream, everything {at} was high, dry and counted.",
            ),
        ),
    ),
    (
        "honesty",
        (
            (
                "{when} {hero} broke the best {thing} {at}, and glued it with {meal}.",
                "The roof {at} was rotten, so {hero} gave it {number} coats of green paint.",
                "{when} {hero} sold {thing.a} with a crack in it, and the crack facing the wall.",
                "To save a few {money}, {hero} mended the best {thing} with {junk}.",
            ),
            (
                "It gleamed like a new hull, and the {crowd} praised it {loudly}.",
                '"Good as new," said {hero}, and did not look anyone in the eye.',
                "{he.cap} said nothing, but at night {he} lay awake and heard it creak.",
                "{sea_job.a.cap} knocked on it, listened, and went away without a word.",
            ),
            (
                "{soon} the damp got in, and the lie came apart before the whole crew.",
                "{when_later.cap} it gave way {loudly}, and {hero} sat in the ruins, {low}.",
                "{dawn} {he} owned up, and mended it properly, plank by plank, {glad}.",
                "Then the {beast} leaned on it, and down came everything, {hero} included.",
            ),
        ),
    ),
    (
        "home",
        (
            (
                "{when} {hero} grew tired of the {place}, and set out to see the world.",
                "{when} {hero} locked the door, hung up the key and followed {beast.a} to sea.",
                "But {hero} dreamed of far harbours, and {when_lower} {he} was gone.",
                "{when} {hero} traded the {thing} for a ticket and a pair of sea boots.",
            ),
            (
                "",
                "",
                "{he.cap} saw ice that sang, {number} sorts of moon, and {sea_job.a} with a wooden ear.",
                "{he.cap} ate {meal} in {number} ports, and none of it tasted right.",
                "For {number} years {he} sailed, and in each harbour {he} asked the way to the next.",
                "{he.cap} went round the world twice, once by mistake.",
            ),
            (
                "Then one night {he} smelled the old stove in a foreign wind, and put about.",
                "{when_later.cap} {he} stood at the old door, and the {crowd} had kept {his} mug warm.",
                "At the end of it all {he} found the finest anchorage {at}, behind the {goods}.",
                "{dawn_later.cap} {he} came home on foot, {glad}, and asked what was for supper.",
            ),
        ),
    ),
    (
        "courage",
        (
            (
                "{when} {adjective_odd.a} sea serpent came up the drain, asking for {meal}.",
                "{when} a dragon with wet wings landed on the roof, coughing {loudly}.",
                "{when} a whale came up the canal and blocked the door.",
                "Out of the fog came a giant in sea boots, {number} fathoms tall.",
            ),
            (
                "",
                "",
                "The {crowd} went over the side {fast}, and only {hero} stayed at the helm.",
                "The {sea_job} fainted, so {hero} stepped forward with the {thing}.",
                "{hero.cap} trembled like a jib in the wind, but {he} wished it good evening.",
                '"You are blocking the fairway," said {hero}, in a very small voice.',
            ),
            (
                "It only had a toothache, and {he} pulled the tooth with {rope.a}.",
                "It had lost its way, and {he} drew it a chart in {meal}.",
                "It wanted {meal}, no more, and it left the place {glad}.",
                "{dawn} the two were playing cards, and the monster was losing.",
            ),
        ),
    ),
    (
        "home",
        (
            (
                "{when} a letter called {him} away to serve an admiral for {number} {money} a month.",
                "{when} a rich {sea_job} offered {him} a marble house with hot water.",
                "The {crowd} said that {hero} was too good for the old {place}, and {he} believed it.",
                "{when} {hero} moved to a tower with {number} rooms and a view of nothing.",
            ),
            (
                "",
                "",
                "There was gold on the ceiling there, and nobody to say good morning to.",
                "The beds were so soft that {he} sank {sunk} and could not sleep.",
                "{he.cap} was given {meal} on silver, and missed the draught and the noise.",
                "There the clock was always right, and the lamps were never lit by hand.",
            ),
            (
                "So {he} slipped the cable {when_later} and walked back in the rain, {glad}.",
                "{dawn_later.cap} {he} was back {at}, scolding the {crowd} for the dust.",
                "Then {he} heard the old bell far off, and left without a hat.",
                "In the end {he} asked for {his} old bunk, and it had been kept for {him}.",
            ),
        ),
    ),
    (
        "haste",
        (
            (
                "{when} {hero} could wait no longer and cast off at half tide.",
                "{when} {hero} set out by the short way, through the marsh, with all the {goods}.",
                "There was a safe road and a quick one, and {hero} took the quick one, whistling.",
                "{when} {hero} left port without counting the {crowd}.",
            ),
            (
                "",
                "",
                '"Sound first," warned the {sea_job}, but {hero} was already out of earshot.',
                "{he.cap} went at it {fast}, and never threw the lead.",
                "The {beast} sat down and would not come, being the wiser of the two.",
                "The {child} shouted a warning, and the wind ate it.",
            ),
            (
                "{soon} {he} was stuck to the belt in mud, with {number} hours to think.",
                "{dawn} {he} had gone in a circle and met {his} own footprints, {low}.",
                "They had to haul {him} out with {rope.a}, one boot at a time.",
                "The slow ones came past at noon, chewing {meal}, and wished {him} good day.",
            ),
        ),
    ),
)

PLOT_RULES: Rules = {
    "when_later": (
        *("one {grey} {morning} in {month}", "{number} tides later", "at the next spring tide", "on the {third} day"),
        *("one {month} {morning}", "one {grey} {morning}", "{number} years to the day later"),
        *("a year later", "at the {third} bell of {grey.a} {morning}"),
    ),
    "dawn_later": (
        "by dawn",
        "by the next flood",
        "before the ice broke",
        "by {month}",
        "in the end",
        "by the next tide",
    ),
    "when_lower": ("one {grey} {morning}", "in {month}", "between two bells", "at the turn of the tide"),
    "hiding_big": ("in the laundry", "under the stairs", "in a heap of old sails", "on the warm pipe", "in the coal"),
}

ALL_RULES: Rules = {**RULES, **MORAL_RULES, **PLOT_RULES}

OPENINGS: tuple[tuple[int, tuple[str, ...]], ...] = (
    (12, FAIRY_OPENINGS),
    (20, HEART_OPENINGS),
    (10, WORK_OPENINGS),
    (58, PILOT_OPENINGS),
)


def bind_cast(rng: random.Random) -> dict[str, str]:
    """Return the symbols that stay the same through one tale: the place, the hero and what belongs to them."""
    setting = rng.choice(SETTINGS)
    role, gender = rng.choice(setting.roles).split(":")
    if gender == "e":
        gender = rng.choice("mf")
    name = rng.choice(NAMES[gender])
    place = rng.choice(setting.places)
    adjective = rng.choice(RULES["adjective"])
    who = rng.choice(
        (
            f"{{adjective.a}} {role}",
            f"{{adjective.a}} {role}",
            f"{{adjective.a}} {role} named {name}",
            f"{name} the {role}",
        )
    )
    cast = {
        "heart": expand(rng, ALL_RULES, rng.choice(setting.heart)),
        "at": f"{setting.at} the {place}",
        "place": place,
        "role": role,
        "name": name,
        "adjective": adjective,
        "thing": rng.choice(setting.things),
        "goods": rng.choice(setting.goods),
        "crowd": rng.choice([crowd for crowd in setting.crowd if crowd != f"{role}s"]),
        **{symbol: rng.choice(ALL_RULES[symbol]) for symbol in ("beast", "sea_job", "child")},
        **PRONOUNS[gender],
    }
    cast["who"] = expand(rng, ALL_RULES, who, **cast)
    cast["hero"] = rng.choice((f"the {role}", name))
    return cast


def make_tale(rng: random.Random) -> str:
    """Return one tale, of whatever length it comes out."""
    cast = bind_cast(rng)
    weights = [weight for weight, _ in OPENINGS]
    opening = expand(rng, ALL_RULES, rng.choice(rng.choices(OPENINGS, weights)[0][1]), **cast)
    if cast["name"] not in opening:
        cast["hero"] = f"the {cast['role']}"
    theme, steps = rng.choice(PLOTS)
    moral = rng.choice(MORALS).replace("{truth", "{" + theme)
    sentences = [*(rng.choice(step) for step in steps), moral]
    rest = expand(rng, {**ALL_RULES, **TRUTHS}, " ".join(filter(None, sentences)), **cast)
    return f"{opening} {rest}"


def make_tales(rng: random.Random, count: int) -> list[str]:
    """Return `count` tales of the wanted length, no two alike in any case or spacing.

    A tale is dropped, too, when it would repeat a run of RUN_WORDS words for more than the MAX_REPEATS-th time.
    """
    tales: list[str] = []
    seen: set[str] = set()
    uses: Counter[tuple[str, ...]] = Counter()
    while len(tales) < count:
        tale = make_tale(rng)
        words = tale.lower().split()
        runs = {tuple(words[i : i + RUN_WORDS]) for i in range(len(words) - RUN_WORDS + 1)}
        limit = rng.randint(SHORT_WORDS, MAX_WORDS)
        fits = MIN_WORDS <= len(words) <= limit and all(uses[run] < MAX_REPEATS for run in runs)
        if fits and tale.lower() not in seen:
            seen.add(tale.lower())
            uses.update(runs)
            tales.append(tale)
    return tales


def blur(rng: random.Random, text: str) -> str:
    """Return `text` in another case or with other whitespace, or both."""
    return rng.choice((text.upper(), text.lower(), f"  {text} ", text.replace(" ", "  "), f"{text.lower()}\t"))


def endless_yarn(rng: random.Random) -> str:
    """Return tales chained into one text of more than OVERLONG_CHARACTERS characters."""
    yarn = make_tale(rng)
    while len(yarn) <= OVERLONG_CHARACTERS:
        yarn += f" But that is not the end of it, shipmate. {make_tale(rng)}"
    return yarn


def make_rows(rng: random.Random) -> list[str]:
    """Return all texts in their final order, the planted faults among them."""
    tales = make_tales(rng, GOOD_TALES)
    copied = rng.sample(tales, EXACT_DUPLICATES + NEAR_DUPLICATES)
    planted = [
        *copied[:EXACT_DUPLICATES],
        *(blur(rng, text) for text in copied[EXACT_DUPLICATES:]),
        *[""] * (EMPTY_TEXTS - 1),
        "   ",
        *(endless_yarn(rng) for _ in range(OVERLONG_TEXTS)),
    ]
    rows = tales + planted
    rng.shuffle(rows)
    return rows


def main() -> None:
    """Write the file and say how many rows it has."""
    arg_parser().parse_args()
    rows = make_rows(random.Random(SEED))
    with OUTPUT.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_MINIMAL, lineterminator="\n")
        writer.writerow(("id", "text"))
        writer.writerows(enumerate(rows, start=1))
    echo(f"{OUTPUT.name}: {len(rows)} rows")


if __name__ == "__main__":
    run(main)
