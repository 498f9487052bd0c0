"""Words and small phrases that several genres share: names with their pronouns, places, jobs, things, weather."""

import random
from collections.abc import Iterable


def _split(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_WOMEN = _split(
    "Ada Alice Amina Anna Anya Beatrice Bella Carla Celia Clara Daisy Diana Dora Edith Elena Ella Emily Emma Esther "
    "Eva "
    "Fatima Fiona Flora Frances Freya Gina Grace Hana Hannah Helen Ida Ingrid Irene Iris Ivy Jane Jasmine Joan Julia "
    "June Karen Kate Laila Laura Leah Lena Lily Linda Lucy Lydia Mabel Maria Martha Mary Maya Mei Mia Mina Molly Nadia "
    "Nina Nora Olga Olive Paula Petra Rachel Rosa Ruth Sally Sara Selma Sofia Stella Susan Tessa Tina Vera Wanda Yuki "
    "Zoe"
)
_MEN = _split(
    "Aaron Adam Ahmed Albert Alex Anton Arthur Ben Boris Carl Charles Conrad Daniel David Dylan Edward Eli Emil Eric "
    "Felix Frank Fred George Hans Harry Hassan Henry Hugo Ian Isaac Ivan Jack Jacob James Jamal Joel John Jonas Joseph "
    "Karim Kenji Kevin Leo Lewis Liam Louis Luca Luke Marco Martin Max Michael Milo Nathan Neil Nick Noah Oliver Omar "
    "Oscar Otto Paul Peter Philip Ralph Ravi Robert Robin Roy Sam Samuel Simon Stefan Theo Thomas Tom Toby Victor "
    "Walter Will Yusuf"
)

NAMES: tuple[tuple[str, str, str, str], ...] = (
    *((name, "she", "her", "her") for name in _WOMEN),
    *((name, "he", "him", "his") for name in _MEN),
)

SURNAMES = _split(
    "Abbott Archer Baker Barnes Bell Bennett Berg Brook Carter Chen Clarke Cole Cooper Cross Dale Diaz Doyle Evans "
    "Farrell Field Fisher Ford Fox Garcia Gray Green Hall Harper Hill Holt Hughes Hunt Iqbal Jensen Keller Khan "
    "Kovac Lane Lee Lopez Marsh Mason Miller Moss Nolan Novak Okafor Owens Park Patel Perez Porter Price Reed "
    "Rivers "
    "Rossi Sato Shaw Silva Singh Stone Tanaka Turner Vance Wagner Walsh Ward Webb West Winter Wood Young"
)

PLACES = (
    "the market",
    "the library",
    "the town hall",
    "the bakery",
    "the school",
    "the park",
    "the station",
    "the old bridge",
    "the post office",
    "the museum",
    "the hospital",
    "the bookshop",
    "the square",
    "the garden centre",
    "the sports hall",
    "the swimming pool",
    "the cinema",
    "the theatre",
    "the corner shop",
    "the chemist",
    "the church",
    "the playground",
    "the castle",
    "the zoo",
    "the hotel",
    "the bank",
    "the farm",
    "the lake",
    "the river",
    "the mill",
    "the university",
    "the airport",
    "the bus stop",
    "the community centre",
    "the fire station",
    "the police station",
    "the hardware shop",
    "the football ground",
    "the concert hall",
    "the gallery",
    "the stadium",
    "the café on the corner",
    "the little restaurant behind the cinema",
    "the office",
    "the workshop",
    "the shopping centre",
    "the allotments",
    "the vet",
    "the dentist",
    "the barber",
)

JOBS = (
    "baker",
    "teacher",
    "nurse",
    "doctor",
    "farmer",
    "carpenter",
    "tailor",
    "clerk",
    "driver",
    "gardener",
    "librarian",
    "engineer",
    "painter",
    "musician",
    "cook",
    "waiter",
    "plumber",
    "electrician",
    "mechanic",
    "letter carrier",
    "shepherd",
    "blacksmith",
    "miller",
    "potter",
    "weaver",
    "photographer",
    "journalist",
    "lawyer",
    "architect",
    "builder",
    "dentist",
    "chemist",
    "scientist",
    "accountant",
    "secretary",
    "manager",
    "cleaner",
    "guard",
    "judge",
    "soldier",
    "writer",
    "poet",
    "actor",
    "dancer",
    "singer",
    "butcher",
    "grocer",
    "florist",
    "hairdresser",
    "translator",
    "programmer",
    "surgeon",
    "vet",
    "hunter",
    "forester",
    "beekeeper",
    "clockmaker",
    "shoemaker",
    "locksmith",
    "firefighter",
    "police officer",
    "bus driver",
    "train driver",
    "tour guide",
    "football coach",
)

ANIMALS = (
    "dog",
    "cat",
    "horse",
    "goat",
    "cow",
    "sheep",
    "donkey",
    "rabbit",
    "fox",
    "deer",
    "owl",
    "crow",
    "sparrow",
    "robin",
    "hen",
    "duck",
    "goose",
    "mouse",
    "squirrel",
    "hedgehog",
    "badger",
    "bear",
    "wolf",
    "hare",
    "frog",
    "tortoise",
    "parrot",
    "pigeon",
    "swan",
    "heron",
    "lamb",
    "calf",
    "pony",
    "puppy",
    "kitten",
    "bat",
    "mole",
    "beaver",
    "eagle",
    "raven",
    "rat",
    "lizard",
    "snake",
    "pig",
)

FOODS = (
    "fresh bread",
    "vegetable soup",
    "cheese",
    "apple pie",
    "roast chicken",
    "rice and beans",
    "pancakes",
    "toast and honey",
    "boiled eggs",
    "potato salad",
    "noodles",
    "mushroom stew",
    "plum cake",
    "ginger biscuits",
    "porridge",
    "tomato soup",
    "baked potatoes",
    "onion tart",
    "lemon cake",
    "ripe pears",
    "grilled fish",
    "pasta with garlic",
    "lentil curry",
    "chocolate pudding",
    "strawberries and cream",
    "ham sandwiches",
    "carrots and peas",
    "roasted nuts",
    "rolls with butter",
    "cherry jam on toast",
    "bacon and eggs",
    "pumpkin soup",
    "dumplings",
    "fried rice",
    "meatballs",
    "yoghurt with berries",
    "oranges",
    "bread and cheese",
    "cold meat and pickles",
    "warm scones",
    "peach ice cream",
)

OBJECTS = (
    "lamp",
    "box",
    "key",
    "clock",
    "basket",
    "mirror",
    "kettle",
    "umbrella",
    "blanket",
    "chair",
    "suitcase",
    "notebook",
    "bicycle",
    "candle",
    "bottle",
    "hammer",
    "ladder",
    "bucket",
    "map",
    "violin",
    "radio",
    "camera",
    "watch",
    "ring",
    "coat",
    "scarf",
    "hat",
    "jar",
    "cup",
    "plate",
    "bowl",
    "spoon",
    "knife",
    "rope",
    "spade",
    "broom",
    "cushion",
    "carpet",
    "painting",
    "photograph",
    "envelope",
    "parcel",
    "rucksack",
    "torch",
    "whistle",
    "bell",
    "drum",
    "guitar",
    "piano",
    "pencil",
    "stamp",
    "coin",
    "necklace",
    "button",
    "needle",
    "teapot",
    "pan",
    "oven",
    "shelf",
    "drawer",
    "cupboard",
    "table",
    "stool",
    "cart",
    "wheel",
    "toolbox",
    "diary",
    "dictionary",
    "newspaper",
    "postcard",
    "ticket",
    "wallet",
    "pair of gloves",
    "pair of scissors",
    "pair of boots",
    "pair of glasses",
)

FEELINGS = (
    "happy",
    "sad",
    "tired",
    "angry",
    "worried",
    "proud",
    "nervous",
    "calm",
    "lonely",
    "excited",
    "curious",
    "bored",
    "afraid",
    "hopeful",
    "grateful",
    "jealous",
    "ashamed",
    "confused",
    "relieved",
    "disappointed",
    "surprised",
    "hungry",
    "restless",
    "content",
    "embarrassed",
    "guilty",
    "cheerful",
    "anxious",
    "annoyed",
    "puzzled",
    "homesick",
    "impatient",
)

TIMES = (
    "in the morning",
    "in the evening",
    "at noon",
    "at midnight",
    "after lunch",
    "before breakfast",
    "late at night",
    "early in the day",
    "on Monday",
    "on Tuesday",
    "on Wednesday",
    "on Thursday",
    "on Friday",
    "on Saturday",
    "on Sunday",
    "at the weekend",
    "at dawn",
    "at sunset",
    "in spring",
    "in summer",
    "in autumn",
    "in winter",
    "around three o'clock",
    "at half past seven",
    "during the holidays",
    "after work",
    "before dinner",
    "in the afternoon",
)

WEATHER = (
    "heavy rain",
    "light rain",
    "snow",
    "thick fog",
    "bright sunshine",
    "a cold wind",
    "a warm breeze",
    "hail",
    "thunder",
    "frost",
    "a clear sky",
    "grey clouds",
    "drizzle",
    "a heat wave",
    "a light mist",
    "a storm",
    "ice on the roads",
    "mild weather",
)

ADJ_THING = _split(
    "old small large heavy plain strange broken beautiful dusty useful cheap expensive ordinary simple narrow round "
    "square wooden metal solid light dark clean dirty shiny little tiny huge new second-hand forgotten faded delicate "
    "sturdy ugly elegant worn precious unusual rusty smooth rough empty handsome colourful"
)

COLOURS = _split("red blue green yellow brown black white grey orange purple pink silver golden")

# Rules that every genre may put under its own. They need nothing bound.
COMMON: dict[str, tuple[str, ...]] = {
    "place": PLACES,
    "job": JOBS,
    "animal": ANIMALS,
    "food": FOODS,
    "object": OBJECTS,
    "feeling": FEELINGS,
    "adj_thing": ADJ_THING,
    "colour": COLOURS,
    "surname": SURNAMES,
    "day": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    "month": (
        *("January", "February", "March", "April", "May", "June", "July", "August"),
        *("September", "October", "November", "December"),
    ),
    "season": ("spring", "summer", "autumn", "winter"),
    "small": ("two", "three", "four", "five"),
    "few": ("two", "three", "four", "five", "six", "a few", "several"),
    "number": (
        *("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "fifteen"),
        *("twenty", "thirty", "forty", "fifty"),
    ),
    "ordinal": ("first", "second", "third", "fourth", "fifth"),
    "clock": (
        *("six o'clock", "seven o'clock", "eight o'clock", "half past eight", "nine o'clock", "a quarter past nine"),
        *("ten o'clock", "half past ten", "eleven o'clock", "noon", "one o'clock", "half past two", "three o'clock"),
        *("a quarter to four", "four o'clock", "five o'clock", "half past five", "twenty past six"),
    ),
    "relative": (
        *("sister", "brother", "mother", "father", "grandmother", "grandfather", "aunt", "uncle", "cousin"),
        *("daughter", "son", "niece", "nephew"),
    ),
    "elder": ("grandmother", "grandfather", "mother", "father", "aunt", "uncle"),
    "old_person": (
        *("old man", "old woman", "tall stranger", "retired teacher", "young traveller", "quiet neighbour"),
        *("friendly shopkeeper", "woman in a green coat", "man with a grey beard", "girl with a red scarf"),
    ),
    "people": (
        *("the neighbours", "the children", "the villagers", "some of the older people"),
        *("the visitors", "the workers", "two young couples", "a group of students", "the parents"),
    ),
    # Adverbials of time that can open a sentence in a past narrative.
    "soon": (
        *("After a while", "A few minutes later", "Before long", "Soon afterwards", "An hour later", "In the end"),
        *("By the afternoon", "When evening came", "The next day", "The following morning", "Two days later"),
        *("Later that week", "At that moment", "Just then", "Meanwhile", "After lunch", "Towards the end of the day"),
        *("Not long after that", "Within an hour", "As soon as it was light", "By noon", "That same evening"),
    ),
    "later": (
        *("the next day", "the following morning", "two days later", "a week later", "later that week"),
        *("that same evening", "early the next morning", "by the end of the week", "on {day}", "three weeks later"),
    ),
    "suddenly": ("suddenly", "all at once", "without warning", "in an instant", "to everyone's surprise"),
    "quickly": (
        *("quickly", "slowly", "carefully", "quietly", "gently", "calmly", "at once", "patiently", "with great care"),
        *("without a word", "in silence", "nervously", "firmly", "gladly", "with a smile", "as well as possible"),
    ),
    "very": ("very", "rather", "quite", "extremely", "a little", "so", "unusually", "really"),
    "maybe": ("perhaps", "maybe", "probably", "certainly", "of course", "surely"),
    "but": ("But", "However,", "Still,", "Even so,", "Nevertheless,", "Unfortunately,", "All the same,"),
    "material": ("wooden", "glass", "metal", "paper", "leather", "stone", "clay", "brass", "copper", "iron", "tin"),
    "thing": (
        "{object}",
        "{adj_thing} {object}",
        "{colour} {object}",
        "{adj_thing}, {colour} {object}",
        "{object} that nobody had used for years",
        "{material} {object_m}",
    ),
    "object_m": ("box", "bowl", "cup", "bell", "button", "bird", "horse", "mask", "flower", "heart", "toy"),
    # Full sentences about weather in the past.
    "weather_past": (
        "It was {adj_good} {daytime}, and {weather_effect}.",
        "It was {adj_bad} {daytime}, and {bad_effect}.",
        "It had rained {rain_time}, and {wet_effect}.",
        "{sky_past.cap}.",
        "{sky_good.cap}, and {weather_effect}.",
        "{sky_bad.cap}, and {bad_effect}.",
        "Although {sky_bad}, it was not {temperature}.",
        "The weather had been {weather_adj} for {number} days.",
        "There was {weather_noun} {daytime}.",
        "Because of {noun_bad}, {few_people} were outside.",
        "For once, it was neither too hot nor too cold.",
        "The forecast had promised sunshine, but {sky_bad} instead.",
        "The forecast had warned of {noun_warn}, but {sky_good} instead.",
    ),
    "weather_adj": (
        *("cold", "warm", "windy", "dry", "hot", "mild", "cool", "bright", "grey", "misty", "chilly", "stormy"),
        *("pleasant", "frosty", "cloudy", "sunny"),
    ),
    "daytime": ("that morning", "that day", "that afternoon", "that evening", "outside", "as usual"),
    "rain_time": ("all night", "since dawn", "for {number} days", "in the night", "all week", "earlier that day"),
    "adj_good": ("warm", "dry", "hot", "mild", "bright", "pleasant", "sunny", "clear"),
    "adj_bad": ("cold", "windy", "grey", "misty", "chilly", "stormy", "frosty", "wet", "cool"),
    "noun_warn": ("heavy rain", "snow", "frost", "thick fog", "a storm", "thunder and hail"),
    "times": ("twice", "three times", "four times", "several times", "a few times", "more than once"),
    "noun_bad": ("the heavy rain", "the thick fog", "the cold wind", "the frost", "the drizzle", "the storm"),
    "sky_good": (
        *("the sun was shining", "the sky was clear", "the rain had just stopped", "the sun rose slowly"),
        *("there was not a cloud in the sky", "a light breeze was blowing", "the clouds had disappeared"),
    ),
    "sky_bad": (
        *("snow was falling", "a cold wind was blowing", "thin fog hung in the air", "dark clouds covered the sky"),
        *("thunder rolled in the distance", "it was drizzling", "it was pouring with rain", "the sky was grey"),
    ),
    "bad_effect": (
        *(
            "the streets were almost empty",
            "everyone wore a coat",
            "people stayed indoors",
            "nobody was in the mood to talk",
        ),
        *("smoke rose from the chimneys", "the windows rattled", "the birds were silent", "hands and noses turned red"),
        *(
            "the lamps were lit early",
            "few people went out",
            "the cat did not leave the stove",
            "everyone walked faster",
        ),
    ),
    "temperature": ("cold", "unpleasant", "dark yet", "as cold as the day before", "cold enough for gloves"),
    "weather_noun": (
        *("heavy rain", "thick fog", "bright sunshine", "a cold wind", "a light breeze", "fresh snow", "a hard frost"),
        *("a fine drizzle", "low cloud", "a strong wind from the north"),
    ),
    "weather_effect": (
        *("the streets were full of people", "the leaves hardly moved", "nobody needed a coat"),
        *("the windows stood open", "the air smelled of grass", "birds sang in the trees"),
        *("laundry was drying in the gardens", "the light was soft", "the shadows were long", "nobody was in a hurry"),
        *("the sky looked huge", "the roofs shone in the light", "children played outside"),
    ),
    "wet_effect": (
        *("the paths were full of mud", "water dripped from the roofs", "everything smelled fresh"),
        *("the grass was wet", "the river was higher than usual", "the ground was soft", "nobody had dry shoes"),
    ),
    "sky_past": (
        *(
            "the sun was shining",
            "snow was falling",
            "a cold wind blew",
            "the sky was clear",
            "thin fog hung in the air",
        ),
        *("dark clouds covered the sky", "the moon was already up", "the rain had just stopped", "it was getting dark"),
        *("the first stars appeared", "the sun rose slowly", "thunder rolled in the distance", "it was drizzling"),
    ),
    "few_people": ("only a few people", "hardly any people", "very few people", "no more than {number} people"),
}


def person(rng: random.Random, but: str = "", pronoun: str = "") -> tuple[str, str, str, str]:
    """Return one of NAMES, never the one named `but`, and with that subject pronoun if one is given."""
    return rng.choice([name for name in NAMES if name[0] != but and pronoun in ("", name[1])])


def bind(who: tuple[str, str, str, str], suffix: str = "") -> dict[str, str]:
    """Return the bindings name, he, him, his, himself, man, boy (each with `suffix`) that speak of one person."""
    name, he, him, his = who
    male = he == "he"
    words = {
        "name": name,
        "he": he,
        "him": him,
        "his": his,
        "himself": "himself" if male else "herself",
        "man": "man" if male else "woman",
        "boy": "boy" if male else "girl",
    }
    return {key + suffix: word for key, word in words.items()}


def pair(rng: random.Random) -> dict[str, str]:
    """Return bindings for two people whose pronouns differ, the second with the suffix 2."""
    first = person(rng)
    second = person(rng, first[0], "she" if first[1] == "he" else "he")
    return bind(first) | bind(second, "2")


def join(sentences: Iterable[str]) -> str:
    """Return `sentences` with one space between them, without the empty ones."""
    return " ".join(sentence for sentence in sentences if sentence)
