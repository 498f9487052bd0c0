"""How-to instructions and recipes, as numbered steps or as prose."""

import random
import re

from starter.grammar import expand, with_article

_OPTION = re.compile(r"\[([^\[\]]*)\]")
_ARTICLE = re.compile(r"\b([Aa])n? (?=(\w+))")
_START = re.compile(r"((?:^|[.!?] |\.\" |\n(?:\d+\. )?)\"?)([a-z])")

# T is a title, O an opening, N what is needed, S all the steps, W a tip or warning of the task, E an ending.
SHAPES = (
    "O/S/W",
    "T/O/S/W",
    "T/ON/S/W",
    "O N/S/E",
    "OS/E",
    "N/S/WE",
    "T/O/S",
    "O/S/E",
    "T/NO/S/E",
    "OWS",
    "OW/S/E",
    "NOS",
    "O/SWE",
    "T/OW/S",
    "NOS/E",
    "S/WE",
    "T/S/WE",
    "ONSE",
    "W/OS",
    "T/ON/S/WE",
    "N/OS/W",
)

RULES: dict[str, tuple[str, ...]] = {
    "open": (
        "{doing} is [not as hard as|easier than|less difficult than] many people [think|believe].",
        "Anyone can learn how to {task}.",
        "Here is how to {task}[ without any stress|, step by step|].",
        "[There are|You can find] many ways to {task}, but this one [always works|has never failed me|is "
        "the simplest].",
        "If you have never tried to {task}, [do not worry|start slowly].",
        "Do you want to {task}? [Then follow these steps|It takes some patience, but little skill|You "
        "have come to the right place].",
        "My [grandmother|uncle|neighbor|old teacher|aunt] showed me how to {task}, and I [still do it "
        "this way|have never forgotten it].",
        "Sooner or later, [everyone|almost everyone] has to {task}.",
        "People often ask me how to {task}. [This is what I tell them|The answer is simple].",
        "[You do not have to be|One does not need to be] an expert to {task}.",
        "With [a little|some] [time|patience] and [care|good will], [you|anyone] can {task}.",
        "Before you {task}, [read everything once|take a look at all the steps].",
        "It is [useful|good] to know how to {task}, [especially if you live alone|whatever your age].",
        "Learning to {task} took me [a whole summer|several attempts], but you can [save yourself the "
        "trouble|do it faster].",
    ),
    "end": (
        "That is all. [Well done!|Enjoy the result!|It was not so hard, was it?]",
        "After a few [tries|attempts], you will not need these instructions any more.",
        "If it does not work the first time, [try again|do not give up].",
        "[Practice|A little practice] makes everything easier.",
        "Now you can [show|explain to] a friend how it is done.",
        "The next time, it will take you only half as long.",
        "In the end, clean up and put everything back in its place.",
        "Take your time, and you will be [pleased|satisfied|happy] with the result.",
        "Once you have learned this, you will never forget it.",
        "And do not forget to [smile|have fun|take a break] now and then.",
    ),
    "first": ("First,", "To begin with,", "Begin like this:", "First of all,", "Start this way:", ""),
    "next": ("Then", "Next,", "After that,", "Now", "", "", "", "Afterward,", "", ""),
    "last": ("Finally,", "At the end,", "Last of all,", "To finish,", ""),
    "mins": ("five", "eight", "ten", "twelve", "fifteen"),
    "herb": ("parsley", "basil", "mint", "chives", "thyme"),
    "oil": ("oil", "olive oil", "butter"),
    "bowl": ("a bowl", "a large bowl", "a deep bowl", "a clean bowl"),
    "knife": ("sharp knife", "small knife"),
    "veg": ("carrots", "onions", "potatoes", "peppers", "beans", "mushrooms", "leeks"),
    "fruit": ("apples", "pears", "plums", "cherries", "peaches", "strawberries", "blackberries"),
    "nuts": ("walnuts", "almonds", "raisins", "pumpkin seeds"),
}

