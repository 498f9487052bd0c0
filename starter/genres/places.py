"""Descriptions of towns, rooms, landscapes, buildings, shops and seasons."""

import random
import re

from starter.grammar import expand, with_article

_OPTION = re.compile(r"\[([^\[\]]*)\]")
_ARTICLE = re.compile(r"\b([Aa])n? (?=(\w+))")
_START = re.compile(r"((?:^|[.!?] |\.\" |\n)\"?)([a-z])")

# L introduces the place, D describes a part of it, P says what people do there, H tells its past, E ends.
SHAPES = (
    "LDDP/DE",
    "LDDD/PD/E",
    "L/DDD/PE",
    "LDPD/HDE",
    "LH/DDD/P",
    "DDL/PE",
    "LDDDD/PDE",
    "L/DP/DP/E",
    "LP/DDDD",
    "LDH/DPDE",
    "DLP/DDE",
    "LDD/DH/PE",
    "LDDDDE",
    "LDP/DDHD",
    "L/PDD/HDE",
    "DD/LP/DE",
    "LHPDDD",
    "LDDPDDE",
    "DPL/DDH",
    "L/DDDDPE",
    "LDDD/PD/HPE",
    "LHD/DDP/DE",
)

RULES: dict[str, tuple[str, ...]] = {
    "size": (
        "small",
        "large",
        "tiny",
        "quiet",
        "busy",
        "pleasant",
        "charming",
        "sleepy",
        "lively",
        "modest",
        "friendly",
    ),
    "old": (
        "old",
        "ancient",
        "modern",
        "simple",
        "plain",
        "handsome",
        "elegant",
        "ordinary",
        "strange",
        "pretty",
        "ugly",
    ),
    "color": ("white", "yellow", "gray", "pale blue", "dark green", "red", "brown", "orange", "cream", "black", "pink"),
    "stuff": ("brick", "stone", "wood", "glass", "concrete", "marble", "steel"),
    "tree": ("oak", "lime", "chestnut", "apple", "birch", "pine", "willow", "maple", "walnut", "cherry", "olive"),
    "bird": ("sparrows", "pigeons", "crows", "swallows", "geese", "ducks", "owls", "robins", "blackbirds"),
    "beast": ("cows", "sheep", "goats", "horses", "deer", "rabbits", "hares", "wild pigs"),
    "flower": ("roses", "tulips", "daisies", "violets", "sunflowers", "lilies", "poppies", "lavender", "geraniums"),
    "crop": ("wheat", "corn", "barley", "potatoes", "cabbage", "grapes", "beans", "hay"),
    "shop": (
        "bakery",
        "bookshop",
        "tailor's shop",
        "shoe shop",
        "flower shop",
        "pharmacy",
        "tea shop",
        "cafe",
        "toy shop",
        "grocery",
        "music shop",
        "butcher",
        "cheese shop",
        "hat shop",
    ),
    "job": (
        "teachers",
        "farmers",
        "nurses",
        "office workers",
        "students",
        "builders",
        "clerks",
        "drivers",
        "mothers with small children",
        "retired couples",
        "tourists",
        "schoolchildren",
        "young families",
        "shopkeepers",
    ),
    "do": (
        "read the newspaper",
        "play chess",
        "drink coffee",
        "talk about the weather",
        "feed the birds",
        "wait for the bus",
        "listen to music",
        "eat ice cream",
        "rest for a while",
        "meet their friends",
        "take photographs",
        "paint pictures",
        "argue about football",
        "knit and gossip",
        "watch the clouds",
        "share a meal",
    ),
    "when": (
        "in the morning",
        "in the evening",
        "at noon",
        "on Sundays",
        "on market days",
        "after school",
        "in summer",
        "on cold days",
        "in the afternoon",
        "on warm days",
        "during the holidays",
        "after work",
        "when the sun is out",
        "at the end of the week",
        "in early spring",
    ),
    "smell": (
        "fresh bread",
        "wet leaves",
        "coffee",
        "old paper",
        "soap",
        "wood smoke",
        "cut grass",
        "oranges",
        "warm dust",
        "candle wax",
        "rain",
        "leather",
        "onions and garlic",
        "pine needles",
        "cinnamon",
        "paint",
        "hay",
    ),
    "sound": (
        "the ticking of a clock",
        "distant traffic",
        "the bells of a church",
        "children's voices",
        "the wind in the trees",
        "a radio",
        "the hum of machines",
        "birdsong",
        "footsteps",
        "rain on the roof",
        "somebody playing the piano",
        "the barking of a dog",
        "the laughter of neighbors",
        "a slow train",
    ),
    "num": ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "twelve"),
    "years": ("fifty", "sixty", "eighty", "a hundred", "two hundred", "three hundred", "almost four hundred"),
    "near": ("next to", "behind", "in front of", "near", "opposite", "beside", "not far from", "to the left of"),
    "feel": (
        "calm",
        "at home",
        "happy",
        "small",
        "lonely",
        "welcome",
        "young again",
        "a little sad",
        "safe",
        "curious",
        "cheerful",
        "sleepy",
    ),
    "verdict": (
        "[It|This] is not a place for people who [are in a hurry|need excitement].",
        "Anyone who comes here once [wants to return|will come back].",
        "There are more beautiful places, but few [are|feel] so [friendly|peaceful|real].",
        "The place [always |]makes me {feel2}.",
        "Nothing here is [perfect|famous], and yet [I would not change a thing|nobody complains].",
        "You have to see it [with your own eyes|{when}] to understand [it|what I mean].",
        "If I could choose, I would [stay|live] here [for the rest of my life|for a year].",
        "It is [hard|not easy] to say why [it stays in the mind|people like it so much].",
        "[Perhaps|Maybe] it will look [quite |]different in ten years, but [today|for now] it is "
        "[lovely|fine] as it is.",
        "When it is time to leave, [most|many] visitors [look back|are sorry].",
        "One visit is hardly enough[ to see everything|].",
        "Some people find it [dull|too quiet|too noisy]; others would [never live|not want to be] anywhere else.",
        "[In the end|All in all], it is [the people|the light|the small things] one remembers best.",
    ),
    "feel2": ("feel calm", "happy", "smile", "feel at home", "think of my childhood", "want to sing"),
}