# The task, the same as a gerund, what is needed, a tip, and then the steps in order; a step with "?" can be left out.
TASKS: tuple[tuple[str, str, str, str, tuple[str, ...]], ...] = (
    (
        "cook a vegetable soup",
        "cooking a vegetable soup",
        "You need {v1}, {v2}, {oil} and [a liter|four cups] of water.",
        "A squeeze of lemon [at the end |]makes the soup [fresher|lighter].",
        (
            "[wash|peel] the {v1} and cut them into small [pieces|cubes]",
            "heat some {oil} in a large pot",
            "?fry the {v2} [gently|over low heat] until they are soft",
            "add the {v1} and cover everything with water",
            "let the soup [cook|simmer] for {mins} minutes, or until the vegetables are [tender|soft]",
            "?add salt and pepper, and taste it",
            "?press the soup through a sieve if you like it smooth",
            "[serve it|fill it into bowls] with fresh bread and a little {herb}",
        ),
    ),
    (
        "bake a simple fruit cake",
        "baking a simple fruit cake",
        "You need two cups of flour, one cup of sugar, three eggs, some butter and a few {f1}.",
        "If the top becomes too dark, cover the cake with paper.",
        (
            "heat the oven to 180 degrees",
            "beat the butter and the sugar in {bowl} until the mixture is [light|creamy]",
            "add the eggs, one [at a time|after the other]",
            "mix in the flour and a pinch of salt",
            "?stir in a handful of {nuts}",
            "wash the {f1}, cut them in half and place them on the dough",
            "bake the cake for about forty minutes[ in the middle of the oven|]",
            "?push a wooden stick into the middle; if it comes out clean, the cake is done",
            "let it cool before you cut it",
        ),
    ),
    (
        "make pancakes",
        "making pancakes",
        "For four people, you need two eggs, a cup of flour, a cup of milk and some butter.",
        "The first pancake is often the worst one, so do not be disappointed.",
        (
            "put the flour into {bowl}",
            "add the milk slowly[ and stir all the time|]",
            "beat the eggs and mix them in",
            "?let the batter rest for {mins} minutes",
            "melt a little butter in a flat pan",
            "pour in enough batter to cover the bottom[ of the pan|]",
            "turn the pancake when the edges are [dry|brown]",
            "?keep the finished ones warm in the oven",
            "serve them with [honey|jam|sugar and lemon]",
        ),
    ),
    (
        "cook perfect rice",
        "cooking perfect rice",
        "You only need one cup of rice, two cups of water and a little salt.",
        "Do not lift the lid [too often|while it cooks], because the steam would escape.",
        (
            "wash the rice in cold water until the water stays clear",
            "put the rice and the water into a pot",
            "?add half a spoonful of salt",
            "bring it to the boil",
            "turn the heat down and close the lid",
            "wait for about fifteen minutes",
            "take the pot off the stove and let it stand[ for a while|]",
            "?loosen the grains with a fork",
        ),
    ),
    (
        "make a fresh salad",
        "making a fresh salad",
        "You need a head of lettuce, two tomatoes, a cucumber, oil, vinegar and some {herb}.",
        "Add the dressing just before the meal, since the leaves [soon |]become soft.",
        (
            "wash the lettuce and dry it in a clean cloth",
            "tear the leaves into pieces",
            "slice the tomatoes and the cucumber",
            "?chop the herbs with a {knife}",
            "mix three spoons of oil with one spoon of vinegar",
            "?add salt, pepper and a little mustard",
            "pour the dressing over the salad and toss it[ gently|]",
            "?sprinkle some {nuts} on top",
        ),
    ),
    (
        "boil an egg",
        "boiling an egg",
        "All you need is an egg, a pot and some water.",
        "Large eggs need [about |]one minute more than small ones.",
        (
            "take the egg out of the refrigerator in good time",
            "fill a pot with water and bring it to the boil",
            "lower the egg into the water with a spoon",
            "wait five minutes for a soft egg or ten for a hard one",
            "?set a timer so that you do not forget it",
            "hold the egg under cold water for a moment",
            "?eat it with a pinch of salt",
        ),
    ),
    (
        "make jam from {f1}",
        "making jam from {f1}",
        "You need a kilo of {f1}, [half a kilo|a pound] of sugar, a lemon and some clean jars.",
        "Hot jam can burn the skin badly, so keep small children away.",
        (
            "wash the {f1} and remove the stems",
            "cut them up and put them into a large pot",
            "add the sugar and the juice of the lemon",
            "?let the fruit stand for an hour",
            "heat the mixture slowly until it boils",
            "stir it [often|all the time] for {mins} minutes",
            "drop a little jam on a cold plate to see if it becomes firm",
            "fill it into the jars while it is hot",
            "?write the date on each jar",
        ),
    ),
    (
        "bake bread at home",
        "baking bread at home",
        "You need flour, warm water, yeast and salt; nothing more.",
        "The water must not be too hot, because heat kills the yeast.",
        (
            "mix the flour, the yeast and the salt in {bowl}",
            "pour in the water and stir with a wooden spoon",
            "knead the dough for ten minutes[ on a floured table|]",
            "cover it and let it rise in a warm place for an hour",
            "shape a loaf and put it on a tray",
            "?cut the top with a {knife}",
            "bake it for forty minutes in a hot oven",
            "knock on the bottom; if it sounds hollow, the bread is ready",
            "?wait until it is cool before you slice it",
        ),
    ),
    (
        "make lemonade",
        "making lemonade",
        "You need four lemons, half a cup of sugar, water and ice.",
        "Honey can be used instead of sugar.",
        (
            "wash the lemons well",
            "press out the juice",
            "?remove the seeds",
            "dissolve the sugar in a cup of hot water",
            "mix the juice with the sugar water",
            "add a liter of cold water",
            "?put in a few leaves of mint",
            "pour it over ice and [serve it at once|enjoy it in the shade]",
        ),
    ),
    (
        "prepare a pot of tea",
        "preparing a pot of tea",
        "You need a teapot, fresh water and good tea.",
        "Green tea needs cooler water than black tea.",
        (
            "boil [fresh|cold] water in a kettle",
            "warm the pot with a little hot water",
            "add one spoonful of tea for each person",
            "pour the water over the leaves",
            "let the tea stand for three to five minutes",
            "?stir it once",
            "pour it through a strainer",
            "?offer milk, sugar or lemon",
        ),
    ),
    (
        "make pasta with tomato sauce",
        "making pasta with tomato sauce",
        "For two people, you need half a pound of pasta, a can of tomatoes, an onion, garlic and {oil}.",
        "Save a cup of the pasta water; it makes the sauce [smoother|creamier].",
        (
            "bring a large pot of water with salt to the boil",
            "chop the onion and the garlic",
            "heat some {oil} in a pan and fry the onion until it is golden",
            "?add the garlic for the last minute",
            "pour in the tomatoes and let the sauce cook for {mins} minutes",
            "put the pasta into the boiling water",
            "drain it when it is almost soft",
            "mix it with the sauce",
            "?finish it with cheese and fresh {herb}",
        ),
    ),
    (
        "change a bicycle tire",
        "changing a bicycle tire",
        "You need a new tube, two tire levers and a pump.",
        "Look for glass or a nail in the old tire, or the next hole will soon follow.",
        (
            "turn the bicycle upside down",
            "open the brake and take out the wheel",
            "let the rest of the air out of the tube",
            "lift the tire over the rim with the levers",
            "pull out the old tube",
            "?feel along the inside of the tire with your fingers",
            "pump a little air into the new tube and put it in",
            "press the tire back onto the rim with your hands",
            "put the wheel back and close the brake",
            "?pump until the tire is firm",
        ),
    ),
    (
        "plant tomatoes",
        "planting tomatoes",
        "You need young plants, good soil, a few sticks and a watering can.",
        "Water the soil and not the leaves, as wet leaves easily become sick.",
        (
            "wait until there is no more frost",
            "choose a [sunny|warm] place[ that is protected from rain|]",
            "dig a hole that is twice as wide as the roots",
            "?mix some compost into the soil",
            "set the plant a little deeper than before",
            "fill the hole and press the soil down",
            "push a stick into the ground and tie the stem to it",
            "water the plant well",
            "?break off the small side shoots every week",
            "pick the tomatoes when they are red all over",
        ),
    ),
    (
        "paint a room",
        "painting a room",
        "You need paint, a roller, a brush, tape and old newspapers.",
        "Open the windows while you work, because fresh paint [has a strong smell|can cause a headache].",
        (
            "move the furniture away from the walls",
            "cover the floor with newspapers",
            "stick tape along the edges of the windows",
            "?fill small holes and let them dry",
            "paint the corners with a brush",
            "roll the paint onto the walls from top to bottom",
            "wait until the first coat is dry",
            "?apply a second coat if the old color shows through",
            "pull off the tape before the paint is completely hard",
        ),
    ),
    (
        "sew on a button",
        "sewing on a button",
        "You need a needle, strong thread, scissors and the button itself.",
        "A match between the button and the cloth keeps the thread from becoming too tight.",
        (
            "cut a piece of thread as long as your arm",
            "push it through the eye of the needle",
            "tie a knot at the end",
            "hold the button in the right place",
            "come up through one hole and go down through the [next|opposite] one",
            "repeat this five or six times",
            "?wind the thread around the stitches",
            "push the needle to the back of the cloth and tie a knot",
            "cut off the rest of the thread",
        ),
    ),
    (
        "clean a window",
        "cleaning a window",
        "You need warm water, a drop of soap, a sponge and a dry cloth.",
        "Choose a cloudy day, since the sun dries the water too fast and leaves marks.",
        (
            "take the flowers and other things off the sill",
            "brush off the dust and the spider webs",
            "mix the soap with the water",
            "wash the glass with the sponge",
            "?do not forget the corners",
            "pull the water off with a rubber blade or wipe it away",
            "polish the glass with the dry cloth",
            "?clean the frame as well",
        ),
    ),
    (
        "wash a wool sweater",
        "washing a wool sweater",
        "You need cool water, mild soap and two towels.",
        "Never hang a wet sweater on a line, or it will become as long as a dress.",
        (
            "read the label inside the sweater",
            "fill a basin with cool water and add a little soap",
            "press the sweater [gently |]under the water",
            "leave it for {mins} minutes",
            "?do not rub it",
            "rinse it twice with clean water",
            "roll it in a towel to get the water out",
            "lay it flat on a dry towel",
            "?pull it into shape while it is damp",
        ),
    ),
    (
        "write a letter of complaint",
        "writing a letter of complaint",
        "Keep the bill and the number of your order at hand.",
        "Stay polite; an angry letter is seldom read to the end.",
        (
            "write down your name, your address and the date",
            "say in one sentence what the problem is",
            "explain when and where you bought the product",
            "describe what you have already tried",
            "?add copies of the bill and a photo",
            "tell the company what you expect, for example your money back",
            "set a date by which you want an answer",
            "?ask a friend to read the letter",
            "keep a copy for yourself",
        ),
    ),
    (
        "prepare for a job interview",
        "preparing for a job interview",
        "You will need your papers, clean clothes and a good night's sleep.",
        "Turn off your phone before you enter the building.",
        (
            "read everything you can find about the company",
            "think about why you want the job",
            "write down three things that you do well",
            "practice your answers aloud",
            "?ask a friend to play the part of the boss",
            "choose your clothes the evening before",
            "leave home early",
            "greet everyone and look them in the eyes",
            "ask one or two questions of your own",
            "?send a short message of thanks afterward",
        ),
    ),
    (
        "save money every month",
        "saving money every month",
        "You need a notebook, a pen and a second bank account.",
        "Small sums matter: two dollars a day make more than seven hundred a year.",
        (
            "write down everything you spend for four weeks",
            "divide the list into things you need and things you only want",
            "decide how much you can put aside",
            "move this sum to the second account on the day you are paid",
            "?cancel contracts that you do not use",
            "cook at home more often",
            "compare prices before you buy anything expensive",
            "?check your plan after three months",
        ),
    ),
    (
        "learn a new language",
        "learning a new language",
        "You need a good book, a notebook and somebody to talk to.",
        "Mistakes are not a problem; silence is.",
        (
            "set yourself a small goal for each week",
            "learn ten new words a day",
            "use every word in a sentence",
            "listen to songs or the radio in the new language",
            "?put notes with the right word on the things in your home",
            "repeat the old words before you learn new ones",
            "speak as early as you can",
            "?keep a diary with simple sentences",
            "read a short text every evening",
        ),
    ),
    (
        "fall asleep more easily",
        "falling asleep",
        "A dark room, a good pillow and fixed hours are all you need.",
        "If the problem lasts for several weeks, talk to a doctor.",
        (
            "go to bed at the same time every day",
            "do not drink coffee after [lunch|three o'clock]",
            "eat a light meal in the evening",
            "put your phone away an hour before bedtime",
            "?take a warm bath",
            "open the window for a few minutes",
            "lie on your back and breathe slowly",
            "?count your breaths up to ten and begin again",
            "get up and read something dull if you are still awake",
        ),
    ),
    (
        "pack a suitcase",
        "packing a suitcase",
        "You need a list, a few small bags and, of course, a suitcase.",
        "Medicine and papers belong in your hand luggage.",
        (
            "write a list of what you need for each day",
            "lay everything on the bed",
            "put half of it back into the closet",
            "roll the soft clothes instead of folding them",
            "place shoes and other heavy things at the bottom",
            "?fill the shoes with socks",
            "put liquids into a plastic bag",
            "lay shirts and jackets on top",
            "?weigh the suitcase before you leave",
        ),
    ),
    (
        "train a young dog",
        "training a young dog",
        "You need small treats, a leash and plenty of time.",
        "Never hit or shout at a dog, because fear makes learning impossible.",
        (
            "choose a quiet place",
            "hold a treat above the nose of the dog",
            'say the word "sit" in a calm voice',
            "wait until the dog sits down",
            "give the treat at once and praise the dog",
            "repeat the exercise five times a day",
            "?practice in different places",
            "stop before the dog becomes tired",
            "?give fewer treats as time goes by",
        ),
    ),
    (
        "treat a small burn",
        "treating a small burn",
        "You need cool water and a clean bandage.",
        "See a doctor if the burn is larger than your hand, or if a child is hurt.",
        (
            "move away from the heat",
            "hold the burn under cool running water for about twenty minutes",
            "take off rings and watches",
            "?do not use ice, butter or oil",
            "dry the skin around the burn carefully",
            "cover it loosely with a clean bandage",
            "leave blisters closed",
            "?drink some water and rest",
        ),
    ),
    (
        "make a paper kite",
        "making a paper kite",
        "You need strong paper, two thin sticks, glue and a long string.",
        "Never fly a kite near power lines or during a storm.",
        (
            "tie the two sticks together so that they form a cross",
            "run a string around the four ends",
            "lay the frame on the paper",
            "cut the paper a little larger than the frame",
            "fold the edges over the string and glue them down",
            "fix the long string where the sticks cross",
            "make a tail out of ribbons",
            "?paint a face on the paper",
            "wait for a windy day and run",
        ),
    ),
    (
        "start a small garden",
        "starting a small garden",
        "You need a spade, some seeds and a place that gets enough sun.",
        "Do not try to grow too much in the first year.",
        (
            "watch where the sun shines during the day",
            "remove the grass, the weeds and the stones",
            "dig the soil to the depth of the spade",
            "mix in some compost",
            "choose plants that are easy, such as beans, lettuce and radishes",
            "sow the seeds as deep as the packet says",
            "?mark the rows with small signs",
            "water the bed in the morning or in the evening",
            "pull out weeds while they are small",
            "?share your harvest with the neighbors",
        ),
    ),
    (
        "hang a picture",
        "hanging a picture",
        "You need a hammer, a nail, a pencil and a ruler.",
        "Make sure that no cable or pipe runs behind the spot.",
        (
            "hold the picture against the wall and step back",
            "mark the upper edge with a pencil",
            "measure the distance from the edge to the hook",
            "make a small cross at the right height",
            "?stick a piece of tape over it to protect the wall",
            "drive the nail in at a slight angle",
            "hang up the picture",
            "?check with a level whether it is straight",
        ),
    ),
    (
        "give a short speech",
        "giving a short speech",
        "You need one clear idea and a few small cards.",
        "Nobody notices your fear as much as you do.",
        (
            "decide what people should remember",
            "collect two or three examples",
            "begin with a question or a short story",
            "write only key words on the cards",
            "practice in front of a mirror",
            "?ask somebody to stop the time",
            "stand up straight and take a deep breath",
            "look at different people while you speak",
            "?make a pause after an important sentence",
            "end with your main idea",
        ),
    ),
    (
        "wrap a present",
        "wrapping a present",
        "You need paper, tape, scissors and a ribbon.",
        "Round things are easier to wrap if you put them into a box first.",
        (
            "remove the price",
            "lay the present in the middle of the paper",
            "cut the paper so that it covers all sides",
            "fold one side over the present and then the other",
            "fix it with tape",
            "fold the ends into triangles",
            "turn the triangles up and tape them down",
            "tie a ribbon around the present",
            "?write a small card",
            "?curl the ends of the ribbon with the scissors",
        ),
    ),
    (
        "remove a stain from a shirt",
        "removing a stain from a shirt",
        "You need cold water, soap and a soft cloth.",
        "The fresher the stain, the easier it is to remove.",
        (
            "act as soon as possible",
            "press a dry cloth on the stain, but do not rub",
            "hold the cloth under cold water",
            "put a little soap on the stain",
            "leave it for {mins} minutes",
            "rinse the shirt",
            "?repeat this if the stain is still there",
            "wash the shirt as usual",
            "?let it dry in the open air",
        ),
    ),
    (
        "fix a dripping tap",
        "fixing a dripping tap",
        "You need a wrench, a screwdriver and a new rubber seal.",
        "Take the old seal to the shop, so that you buy the right size.",
        (
            "turn off the water under the basin",
            "open the tap to let the rest of the water out",
            "?cover the drain so that no screw is lost",
            "take off the handle",
            "loosen the nut with the wrench",
            "pull out the old seal",
            "put in the new one",
            "put the tap together again",
            "turn on the water slowly and check that nothing drips",
        ),
    ),
    (
        "ride a horse for the first time",
        "riding a horse",
        "You need boots, long trousers, a helmet and a good teacher.",
        "Never walk up to a horse from behind.",
        (
            "let the horse smell your hand",
            "check that the saddle is tight",
            "?ask your teacher to hold the horse",
            "put your left foot into the stirrup",
            "swing your right leg over the back",
            "sit up straight and look ahead",
            "hold the reins loosely",
            "press gently with your legs to make the horse walk",
            "pull the reins a little to stop",
            "?reward the horse with a carrot",
        ),
    ),
    (
        "build a snowman",
        "building a snowman",
        "You need wet snow, a carrot, some stones and two branches.",
        "If the snow is too dry, a little water helps.",
        (
            "put on warm gloves",
            "form a small ball with your hands",
            "roll it through the snow until it is [big|heavy] enough",
            "make a second ball that is smaller",
            "lift it onto the first one",
            "?fill the gaps with snow",
            "put a third ball on top for the head",
            "use stones for the eyes and the carrot for the nose",
            "push the branches into the sides",
            "?lend your snowman a hat",
        ),
    ),
    (
        "choose a good melon",
        "choosing a good melon",
        "You only need your eyes, your hands and your nose.",
        "A melon that is cut should be eaten within three days.",
        (
            "look for a melon without cuts or soft spots",
            "lift it and compare it with others of the same size",
            "take the heavier one",
            "knock on it and listen for a deep sound",
            "?smell the end where the stem was",
            "wash the skin at home",
            "cut the melon in half and scoop out the seeds",
            "?keep it in the refrigerator for an hour",
            "slice it and serve it cold",
        ),
    ),
)