KINDS: dict[str, dict[str, tuple[str, ...]]] = {
    "town": {
        "L": (
            "{name} is a {size} town [in the hills|on a wide plain|in the valley of a slow river|at the edge "
            "of a forest].",
            "The town of {name} lies [between two hills|on both sides of a river|where two old roads meet].",
            "About {num} thousand people live in {name}, a {size} town with [narrow|crooked|broad] streets.",
            "[Few maps show|Hardly anyone has heard of] {name}, although [it is worth a visit|the town is "
            "{years} years old].",
            "When the train stops in {name}, [hardly anyone gets off|you can see the whole town from the platform].",
            "If you follow the main road [to the north|for an hour], you will come to {name}, a {size} town.",
            "Is {name} [beautiful|a nice town]? [That depends on the weather|Most people would say yes|Not at "
            "first sight].",
        ),
        "D": (
            "[In the middle|At its center] [there is|lies] a square with a fountain and {num} {tree} trees.",
            "The town hall, a {old} building of {stuff}, has a [clock|tower] that can be seen from [far "
            "away|everywhere].",
            "Most of the houses are {color}, and [many|some] have {flower} in front of the windows.",
            "The main street [leads|runs] from the [station|old gate] to the [church|hospital].",
            "There is a {shop} on one corner and a {shop2} on the [other|next].",
            "A [wooden|stone|narrow] bridge [crosses|leads over] the [river|railway].",
            "The streets near the market are so narrow that [no car can pass|two people can hardly walk side by side].",
            "The newer part[ of the town|] has [wide streets|tall blocks of flats], a swimming pool and a "
            "[high school|cinema].",
            "Behind the last houses, fields of {crop} begin.",
            "Almost every street is lined with {tree} trees.",
            "There are {num} bridges, {num2} churches and only one traffic light.",
            "The air [often |]smells of {smell3}[, most of all in the morning|].",
        ),
        "P": (
            "{when}, {job} [sit|meet] [in the square|in the park|under the trees] to {do}.",
            "Most people work in [a paper factory|the hospital|small shops|the fields around the town|a large bakery].",
            "{when} the streets are [almost |]empty, and all you can hear is {sound}.",
            "{job} like the place because it is [cheap|clean|safe|quiet].",
            "Everyone seems to know everyone else, and [a stranger is noticed at once|news travels fast].",
            "The market takes place [twice a week|every Saturday], and farmers sell [eggs and cheese|fruit "
            "and honey] there.",
        ),
        "H": (
            "{years} years ago, there was nothing here but [a mill|a farm|swamp|an inn].",
            "A great fire destroyed half of the town, but it was rebuilt [within a few years|more beautiful "
            "than before].",
            "It used to be [rich|famous for its cloth|larger], until the factory closed.",
            "The name comes from a [farmer|saint] whom nobody remembers any more.",
            "When the railway was built, the number of people doubled within ten years.",
        ),
    },
    "room": {
        "L": (
            "The room is {size}, with {num3} windows that look out on [a garden|the street|a courtyard].",
            "[My|My aunt's|Our] living room is the {warm} room in the house.",
            "You enter the {kind} through a [low|heavy|squeaking] door.",
            "The {kind} lies at the end of a [long|dark] corridor.",
            "There is hardly a {warm2} place in the building than the {kind}.",
            "Nothing in the {kind} is new, but everything is [clean|in its place].",
            "What [do you see|does one notice] first in the {kind}? [The light, I think|The books, "
            "probably|The large table].",
        ),
        "D": (
            "A {color} carpet covers [most of |]the floor[, which is made of {tree2}|].",
            "Against one wall stands a [tall|heavy|narrow] [closet|shelf|cupboard] full of "
            "[books|plates|boxes|old letters].",
            "On the table, there [is a bowl of [apples|nuts|lemons]|is a vase with {flower}|are [pens and "
            "papers|two candles]].",
            "The curtains are {color} and [reach the floor|move in the wind|have seen better days].",
            "A lamp with a {color} shade gives a [soft|warm|weak] light {when2}.",
            "Above the [sofa|fireplace|desk] hangs [a mirror|an old map|a picture of a mountain|a photo of a wedding].",
            "The walls are [painted {color}|bare|covered with photographs].",
            "[There are|I can see] {num} chairs, none of which [looks like another|matches the table].",
            "[In the corner|By the window] [stands|is] [a piano|an armchair|a small desk|a sewing machine|an "
            "iron stove].",
            "The ceiling is [high|low], and one can hear {sound} [through the thin walls].",
            "It smells of {smell}[ and a little of {smell2}|].",
            "On the sill, {num} plants [fight for|enjoy] the [morning |]light.",
        ),
        "P": (
            "{when}, the [family|whole house] comes here to {do2}.",
            "This is where [guests are received|letters are written|plans are made|birthdays are celebrated].",
            "A [gray|fat|black] cat sleeps [on the sofa|near the stove|on a pile of newspapers] all day[ long|].",
            "I like to sit here {when} and {do3}.",
            "Nobody is allowed to [smoke|speak loudly|move the furniture] in this room.",
        ),
        "H": (
            "The furniture was [made|bought] by [a grandfather|a great-aunt] many years ago.",
            "For a long time, the room was used [as a store|only for guests|as a workshop].",
            "Years ago, [a painter|a teacher|a tailor] lived here and left a box of tools behind.",
        ),
    },
    "landscape": {
        "L": (
            "[West|East|North|South] of {name}, the land [rises|becomes hilly|is as flat as a table].",
            "The valley [near|below] {name} is [long and narrow|wide and green|hidden between two mountains].",
            "[A path|A narrow road] leads from {name} [up into the hills|through the forest|to a small lake].",
            "The forest near {name} is [dark and old|full of light|larger than it looks on the map].",
            "[From the top of the hill|From the old tower near {name}], you can see [the whole valley|for miles].",
            "[Three hours on foot|Half a day's walk] from {name}, there is a {size} lake.",
        ),
        "D": (
            "A [clear|shallow|fast] stream [runs|winds] between [smooth stones|fields of {crop}|old {tree} trees].",
            "{beast} [graze|can be seen] on the slopes {when5}.",
            "In spring, the meadows are full of {flower2}.",
            "The ground is [soft|stony|sandy], and [few trees grow here|the path is easy to follow].",
            "Far away, [mountains|blue hills] [mark|close] the horizon[, and there is snow on them until June|].",
            "[Fields of {crop}|Orchards] [lie|stretch] on both sides[ of the road|].",
            "[Above|Over] the trees, {bird} [circle|fly] [in the warm air|in large groups].",
            "The wind [never stops|smells of {smell3}|bends the tall grass].",
            "[Here and there|Now and then] one [passes|sees] a [lonely|ruined|whitewashed] farmhouse.",
            "A single {tree} tree stands [on the hill|in the middle of a field], [bent|shaped] by the wind.",
            "{when2}, the [rocks|clouds|hills] turn {color2}.",
            "Apart from {sound2}, there is [no sound|complete silence].",
            "After heavy rain, a [thin|white] waterfall [appears|comes down] between the rocks.",
        ),
        "P": (
            "[Hikers|Walkers] come {when}, but [one can walk for hours and meet nobody|there is room for all of them].",
            "A shepherd [who has lived here all his life|with two dogs] [knows|will show you] the way.",
            "[Children|Families] [swim|fish] in a pool of the stream during the holidays.",
            "Farmers cut the hay [by hand|twice a year].",
            "There is a [bench|wooden hut] where tired people can {do4}.",
        ),
        "H": (
            "Thousands of years ago, ice covered [the whole region|all of this].",
            "[Iron|Silver|Salt] was once dug [out of the hills|here], and some of the old tunnels are still open.",
            "People say that [a king|a holy man|a giant] is buried under [the hill|a stone] here.",
        ),
    },
    "shop": {
        "L": (
            "{owner}'s {shop} is [in a side street|on the corner of the market square|near the station] in {name}.",
            "There is a {size} {shop} in {name} that [everyone knows|you cannot miss|few visitors find].",
            "The {shop} in {name} has opened at seven every morning for thirty years.",
            "If you need [help|advice|a gift], go to the {size} {shop} in {name}.",
            "You could walk past {owner}'s {shop} in {name} without [seeing|noticing] it.",
        ),
        "D": (
            "A bell rings when the door opens.",
            "The sign above the door is {color}, and [the letters are fading|one letter is missing].",
            "The shelves [reach the ceiling|are made of {tree2}|are always full].",
            "In the window, [a cat sleeps|{flower} stand in a jar|a model train goes around].",
            "Everything smells of {smell}.",
            "The counter is [older than the owner|made of dark wood|covered with small drawings].",
            "[Two|Three] chairs stand near the [door|stove] for customers who have to wait.",
            "The prices are written [by hand|in chalk] on a black board.",
            "[At the back|Behind a curtain] is a small workshop with a long table.",
            "The floor creaks[ with every step|], and in the background one can hear {sound}.",
            "There is no [computer|card machine], only an old cash register.",
        ),
        "P": (
            "{when}, {job} come in, [some to buy and some to talk|though not all of them buy anything].",
            "{owner} remembers [the name of every customer|what each customer bought last time].",
            "Nobody is [sent away|hurried], [and children get a small gift|even if they only want to look].",
            "On Saturdays, the line [reaches the street|is long], but [it moves quickly|nobody minds].",
            "{owner} [repairs|orders|finds] things that [other shops no longer sell|nobody else has].",
        ),
        "H": (
            "{owner}'s [grandparents|parents] started the business with [one table|a loan from a friend].",
            "Before that, the building was [a bank|a stable|a school|a post office].",
            "When a big supermarket opened nearby, everyone expected the shop to close, but it did not.",
        ),
    },
    "building": {
        "L": (
            "The {hall} in {name} is [a {old} building|one of the tallest buildings in the town|a house of {stuff}].",
            "Nobody who visits {name} can [overlook|miss] the {hall}.",
            "The {hall} stands [on a low hill|at the end of an avenue of {tree} trees|in the middle of {name}].",
            "[Who built] the {hall} in {name}? [Nobody knows for certain|The records are lost].",
            "The {hall} of {name} has {num} floors, and [each of them is different|visitors may see all of them].",
        ),
        "D": (
            "Its walls are [thick|covered with ivy|painted {color}|made of {color} stone].",
            "[Wide|Worn|A dozen] steps lead up to the entrance, which is guarded by two lions of {stuff2}.",
            "The roof is [flat|steep|covered with red tiles], and {bird} [nest|live] [under|on] it.",
            "Inside, it is [cool|dark|surprisingly bright], and every [word|step] echoes.",
            "A wide staircase leads to the [first floor|great hall].",
            "The windows are [narrow|tall|round] and [let in little light|were made by a famous artist].",
            "A garden with {flower} and {tree} trees surrounds the building.",
            "The clock on the tower is [always five minutes slow|as large as a cart wheel].",
            "[Long|Endless] corridors [connect|lead to] more than a hundred rooms.",
            "From the [top floor|balcony], one can see the whole town.",
            "In one of the rooms, there is a collection of [clocks|old maps|stuffed birds|musical instruments|coins].",
        ),
        "P": (
            "{when}, {job} sit on the steps to {do}.",
            "About {num} hundred people [visit it|go in and out] every week.",
            "Guided tours [begin|start] [every hour|at ten and at three], and children do not have to pay.",
            "[Concerts|Exhibitions|Talks] are held here {when3}.",
            "A [guard|caretaker] [in a {color} coat|with a bunch of keys] [opens|locks] the doors.",
        ),
        "H": (
            "It was built {years} years ago by a rich [merchant|family|duke].",
            "During the war, it was used as a hospital.",
            "It has been [rebuilt|repaired] {num} times, the last time after a fire.",
            "The plans were drawn by a young woman who had never designed a house before.",
        ),
    },
    "season": {
        "L": (
            "{season} has come to {name}.",
            "In {name}, {season} is the [finest|quietest|busiest] time of the year.",
            "When {season} comes, {name} [changes|looks like a different place].",
            "I remember {season} in {name} [very well|better than anything else].",
            "How does {season} begin in {name}? [Without any warning|Slowly|With a change of wind].",
        ),
        "D": (),
        "P": (
            "{when4}, {job} meet [in the square|in the park|in the cafes] to {do}.",
            "{job} [walk|go] [more slowly|faster] than [usual|in the rest of the year].",
            "People talk of little else than the weather.",
            "From open doors comes the smell of {smell}.",
            "The children [can hardly wait|count the days] until the holidays.",
        ),
        "H": (
            "Years ago, {season} was [longer|different], the old people say.",
            "Last year, it came {num} days [early|late].",
        ),
    },
}

SEASONS: dict[str, tuple[str, ...]] = {
    "spring": (
        "The snow [melts|has melted], and the [streams|gutters] are full of [cold|rushing] water.",
        "The first {flower} open in the gardens.",
        "The {tree} trees [are covered with|show their] [pale |]green leaves.",
        "The evenings grow lighter[ day by day|].",
        "{bird} build their nests [under the roofs|in the hedges].",
        "It [still |]rains often, but the rain is [soft|warm].",
        "Farmers plow the fields and sow {crop2}.",
        "Windows are opened, and [carpets hang over the rails|winter coats disappear into closets].",
        "Some mornings are still [frosty|cold enough for gloves].",
        "Young animals [stand|stumble] [on weak legs |]in the meadows.",
    ),
    "summer": (
        "The days are long, and it is [light|bright] until late in the evening.",
        "The heat [lies|hangs] over the [roofs|fields] like a blanket.",
        "Dust covers the {flower} at the side of the road.",
        "In the shade of the {tree} trees, it is [pleasantly|a little] cool.",
        "Dogs sleep [under tables|in doorways] and do not even bark.",
        "Wheat ripens in the fields.",
        "Now and then a thunderstorm [clears|cools] the air.",
        "Ice cream melts faster than [it can be eaten|the children can eat it].",
        "The grass has turned [yellow|brown].",
        "Crickets sing all night.",
        "Windows stay open, and one hears {sound}.",
    ),
    "autumn": (
        "The leaves of the {tree} trees turn [red and yellow|gold].",
        "In the mornings, fog [lies|hangs] over the [fields|river].",
        "Baskets of apples and pears stand in front of the houses.",
        "{bird2} gather [on the wires|in the fields] before their long journey.",
        "The wind [chases|blows] dry leaves through the streets.",
        "It [gets|grows] dark a little earlier each day.",
        "The harvest is [in|over], and the fields are bare.",
        "Rain [drums|beats] [on the roofs|against the windows].",
        "Mushrooms [appear|grow] [in the forest|between the roots].",
        "Smoke rises from the chimneys for the first time since spring.",
    ),
    "winter": (
        "Snow [covers|lies on] the roofs and the [cars|fences].",
        "The branches of the {tree} trees are black and bare.",
        "The pond is frozen, and [children skate on it|ducks walk on the ice].",
        "It is dark by five o'clock[ in the afternoon|].",
        "Every breath turns into a [small |]white cloud.",
        "Icicles [hang|grow] from the [gutters|window sills].",
        "The snow [swallows|softens] every sound.",
        "{bird3} [search|look] for seeds [in the gardens|under the hedges].",
        "Cars refuse to start, and buses are late.",
        "[Lamps|Candles] shine in the windows.",
        "The sun [hangs low|gives light but no warmth].",
    ),
}