# First words of lists of advice, whose steps need no order.
_LOOSE = ("set yourself", "go to bed", "write down everything", "look for a melon", "write down your name")


def _steps(rng: random.Random, steps: tuple[str, ...]) -> str:
    """Return the steps, some optional ones left out, as a numbered list or as sentences."""
    kept = [step.removeprefix("?") for step in steps if not step.startswith("?") or rng.random() < 0.6]
    style = rng.randrange(3)
    if style == 0:
        return "\n\n" + "\n".join(f"{number}. {step}." for number, step in enumerate(kept, 1)) + "\n\n"
    if any(kept[0].startswith(word) for word in _LOOSE):
        return " ".join(f"{step}." for step in kept)
    lines: list[str] = []
    place = 0
    while place < len(kept):
        lead = "{first} " if place == 0 else "{last} " if place == len(kept) - 1 else "{next} "
        if kept[place].startswith("do not"):
            lead = ""
        if style == 1 and 0 < place < len(kept) - 2 and rng.random() < 0.4 and " and " not in kept[place]:
            joined = f"{kept[place]}[, and then| and] {kept[place + 1]}"
            place += 1
        else:
            joined = kept[place]
        lines.append(f"{lead}{joined}.")
        place += 1
    return " ".join(lines)


def _compose(rng: random.Random, text: str, bound: dict[str, str]) -> str:
    """Return `text` with every choice made, and its spaces, articles and capitals put right."""
    text = expand(rng, RULES, text, **bound)
    while "[" in text:
        text = _OPTION.sub(lambda m: rng.choice(m.group(1).split("|")), text)
    text = re.sub(r"\n{3,}", "\n\n", re.sub(r" +", " ", re.sub(r" *\n *", "\n", text))).strip()
    text = _ARTICLE.sub(lambda m: m.group(1) + with_article(m.group(2))[1:].split(" ")[0] + " ", text)
    return _START.sub(lambda m: m.group(1) + m.group(2).upper(), text)


def write(rng: random.Random) -> str:
    """Return one set of instructions."""
    while True:
        task, doing, needs, tip, steps = rng.choice(TASKS)
        bound = dict(zip(("v1", "v2"), rng.sample(RULES["veg"], 2), strict=True))
        bound["f1"] = rng.choice(RULES["fruit"])
        bound["task"] = expand(rng, RULES, task, **bound)
        bound["doing"] = expand(rng, RULES, doing, **bound)
        pieces = {
            "T": "How to {task}\n\n",
            "O": "{open} ",
            "N": needs + " ",
            "W": tip + " ",
            "E": "{end} ",
            "S": _steps(rng, steps) + " ",
            "/": "\n\n",
            " ": " ",
        }
        text = _compose(rng, "".join(pieces[part] for part in rng.choice(SHAPES)), bound)
        if 50 <= len(text.split()) <= 220:
            return text