NAMES = (
    "Alder",
    "Ashby",
    "Bramley",
    "Corfield",
    "Dunmore",
    "Elston",
    "Farley",
    "Glenwood",
    "Hadley",
    "Ivyton",
    "Kelby",
    "Langdon",
    "Merrow",
    "Norwood",
    "Otley",
    "Penfield",
    "Quarley",
    "Ridgeway",
    "Stanton",
    "Thornby",
    "Upton",
    "Wexley",
)
OWNERS = ("Mr. Finch", "Mrs. Gold", "Mr. Patel", "Mrs. Lind", "Mr. Rossi", "Mrs. Hart", "Mr. Bloom", "Mrs. Weber")
BOUND: dict[str, tuple[str, ...]] = {
    "warm": ("warmest", "brightest", "smallest", "largest", "quietest", "coldest"),
    "warm2": ("warmer", "brighter", "stranger", "quieter", "tidier"),
    "kind": ("kitchen", "study", "waiting room", "dining room", "attic", "guest room", "music room"),
    "num3": ("two", "three", "four"),
    "num2": ("two", "three", "four", "five"),
    "tree2": ("oak", "pine", "walnut", "cherry wood"),
    "stuff2": ("stone", "marble", "iron"),
    "hall": (
        "museum",
        "library",
        "theater",
        "castle",
        "old school",
        "town hall",
        "palace",
        "art gallery",
        "university",
    ),
    "when2": ("in the evening", "at sunset", "on gray days", "after sunset"),
    "when3": ("once a month", "in winter", "on Friday evenings", "all year round"),
    "when4": ("in the afternoon", "after work", "on Sundays", "at noon"),
    "do2": ("talk and laugh", "play cards", "listen to the news", "share a meal", "drink tea"),
    "do3": ("read", "look out of the window", "think about the day", "write letters", "do nothing at all"),
    "smell2": ("dust", "lemon", "tobacco", "mint"),
    "sound2": ("the wind", "a few birds", "the stream", "the bells of the cows", "the buzzing of insects"),
    "color2": ("red", "pink", "purple", "gold", "orange"),
    "crop2": ("wheat", "barley", "oats", "corn"),
    "bird2": ("swallows", "geese", "cranes"),
    "bird3": ("sparrows", "robins", "crows"),
    "do4": ("rest for a while", "watch the clouds", "eat their bread and cheese", "enjoy the view"),
    "smell3": ("wet leaves", "hay", "rain", "cut grass", "pine needles", "warm dust", "wood smoke"),
    "when5": ("in the morning", "in the evening", "from spring to autumn", "in the early light"),
    "flower2": ("daisies", "violets", "poppies", "wild flowers", "blue and yellow flowers"),
    "season": ("spring", "summer", "autumn", "winter"),
}


def _compose(rng: random.Random, shape: str, parts: dict[str, tuple[str, ...]], bound: dict[str, str]) -> str:
    """Return the parts that `shape` names, none of them twice, with every choice made."""
    decks = {letter: rng.sample(lines, len(lines)) for letter, lines in parts.items()}
    text = "".join("\n\n" if c == "/" else decks[c].pop() + " " for c in shape if c == "/" or decks.get(c))
    text = expand(rng, RULES, text, **bound)
    while "[" in text:
        text = _OPTION.sub(lambda m: rng.choice(m.group(1).split("|")), text)
    text = re.sub(r" +", " ", re.sub(r" *\n *", "\n", text)).strip()
    text = _ARTICLE.sub(lambda m: m.group(1) + with_article(m.group(2))[1:].split(" ")[0] + " ", text)
    return _START.sub(lambda m: m.group(1) + m.group(2).upper(), text)


def write(rng: random.Random) -> str:
    """Return one description of a place."""
    while True:
        kind = rng.choice(tuple(KINDS))
        bound = {symbol: rng.choice(options) for symbol, options in BOUND.items()}
        bound["name"] = rng.choice(NAMES)
        bound["owner"] = rng.choice(OWNERS)
        bound["shop"], bound["shop2"] = rng.sample(RULES["shop"], 2)
        parts = {**KINDS[kind], "E": RULES["verdict"]}
        if kind == "season":
            parts["D"] = SEASONS[bound["season"]]
        text = _compose(rng, rng.choice(SHAPES), parts, bound)
        if 50 <= len(text.split()) <= 220:
            return text
