"""Short plain stories in the third person and the past tense: a setting, a person, a problem and how it ended."""

import random

from starter.genres import words
from starter.grammar import expand

# What each setting offers. Symbols in _FIXED are chosen once for a story.
_SETTINGS: dict[str, dict[str, tuple[str, ...]]] = {
    "forest": {
        "opening": (
            "Deep in the forest, where the trees stood close together, lived {job_a} called {name}.",
            "There was once a small house at the edge of a great forest, and in it lived {name}, {job_a}.",
            "{name} had lived among the trees all {his} life and knew every path by heart.",
            "Far from any road, in a forest of oak and pine, {name} worked as {job_a}.",
            "Nobody knew the forest better than {name}.",
            "Once upon a time, in a forest full of birds, there lived {a_young_man} named {name}.",
        ),
        "job": ("woodcutter", "hunter", "forester", "beekeeper", "charcoal burner", "mushroom picker"),
        "spot": ("under an old oak", "by the stream", "on a fallen trunk", "in a clearing", "near the fox's den"),
        "task": ("cut enough wood for the winter", "mend the roof of the hut", "mark the sick trees", "clear the path"),
        "tool": ("axe", "saw", "lantern", "knife", "basket", "rope"),
        "helper": ("old woodcutter", "ranger", "traveller", "girl from the mill", "bird watcher"),
        "locals": ("the foresters", "the families at the edge of the forest", "the woodcutters"),
        "where": ("in the forest", "among the trees", "in the woods"),
        "detail": (
            "Moss grew on the stones, and the air smelled of pine.",
            "The branches were so thick that hardly any light reached the ground.",
            "Somewhere a woodpecker was knocking on a trunk.",
            "Dry leaves covered the path, and every step made a noise.",
            "A deer raised its head, looked around and walked on.",
        ),
    },
    "distant land": {
        "opening": (
            "Once upon a time, in a distant land, there was {job.a} named {name}.",
            "Once upon a time, in a distant land, {name} lived in a house beside the king's road.",
            "In a distant land, beyond seven hills, lived {a_young_man} whose name was {name}.",
            "Long ago, when journeys still took weeks, {job_a} named {name} lived in a faraway country.",
            "In a kingdom that no longer exists, there was {job_a} known as {name}.",
            "A long time ago, in a land where winter lasted half the year, there lived {job_a} called {name}.",
            "Many years ago, in a country ruled by a wise queen, {name} earned a living as {job_a}.",
        ),
        "job": ("weaver", "shoemaker", "messenger", "blacksmith", "miller", "potter", "royal gardener", "shepherd"),
        "spot": ("at the palace gate", "beside the well", "in the royal garden", "on the long road", "under the wall"),
        "task": (
            "weave a cloak for the queen",
            "deliver a message to the palace",
            "guard the gate",
            "repair the crown",
        ),
        "tool": ("golden key", "lantern", "silver cup", "sword", "cloak", "horn"),
        "helper": ("wise old woman", "palace guard", "merchant", "wandering musician", "monk"),
        "locals": ("the people of the kingdom", "the servants of the palace", "the merchants and the farmers"),
        "where": ("in the kingdom", "in that land", "in the whole country"),
        "detail": (
            "The towers of the palace could be seen from every field.",
            "Travellers came from the east with spices, cloth and stories.",
            "The king was just, but he did not like to wait.",
            "In those days, a letter needed a month to cross the country.",
            "The market was held once a week in front of the palace.",
        ),
    },
    "village": {
        "opening": (
            "In a small village between two hills, everybody knew {name}, the {job}.",
            "{name} was the only {job} in the village.",
            "The village had one street, one shop and one {job}, whose name was {name}.",
            "There was a village where nothing ever seemed to happen, and {name} liked it that way.",
            "When {name} was still {boy.a}, {his} family moved to a quiet village near the river.",
            "Every morning, {name} walked through the village and greeted everyone by name.",
        ),
        "job": ("baker", "teacher", "blacksmith", "gardener", "shopkeeper", "tailor", "miller", "carpenter"),
        "spot": ("by the well", "outside the church", "at the mill", "on the village green", "behind the inn"),
        "task": ("paint the school fence", "repair the well", "prepare the summer feast", "mend the church clock"),
        "tool": ("wheelbarrow", "ladder", "bell", "bucket", "cart", "broom"),
        "helper": ("priest", "innkeeper", "mayor", "oldest man in the village", "neighbour"),
        "locals": ("the villagers", "the neighbours", "the families in the street"),
        "where": ("in the village", "in the valley", "for miles around"),
        "detail": (
            "Hens walked across the street as if it belonged to them.",
            "From the bakery came the smell of warm bread.",
            "The church clock had been ten minutes slow for as long as anyone could remember.",
            "In the evenings, people sat in front of their houses and talked.",
            "News travelled fast there, and gossip travelled even faster.",
        ),
    },
    "city": {
        "opening": (
            "In the heart of a bustling city, {name} worked as {job_a}.",
            "In the heart of a bustling city, above a noisy street, {name} rented a tiny room.",
            "{name} had come to the city with one suitcase and very little money.",
            "The city never slept, and neither, it seemed, did {name}.",
            "Every day, thousands of people walked past the corner where {name} worked as {job_a}.",
            "On the ninth floor of a tall building in the middle of the city lived {name}, {job_a}.",
            "It was rush hour, and {name} was standing in a crowded bus.",
        ),
        "job": ("bus driver", "waiter", "street musician", "taxi driver", "journalist", "hairdresser", "tour guide"),
        "spot": ("at the bus stop", "in the park", "outside the station", "on the roof", "in a café", "in the lift"),
        "task": ("find a cheaper flat", "clean the stairs", "finish a report", "deliver forty parcels", "move house"),
        "tool": ("bicycle", "phone", "umbrella", "wallet", "guitar", "camera"),
        "helper": ("taxi driver", "caretaker", "police officer", "woman from the third floor", "newspaper seller"),
        "locals": ("the people in the building", "the neighbours", "the shopkeepers in the street"),
        "where": ("in the city", "in the whole street", "in that part of town"),
        "detail": (
            "Cars hooted, trams rattled past, and someone was shouting into a phone.",
            "The windows of the shops were bright, although it was already late.",
            "On every corner, somebody was selling something.",
            "Between two office blocks there was a garden no bigger than a room.",
            "Nobody looked up, because everybody was in a hurry.",
        ),
    },
    "laboratory": {
        "opening": (
            "The scientist worked tirelessly in the lab, and {his} name, {name}, was still unknown to the world.",
            "{name} had spent {number} months in the laboratory on a single question.",
            "The light in the laboratory was still on, because {name} refused to go home.",
            "As a young researcher, {name} shared a small laboratory with {few} colleagues.",
            "Nobody at the institute arrived earlier or left later than {name}.",
            "{name} worked tirelessly in the lab, day after day, on a cure for a rare disease.",
            "For years, {name} had dreamed of a laboratory of {his} own.",
        ),
        "job": ("chemist", "biologist", "researcher", "physicist", "lab assistant", "scientist"),
        "spot": ("next to the microscope", "at the bench", "in the cold store", "in the corridor", "by the sink"),
        "task": ("repeat the experiment", "measure the samples", "write the final report", "clean the equipment"),
        "tool": ("microscope", "notebook", "thermometer", "computer", "scale", "glass tube"),
        "helper": ("night guard", "professor", "new student", "cleaner", "head of the institute"),
        "locals": ("the colleagues", "the other researchers", "the students"),
        "where": ("at the institute", "in the building", "in the department"),
        "detail": (
            "Bottles with neat labels stood on the shelves.",
            "A machine hummed in the corner, and a red light blinked.",
            "The whiteboard was covered with numbers and arrows.",
            "It smelled of alcohol, warm dust and cold coffee.",
            "Every result was written down twice, once on paper and once in the computer.",
        ),
    },
    "school": {
        "opening": (
            "{name} was in the {ordinal} year at a school with more than {number} classrooms.",
            "On the first day of school, {name} sat in the back row and said nothing.",
            "The bell rang, and {name} ran across the playground as fast as {he} could.",
            "{name} was not the best pupil in the class, but {he} was certainly the most curious.",
            "There were twenty-six children in the class, and {name} was the smallest.",
            "{name} liked every subject except one.",
        ),
        "job": ("pupil", "student"),
        "spot": ("in the library", "in the playground", "on the stairs", "in the music room", "in the canteen"),
        "task": (
            "learn a long poem",
            "give a talk about volcanoes",
            "paint a scene for the play",
            "build a model bridge",
        ),
        "tool": ("schoolbag", "calculator", "ruler", "pencil case", "football", "library book"),
        "helper": ("caretaker", "maths teacher", "librarian", "head teacher", "new pupil"),
        "locals": ("the class", "the other children", "the teachers"),
        "where": ("in the school", "in the class", "in the whole building"),
        "detail": (
            "Chalk dust danced in the light from the window.",
            "On the wall hung a map of the world with one corner missing.",
            "Somebody had drawn a cat on the blackboard.",
            "The corridors were full of coats, bags and loud voices.",
            "It was the last week before the holidays, and nobody could sit still.",
        ),
    },
    "farm": {
        "opening": (
            "{name} grew up on a farm with {number} cows and one bad-tempered goose.",
            "On a farm at the end of a long track, {name} got up before the sun.",
            "The farm had belonged to {name}'s family for a hundred years.",
            "When {his} parents grew old, {name} took over the farm.",
            "{name} had never wanted to be anything but a farmer.",
            "There was always something to do on the farm, and {name} did most of it.",
        ),
        "job": ("farmer", "farmhand", "milker", "shepherd"),
        "spot": ("behind the barn", "in the orchard", "at the gate", "in the stable", "beside the hen house"),
        "task": ("bring in the hay", "mend the fence", "milk the cows", "plough the long field", "pick the apples"),
        "tool": ("tractor", "fork", "bucket", "saddle", "ladder", "rake"),
        "helper": ("vet", "neighbour", "blacksmith", "boy from the next farm", "grain dealer"),
        "locals": ("the neighbours", "the other farmers", "the farmhands"),
        "where": ("on the farm", "in the fields", "in the district"),
        "detail": (
            "The fields were yellow with wheat, and the apples were nearly ripe.",
            "In the stable, the horses moved softly in the straw.",
            "A cock crowed, although it had been light for hours.",
            "Milk stood cooling in tall metal cans.",
            "The old dog slept in the sun and opened one eye from time to time.",
        ),
    },
    "mountains": {
        "opening": (
            "High in the mountains, where snow lay until May, {name} kept a small inn.",
            "{name} had climbed almost every mountain in the region.",
            "Above the last houses, in a hut made of stone, lived {name}, {job_a}.",
            "{name} came to the mountains in order to be alone.",
            "The pass was closed from November to April, and {name} was used to being patient.",
            "In a valley surrounded by high mountains, {name} worked as {job_a}.",
        ),
        "job": ("mountain guide", "shepherd", "innkeeper", "cheesemaker", "goatherd", "rescue worker"),
        "spot": ("below the summit", "beside the waterfall", "at the pass", "in the hut", "on a narrow ledge"),
        "task": ("carry wood up to the hut", "mark the trail", "bring the goats down", "clear the snow from the road"),
        "tool": ("rope", "map", "compass", "rucksack", "stove", "sledge"),
        "helper": ("goatherd", "old guide", "climber", "postman", "doctor from the valley"),
        "locals": ("the people in the valley", "the guides", "the guests at the inn"),
        "where": ("in the mountains", "in the valley", "on that side of the mountain"),
        "detail": (
            "An eagle circled above the rocks.",
            "The path was steep, and loose stones rolled down at every step.",
            "From up there, the houses in the valley looked like toys.",
            "The air was thin and so clear that one could see for miles.",
            "Snow still lay in the shade, although it was nearly summer.",
        ),
    },
    "workshop": {
        "opening": (
            "{name} ran a little workshop in a side street.",
            "In {name}'s workshop, no two things were alike.",
            "{name} was {job_a}, like {his} father and grandfather before {him}.",
            "People brought broken things to {name}, and {he} gave them back whole.",
            "At the age of fifteen, {name} began to learn a trade in a workshop full of noise and dust.",
            "Above the door of the workshop hung a sign with {name}'s name on it.",
        ),
        "job": ("carpenter", "clockmaker", "potter", "shoemaker", "locksmith", "violin maker", "bookbinder", "glazier"),
        "spot": ("at the workbench", "under the lamp", "in the yard", "behind the stove", "by the window"),
        "task": (
            "repair an old chair",
            "finish a table",
            "sharpen the tools",
            "carve a wooden horse",
            "clean the shop",
        ),
        "tool": ("hammer", "plane", "file", "drill", "pair of pliers", "saw"),
        "helper": ("apprentice", "old master", "customer", "wood merchant", "landlord"),
        "locals": ("the customers", "the neighbours", "the people in the street"),
        "where": ("in the workshop", "in the street", "in town"),
        "detail": (
            "Tools hung on the wall in order of size.",
            "The floor was covered with shavings, and it smelled of glue.",
            "A dozen clocks ticked, and no two of them agreed.",
            "In one corner stood things that nobody had ever collected.",
            "On the bench lay a half-finished piece of work.",
        ),
    },
    "office": {
        "opening": (
            "{name} worked in an office on the fourth floor, at a desk near the window.",
            "It was Monday, and {name} was the first to arrive at the office.",
            "After {number} job interviews, {name} finally found a place in a small company.",
            "{name} had sat at the same desk for {number} years.",
            "The office where {name} worked was neither large nor beautiful.",
            "As the new {job}, {name} was given the smallest desk in the room.",
        ),
        "job": ("accountant", "secretary", "clerk", "programmer", "lawyer", "manager", "designer", "translator"),
        "spot": ("at the coffee machine", "in the meeting room", "in the lift", "at the printer", "by the window"),
        "task": ("check the accounts", "prepare a presentation", "answer the customers' letters", "plan the move"),
        "tool": ("laptop", "folder", "printer", "calendar", "desk lamp", "office key"),
        "helper": ("receptionist", "boss", "trainee", "cleaner", "man from the computer department"),
        "locals": ("the colleagues", "the whole team", "the people in the office"),
        "where": ("in the office", "in the company", "on the fourth floor"),
        "detail": (
            "Phones rang, keyboards clicked, and the printer was out of paper again.",
            "Somebody had watered the plants too much.",
            "The coffee was bad, but it was free.",
            "A clock on the wall showed the time in three different countries.",
            "Through the window one could see other offices with other people in them.",
        ),
    },
    "hospital": {
        "opening": (
            "{name} was {job_a} at the town's only hospital.",
            "The night shift had just begun, and {name} was already tired.",
            "{name} had been working on the children's ward for {number} years.",
            "The hospital was full that winter, and {name} hardly had time to eat.",
            "On {his} first day at the hospital, {name} got lost three times.",
            "Patients liked {name}, because {he} always told them the truth.",
        ),
        "job": ("nurse", "doctor", "surgeon", "porter", "student nurse", "hospital cook"),
        "spot": (
            "in the corridor",
            "beside bed nine",
            "in the waiting room",
            "at the reception desk",
            "in the kitchen",
        ),
        "task": ("check all the medicines", "prepare the operating room", "write the reports", "change the bandages"),
        "tool": ("wheelchair", "watch", "list of patients", "key to the cupboard", "bottle of medicine", "trolley"),
        "helper": ("head nurse", "porter", "patient from room six", "old doctor", "visitor"),
        "locals": ("the patients", "the nurses", "the other doctors"),
        "where": ("in the hospital", "on the ward", "in the whole building"),
        "detail": (
            "The corridors smelled of soap, and the floor shone.",
            "Behind one door somebody was laughing, behind another somebody was crying.",
            "A machine beeped every few seconds.",
            "Visitors walked by with flowers and worried faces.",
            "Outside, an ambulance arrived with its blue light flashing.",
        ),
    },
    "desert town": {
        "opening": (
            "In a dry town at the edge of the desert, {name} sold water and fruit.",
            "{name} lived in a town where it rained only twice a year.",
            "At noon, when it was too hot to work, {name} sat in the shade and thought.",
            "The road through the desert was long, and {name} knew every stone of it.",
            "Between the desert and the hills lay a town of white houses, where {name} was {job_a}.",
        ),
        "job": ("camel driver", "water seller", "potter", "carpet maker", "trader", "well digger"),
        "spot": ("in the shade of a palm", "at the well", "in the market", "beside the road", "on the flat roof"),
        "task": ("dig a new well", "load the camels", "repair the water tank", "sell ten carpets", "cross the desert"),
        "tool": ("water bag", "rope", "carpet", "clay pot", "tent", "donkey cart"),
        "helper": ("camel driver", "old trader", "well digger", "fruit seller", "teacher"),
        "locals": ("the traders", "the townspeople", "the families near the well"),
        "where": ("in the town", "at the market", "in the desert"),
        "detail": (
            "Sand blew through the streets and settled on everything.",
            "The walls were thick, and the rooms behind them were cool.",
            "At night, the sky was so full of stars that nobody needed a lamp.",
            "Camels rested beside the wall and chewed slowly.",
            "Dates, nuts and dried beans lay in heaps on the ground.",
        ),
    },
}

_FIXED = ("job", "task", "tool", "helper", "locals", "where")

_RULES: dict[str, tuple[str, ...]] = {
    "a_young_man": ("a young {man}", "a poor young {man}", "a clever {boy}", "a lonely {man}", "a cheerful {man}"),
    "job_a": ("{job.a}", "{job.a}", "{trait.a} {job}"),
    "trait": (
        *("hard-working", "careful", "young", "quiet", "clever", "honest", "stubborn", "patient", "kind", "shy"),
        *("well-known", "skilful", "cheerful", "modest", "proud", "absent-minded", "brave", "lazy", "generous"),
    ),
    "trait_sentence": (
        "{he.cap} was {trait} and {trait_b}, and people liked {him} for it.",
        "People said that {he} was {trait}, but {he} did not see it that way.",
        "{he.cap} was not rich, but {he} had everything {he} needed.",
        "{he.cap} had {few} friends, {trait_b.a} cat and a great deal of patience.",
        "Most people called {him} {trait}; some called {him} {trait_b}.",
        "What {he} liked best was {hobby}.",
        "In {his} free time, {he} enjoyed {hobby}.",
        "{he.cap} worked from {clock_early} until dark and seldom complained.",
        "There was only one thing {he} could not stand, and that was {dislike}.",
        "Like {his} {elder}, {he} could not bear {dislike}.",
        "{he.cap} was {number_age} years old and had never been further than the next town.",
        "Although {he} was still young, {he} had already seen a lot.",
        "{he.cap} lived alone, apart from a {pet} that followed {him} everywhere.",
        "If anyone needed help, {he} was usually the first to offer it.",
        "{he.cap} spoke little, but when {he} did, people listened.",
    ),
    "pet": ("dog", "cat", "goose", "parrot", "goat", "hen"),
    "trait_b": ("gentle", "friendly", "reliable", "lively", "sensible", "funny", "serious", "independent", "polite"),
    "number_age": ("nineteen", "twenty-two", "twenty-five", "thirty", "thirty-four", "forty-one"),
    "clock_early": ("six in the morning", "dawn", "seven o'clock", "early morning"),
    "hobby": (
        *("reading old books", "walking in the rain", "singing", "fishing in the river", "playing chess", "cooking"),
        *("watching birds", "collecting stamps", "drawing faces", "telling stories", "baking bread", "solving puzzles"),
        *("doing nothing at all", "looking at the stars", "growing roses", "listening to music"),
    ),
    "dislike": (
        *("waiting", "injustice", "waste", "noise", "being late", "unfinished work", "empty promises", "bad manners"),
        *("cold soup", "being laughed at", "lies", "long speeches"),
    ),
    "one_day": (
        *(
            "One day,",
            "One morning,",
            "One evening,",
            "One {day},",
            "One {weather_adj} morning,",
            "One night in {month},",
        ),
        *("At the beginning of {season},", "Towards the end of {season},", "One {weather_adj} day in {month},"),
        *("Then, one {weather_adj} {day},", "Early one {day},"),
        *("Late one evening,", "On the {ordinal} day of {month},", "That {season},", "Shortly after {clock},"),
    ),
    "soonc": ("{soon},",),
    "feel": (
        "{name} felt {feeling_bad}.",
        "{he.cap} was {very} {feeling_bad}.",
        "At first, {name} was only {feeling_bad}; then {he} became {feeling_bad_b}.",
        "{name} did not know what to do.",
        "{name} could hardly believe it.",
        "It was the worst thing that could have happened.",
        "{name} sat down {spot} and thought hard.",
        "{he.cap} could not sleep that night.",
        "What was {he} supposed to do now?",
        "How could this have happened?",
        "Never before had {he} felt so {feeling_bad}.",
        "{name} wanted to give up, but something held {him} back.",
        "For a moment, {he} thought of giving up.",
        "{he.cap} took a deep breath and counted to {number}.",
        "{name} told nobody about it, not even {his} {elder}.",
        "The more {he} thought about it, the more {feeling_bad_b} {he} became.",
        "There was no time to lose.",
        "{name} said nothing, but {his} hands were shaking.",
        "It would have been easy to look away, but that was not {name}'s way.",
        "All {he} could think of was {worry}.",
    ),
    "worry": ("the time", "the money", "what people would say", "{his} {elder}'s advice", "how it had all begun"),
    "feeling_bad": ("worried", "sad", "angry", "helpless", "nervous", "disappointed", "ashamed", "afraid", "puzzled"),
    "feeling_bad_b": ("annoyed", "anxious", "restless", "unhappy", "impatient", "upset", "uneasy", "frightened"),
    "feeling_good": ("happy", "relieved", "proud", "grateful", "cheerful", "content", "delighted", "calm again"),
    "joy": (
        "{name} was so {feeling_good} that {he} laughed out loud.",
        "{he.cap} had not been so {feeling_good} for a long time.",
        "{name} smiled for the first time in days.",
        "A weight fell from {his} shoulders.",
        "{name} could have danced with joy.",
        "Tears of joy ran down {his} face.",
        "For a while, nobody said anything, because nothing needed to be said.",
        "{he.cap} thanked everyone who had helped.",
        "That night, {name} slept better than {he} had for weeks.",
        "Even the {helper} had to smile.",
        "They all sat down and ate {food}, and it tasted better than ever.",
        "{soonc} everyone {where} had heard about it.",
        "{locals.cap} celebrated with {food} and music.",
        "{name} went home tired but {feeling_good}.",
    ),
    "moral": (
        "From that day on, {name} {habit}.",
        "Since then, {name} has told the story many times, and each time it gets a little longer.",
        "{name} never forgot that day.",
        "It was, {he} often said later, the most important lesson of {his} life.",
        "{name} had learned that {lesson}.",
        '"{lesson.cap}," {he} used to say afterwards.',
        "And so it turned out that {lesson}.",
        "Nobody {where} ever spoke of it again, but nobody forgot it either.",
        "Sometimes, when {he} could not sleep, {name} still thought of it and smiled.",
        "Years later, people {where} still talked about it.",
        "After that, things were never quite the same, and that was a good thing.",
        "The next morning, {name} got up as usual and went back to work.",
        "Life went on as before, except that {name} {habit}.",
        "If {he} had given up on the first day, none of this would have happened.",
        "It had cost {him} {few} days and a lot of nerves, but it had been worth it.",
        "Whenever somebody asked {him} about it, {he} only said that {lesson}.",
        "And that was the end of the matter.",
        "",
        "",
        "",
    ),
    "habit": (
        *("asked for help sooner", "listened more carefully", "checked everything twice", "worried a little less"),
        *("always carried a spare key", "laughed more often", "kept every promise", "was never late again"),
        *("greeted strangers kindly", "trusted {his} own eyes", "took a rest on Sundays", "thought before speaking"),
        *("shared whatever {he} had", "got up half an hour earlier", "kept a small notebook in {his} pocket"),
    ),
    "lesson": (
        *("even a bad day has an end", "things often turn out differently from what one expects"),
        *(
            "most problems look smaller in the morning",
            "it is never too late to begin again",
            "nobody knows everything",
        ),
        *(
            "small steps also lead to the goal",
            "life is full of surprises",
            "it is worth waiting",
            "luck can be learned",
        ),
        *("you never know what a day will bring", "the first step is the hardest", "giving up is never the only way"),
        *("one should not lose heart", "good things take time", "there is always another way", "it pays to be honest"),
    ),
    "quote_help": (
        '"Can I help you?" asked the {helper}.',
        '"You look as if you needed help," said the {helper}.',
        '"Why don\'t you ask someone?" said the {helper}.',
        '"Let me have a look," the {helper} said calmly.',
        '"What is the matter?" the {helper} wanted to know.',
        "The {helper} came by and asked what was wrong.",
        "Luckily, the {helper} happened to be nearby.",
        "It was the {helper} who noticed first that something was wrong.",
    ),
    "meet": (
        "{name} and {name2} had been friends since childhood.",
        "{his.cap} best friend was called {name2}.",
        "{name2}, who was {trait} and two years older, worked with {him}.",
        "{name}'s neighbour {name2} was just as {trait}, and the two of them spent a lot of time together.",
        "{he.cap} shared everything with {his} friend {name2}.",
        "There was only one person {name} trusted completely: {name2}.",
    ),
}

# A plot is a row of beats; each beat offers alternatives. A beat that begins with "" may be left out.
_PLOTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "lost tool": (
        (
            "{one_day} {name} noticed that {his} {tool} was missing.",
            "{one_day} {name} reached for {his} {tool}, but it was not there.",
            "{name} owned {tool.a} that had belonged to {his} {elder}. {one_day} it disappeared.",
            "{one_day} somebody left the door open, and {name}'s {tool} was gone.",
        ),
        (
            "Without it, {he} could not {task}.",
            "{he.cap} needed it urgently, for {he} had promised to {task}.",
            "It was not worth much, but to {him} it was more precious than gold.",
            "How was {he} supposed to {task} without it?",
        ),
        (
            "{he.cap} looked {spot}, then {spot_b}, and finally in {his} own pockets, but found nothing.",
            "{name} searched everywhere: under the bed, behind the door, even in the rubbish.",
            "{he.cap} asked {locals}, but nobody had seen it.",
            "{name} even suspected the {helper}, although there was no reason to.",
            "All day {he} searched, and with every hour {he} grew more {feeling_bad_b}.",
        ),
        ("", "{feel}"),
        (
            '{soonc} the {helper} came to the door and held it up. "I only borrowed it," the {helper} said. "Sorry!"',
            "{soonc} {he} saw {animal.a} sitting {spot}, and right beside it lay what {he} had been looking for.",
            "{soonc} {he} remembered: {he} had lent it to {his} {relative} weeks before.",
            "When {he} had almost given up, {he} sat down to rest and felt something hard under {him}. There it was!",
            "In the end, it turned up in the last place anyone would have thought of: {he} had put it away {himself}.",
        ),
        ("{joy}",),
    ),
    "repair": (
        (
            "{one_day} the {helper} brought {him} {adj_thing.a} {breakable} that did not work any more.",
            "{one_day} {name} found {breakable.a} {spot}. It was broken, and nobody wanted it.",
            "{one_day} {name} dropped the {adj_thing} {breakable} of {his} {relative}, and it broke into {number} "
            "pieces.",
        ),
        (
            "Everyone said that it could not be repaired.",
            '"Throw it away," said {his} {relative}. "You can buy a new one."',
            "It looked hopeless, but {name} liked a challenge.",
            "Others would have thrown it away at once.",
        ),
        (
            "{name} cleaned every part, laid the parts in a row and thought about how they fitted together.",
            "{he.cap} worked on it for {few} evenings. Twice {he} put it together, and twice it fell apart.",
            "The first attempt failed, and so did the second.",
            "{he.cap} borrowed a book, read it from cover to cover and tried again.",
        ),
        ("", "{feel}", "{quote_help}"),
        (
            "Then {he} saw what was wrong: a tiny screw was missing.",
            "At last {he} understood that the fault was not where {he} had been looking.",
            "The solution was so simple that {he} had to laugh.",
            "Then {he} turned the smallest part around, and suddenly everything fitted.",
        ),
        (
            "When {he} had finished, it looked better than before.",
            "By the end of the week, it was as good as new.",
            "It was not perfect, but it worked.",
            "The crack could still be seen, and {name} thought that it made the thing more beautiful.",
        ),
        ("{joy}", "The {helper} wanted to pay for it, but {name} refused to take any money.", ""),
    ),
    "quarrel": (
        ("{meet}",),
        (
            "{one_day} they quarrelled about {quarrel_topic}.",
            "{one_day} {name2} borrowed {name}'s {tool} without asking, and {name} was furious.",
            "{one_day} {name} said something that {he} did not mean, and {name2} walked out and slammed the door.",
            "Then a stupid argument about {quarrel_topic} came between them.",
        ),
        (
            "For {few} weeks, they did not exchange a single word.",
            "When they met {spot}, each of them looked the other way.",
            "{name} was too proud to apologise, and so was {name2}.",
            "{locals.cap} noticed it, of course, and shook their heads.",
        ),
        ("", "{feel}", "{name} missed the long talks they used to have {spot}."),
        (
            "{soonc} {name} had to {task}, and it was impossible to do it alone.",
            "{soonc} {name} fell ill, and there was nobody to look after {him}.",
            "{soonc} a heavy storm damaged the roof of {name2}'s house.",
            "{soonc} the {helper} told {name} that {name2} was planning to move away.",
        ),
        (
            'That was when {name2} knocked at the door. "We have been silly," {he2} said.',
            "{name} did not think twice. {he.cap} went straight to {name2} and held out {his} hand.",
            "{name} wrote a short note, tore it up, wrote another and finally decided to go in person.",
            "They both began to speak at the same time, stopped and burst out laughing.",
        ),
        (
            '"I\'m sorry," said {name}. "So am I," said {name2}.',
            "Neither of them could remember exactly how the quarrel had started.",
            "They talked until midnight, and in the end everything was as it had been before.",
            "From then on, they agreed to speak openly whenever something bothered them.",
        ),
    ),
    "animal rescue": (
        (
            "{one_day} {name} heard a faint cry. {spot.cap} lay {animal.a} with an injured leg.",
            "{one_day} {animal.a} got caught in some wire {spot}.",
            "{one_day} {name} found {a_young_animal} that had lost its mother.",
            "{one_day} {his} {relative} carried home a wounded {animal} in a box.",
        ),
        (
            "It was too weak to stand, and it trembled with fear.",
            "It looked at {him} with big, dark eyes.",
            "At first, it would not let anybody come near.",
            "Nobody believed that it would survive the night.",
        ),
        (
            "{name} wrapped it in {his} coat and carried it home.",
            "{he.cap} knelt down slowly and spoke to it in a low voice.",
            '"Don\'t be afraid," said {name} softly. "I won\'t hurt you."',
            "Without hesitating, {he} took off {his} scarf and bandaged the wound.",
        ),
        (
            "For {few} weeks, {he} fed it with a spoon and changed the bandage every morning.",
            "{he.cap} made a bed of straw for it and got up {times} a night.",
            "The {helper} showed {him} how to clean the wound.",
            "{locals.cap} shook their heads, but some of them brought food.",
        ),
        (
            "Little by little, it grew stronger.",
            "One morning, it stood on its own feet for the first time.",
            "After a month, the wound had healed completely.",
        ),
        (
            "When the day came to let it go, {name} opened the door and stepped aside. It looked back once and was "
            "gone.",
            "{name} wanted to set it free, but it refused to leave, and so it stayed.",
            "In {season}, it left, but from time to time {he} found its tracks {spot}.",
            "It could have gone wherever it liked. It chose to stay with {him}.",
        ),
    ),
    "stranger": (
        (
            "{one_day} a stranger knocked at the door and asked for a glass of water.",
            "{one_day} a stranger in a long coat appeared and sat down {spot}.",
            "{one_day} an old woman nobody knew arrived with a heavy bag.",
            "{one_day} a thin man with {thing.a} under his arm asked for a place to sleep.",
        ),
        (
            "{locals.cap} were suspicious and kept their doors shut.",
            "Most people pretended not to see the visitor.",
            '"We know nothing about this person," warned the {helper}.',
            "{name} had little to offer, but {he} did not like to send anyone away.",
        ),
        (
            "{name} put another plate on the table and shared {his} {food}.",
            "{name} offered the visitor a chair by the fire and asked no questions.",
            '"Come in," said {name}. "There is enough for two."',
            "{he.cap} gave the visitor {his} own bed and slept on the floor.",
        ),
        (
            "In return, the visitor told {him} stories about countries that {he} had never heard of.",
            "They talked for a long time about the past, about work and about what makes a good life.",
            "The visitor ate in silence and looked around the room with great attention.",
        ),
        (
            'In the morning, the bed was empty, and on the table lay {thing.a} and a short note: "Thank you."',
            "Before leaving, the visitor showed {him} an easier way to {task}.",
            "Months later, a letter came. It said that {name} had been left a small sum of money.",
            "Only later did {name} learn that the visitor had been a famous doctor, who now came back to help the "
            "sick.",
        ),
        ("{joy}", ""),
    ),
    "fear": (
        (
            "There was one thing {name} was afraid of, and that was {fear}.",
            "Ever since {his} childhood, {name} had been afraid of {fear}.",
            "Nobody knew that {name} was terribly afraid of {fear}.",
        ),
        (
            "{he.cap} had always found an excuse, until {one_day_low} no excuse was left.",
            "Because of this fear, {he} had already missed many good things.",
            "{he.cap} was ashamed of it and hid it as well as {he} could.",
        ),
        (
            "{one_day} {name2} needed help, and there was nobody else around.",
            "{one_day} {his} {relative} was in danger, and {name} had to act.",
            '{one_day} the {helper} asked {him} a simple question: "What is the worst thing that could happen?"',
        ),
        (
            "{his.cap} heart was beating wildly, and {his} knees felt weak.",
            "{name} closed {his} eyes, counted to {number} and took the first step.",
            '"One step at a time," {he} told {himself}.',
            "{he.cap} was still afraid, but {he} went on.",
        ),
        (
            "After a few minutes, {he} noticed that nothing terrible had happened.",
            "It was not nearly as bad as {he} had imagined.",
            "Before {he} knew it, it was over.",
        ),
        (
            "The fear did not disappear in one day, but it became smaller every time.",
            '"I\'d never have thought that I could do it," {he} said afterwards.',
            "Later, {he} helped others who had the same fear.",
        ),
    ),
    "contest": (
        (
            "{one_day} a contest was announced: whoever could {contest} best would win {prize}.",
            "Every year, {locals} held a contest to see who could {contest} best, and the prize was {prize}.",
        ),
        (
            "{name} had never taken part in anything like it before.",
            "{name} wanted to win, above all because {name2} had won {times} in a row.",
            '"You don\'t stand a chance," laughed {name2}, who had won the year before.',
            "At first, {name} did not dare to put {his} name on the list.",
        ),
        (
            "For {few} weeks, {he} practised every evening until {he} was too tired to think.",
            "While the others boasted, {name} practised.",
            'The {helper} gave {him} some advice: "Don\'t look at the others. Look at what you are doing."',
        ),
        (
            "On the day of the contest, {name} was so nervous that {he} could not eat.",
            "When the day came, more than {number} people had gathered to watch.",
            "The first round went badly, but in the second {name} was better than anyone else.",
        ),
        (
            "In the end, {name2} won again, but only just, and {he2} was the first to shake {name}'s hand.",
            "The judges talked for a long time. Then they called out {name}'s name.",
            "{name} came second, and to {his} surprise {he} was just as happy as if {he} had won.",
            "{name} could have won easily, but {he} stopped to help {name2}, who had hurt {his2} hand. "
            "The judges gave the prize to both of them.",
        ),
        ("{joy}", ""),
    ),
    "lie": (
        (
            "{one_day} {name} broke {adj_thing.a} {breakable} that belonged to the {helper}. Nobody had seen it "
            "happen.",
            "{one_day} {name} forgot to {task} and told everyone that it had been done.",
            "{one_day} {name} took the praise for something that {name2} had done.",
        ),
        (
            "It seemed easier to say nothing.",
            "At first, the lie was small, but it grew with every question.",
            "When someone asked, {he} looked at the floor and said that {he} knew nothing about it.",
        ),
        (
            "But the secret weighed on {him} like a stone.",
            "{he.cap} could neither eat nor sleep.",
            "Every time the {helper} was friendly to {him}, {he} felt worse.",
            "Soon, somebody else was blamed, and that was more than {name} could bear.",
        ),
        (
            "{soonc} {he} went to the {helper} and told the truth.",
            'At last {he} said in front of everyone, "It was me."',
            '{his.cap} {elder} listened and said only, "You know what you have to do." So {he} did it.',
        ),
        (
            'There was a long silence. Then the {helper} nodded. "It takes courage to say that," the {helper} said.',
            "The {helper} was angry at first, but not for long.",
            "To make up for it, {name} worked every evening for {few} weeks without pay.",
        ),
        (
            "{name} felt lighter than {he} had for a long time.",
            "Being honest had been much easier than lying.",
            "After that, people trusted {him} more than before.",
        ),
    ),
    "journey": (
        (
            "{one_day} a letter arrived. {his.cap} {relative} was ill and lived {number} miles away.",
            "{one_day} {name} decided to visit the town where {he} had been born.",
            "{one_day} {name} was asked to carry an important parcel across the country.",
        ),
        (
            "{he.cap} packed some {food}, {thing.a} and a warm blanket, and set off.",
            "The train did not run on that day, and so {he} went on foot.",
            "{he.cap} set out before sunrise and hoped to be there within {number} days.",
        ),
        (
            "On the {ordinal} day, {he} lost {his} way in thick fog.",
            "Halfway there, a bridge had collapsed, and {he} had to go a long way round.",
            "In the first night, somebody stole {his} money while {he} was asleep.",
            "It rained without a break, and soon there was not a dry thread on {him}.",
        ),
        (
            "A farmer let {him} sleep in the barn and gave {him} breakfast.",
            "A girl with {animal.a} showed {him} a short cut that was not on any map.",
            "{he.cap} earned a little money by helping in the kitchen of an inn.",
            "More than once {he} thought of turning back, but {he} kept walking.",
        ),
        (
            "When {he} finally arrived, the door opened before {he} could knock.",
            "At sunset on the last day, {he} saw the roofs of the town below.",
            "{he.cap} arrived tired, hungry and {number} hours late, but {he} arrived.",
        ),
        (
            '"I knew you would come," said a voice.',
            "Everything had been worth it.",
            "The way home seemed only half as long.",
            "{name} had seen more in those few days than in all the years before.",
        ),
    ),
    "strange noise": (
        (
            "For {few} nights, {name} had heard a strange noise.",
            "{one_day} {name} was woken by a scratching sound.",
            "Every night at the same time, something knocked {number} times.",
        ),
        (
            "It came from above, then from below, and then it stopped.",
            '"It is only the wind," said the {helper}, but there was no wind.',
            "Some people spoke of ghosts, but {name} did not believe in them, at least not by day.",
        ),
        (
            "{name} took a torch and went to see what it was.",
            "{he.cap} decided to stay awake and find out the truth.",
            "Together with {name2}, {he} waited in the dark.",
        ),
        (
            "The floor creaked. A shadow moved along the wall.",
            "{he.cap} held {his} breath and opened the door.",
            "Step by step, {he} came closer to the sound.",
        ),
        (
            "There, between old boxes, sat {animal.a} with {number} young ones.",
            "It was nothing but a loose board that moved whenever the heating came on.",
            "In the corner sat a small boy who had run away from home.",
            "It was the {helper}, who could not sleep and was secretly practising the violin.",
        ),
        (
            "{name} had to laugh at {himself}.",
            '"So you are the ghost," said {name}.',
            "The next night, {he} slept soundly for the first time in a week.",
            "Nobody was frightened any more, although some were a little disappointed.",
        ),
    ),
    "first day": (
        (
            "{one_day} {name} began something new: {he} was to learn how to {task}.",
            "{one_day} {name} had {his} first day in a new job.",
        ),
        (
            "Everything was strange to {him}: the rooms, the rules and the faces.",
            "{he.cap} got up much too early and put on {his} best shirt.",
            "{name} knew nobody, and nobody seemed to have time for {him}.",
        ),
        (
            "In the first hour, {he} made {few} mistakes.",
            "{he.cap} opened the wrong door, called people by the wrong name and spilled coffee on the floor.",
            '"Not like that!" shouted someone. "Have you never done this before?"',
        ),
        (
            'At lunch, {name} sat alone, until {name2} came over with a tray. "May I?" {he2} asked.',
            "{name2}, who had been there for {number} years, showed {him} everything again, slowly and kindly.",
            '"My first day was even worse," said {name2}. "I locked the boss in the cellar."',
        ),
        (
            "In the afternoon, things went better.",
            "{name} wrote everything down in a little notebook and learned it by heart.",
            "Step by step, {he} understood what had to be done and why.",
        ),
        (
            "When {he} went home, {he} was exhausted but {feeling_good}.",
            "After a month, {he} could not imagine working anywhere else.",
            "A year later, {he} was the one who helped a nervous beginner.",
        ),
    ),
    "surprise": (
        (
            "It was {name}'s birthday, and nobody seemed to remember it.",
            "{name} had been looking forward to {his} birthday for weeks, but that morning nobody said a word.",
        ),
        (
            "{his.cap} {relative} left the house in a hurry and did not even say good morning.",
            "{name2} had no time to talk and looked away when {name} asked why.",
            "{he.cap} checked the letter box {times}, but it was empty.",
        ),
        (
            '"It doesn\'t matter," {he} told {himself}, but it did matter.',
            "All day {he} worked harder than usual so as not to think about it.",
            "{he.cap} bought {himself} a small cake and ate it {spot}.",
        ),
        (
            "In the evening, {name2} asked {him} to come along, because something had to be carried.",
            "At {clock_late}, the {helper} called and said that there was a problem.",
            "When {he} came home, all the lights were out, and the door was not locked.",
        ),
        (
            '{name} opened the door, and {number} voices shouted, "Surprise!"',
            "Suddenly the lights went on, and there they all were, with flowers, candles and {food}.",
        ),
        (
            "They had been planning it for {number} days.",
            '"Did you really think we had forgotten?" asked {name2}.',
            "{name} laughed and cried at the same time.",
            "It was the best birthday {he} had ever had.",
        ),
    ),
    "garden": (
        (
            "Behind the house there was a piece of ground where nothing grew but weeds.",
            "{one_day} {name} was given a handful of seeds by the {helper}.",
            "{name} had always wanted a garden, but there was only a yard full of stones.",
        ),
        (
            '"Nothing will ever grow there," said {locals}.',
            "The soil was dry and hard, and {his} spade broke on the first day.",
            "It took {him} {few} weeks just to carry away the stones.",
        ),
        (
            "{name} dug, watered and waited.",
            "Every evening after work, {he} carried {number} buckets of water.",
            "{he.cap} planted beans, carrots, onions and a single apple tree.",
        ),
        (
            "In {month}, frost killed half of the young plants.",
            "Snails ate the lettuce, and birds took the cherries.",
            "For a long time, nothing happened at all.",
        ),
        ("", "{feel}", "But {name} did not give up. {he.cap} planted new seeds and built a little fence."),
        (
            "Then, one morning, a green tip came out of the earth.",
            "By {season_late}, the whole place was green.",
            "The following year, the tree bore its first apples.",
        ),
        (
            "Now people stopped at the fence, and some asked for advice.",
            "{name} gave half of the vegetables away and was happy.",
            "Even those who had laughed came by to taste {his} tomatoes.",
        ),
    ),
    "water shortage": (
        (
            "That summer, it did not rain for {number} weeks, and the well ran dry.",
            "{one_day} no water came out of the pipe.",
        ),
        (
            "{locals.cap} had to walk for an hour to fetch a single bucket.",
            "The plants died, the animals were thirsty, and people began to quarrel.",
            "Some prayed for rain, others blamed each other.",
        ),
        (
            "{name} noticed that the grass {spot} was still green.",
            "{name} remembered a story that {his} {elder} had told {him} about an old spring.",
            "{name} studied an old map and found a line that nobody could explain.",
        ),
        (
            '"There must be water underneath," {he} said, but hardly anyone believed {him}.',
            "{he.cap} took a spade and began to dig. The {helper} was the first to help.",
            "For {few} days they dug, and they found nothing but sand and stones.",
        ),
        (
            "On the {ordinal_late} day, the earth became damp. An hour later, there was a puddle, and by evening a "
            "pool.",
            "When everyone else had gone home, {name} hit a flat stone, and water shot up beneath it.",
            "At last, they heard a soft gurgling under their feet.",
        ),
        (
            "The water was cold and clear, and there was enough for all.",
            "They built a wall around it and shared the water fairly.",
            "Nobody ever quarrelled about water again.",
        ),
    ),
    "storm": (
        (
            "{one_day} a storm came up, the worst in {number} years.",
            "The morning had been calm, but by noon black clouds filled the sky.",
        ),
        (
            "The wind tore branches from the trees and tiles from the roofs.",
            "The lights went out, and the telephone was dead.",
            "Thunder shook the windows, and the rain beat against the glass.",
        ),
        (
            "Then {name} heard that {name2} had not come home.",
            "{name} remembered that {name2} was still outside.",
            "Suddenly somebody shouted that {name2} was missing.",
        ),
        (
            "{name} did not hesitate. {he.cap} took a lamp and a rope and went out.",
            '"You can\'t go out in this weather," said the {helper}. "I can\'t stay here either," answered {name}.',
            "{he.cap} called {name2}'s name again and again, but the wind carried it away.",
        ),
        (
            "At last {he} found {him2} under a fallen tree. {his2.cap} foot was trapped.",
            "{name2} had taken shelter in a hollow and was wet to the skin.",
            "A weak light showed {him} the way: {name2} was waving with a burning piece of wood.",
        ),
        (
            "Together they made their way back, leaning on each other.",
            "With the help of the rope, {he} pulled {him2} free.",
            "It took them {few} hours to get home, but they made it.",
        ),
        (
            "When the sun rose, the storm had passed.",
            "In the morning, {locals} began to repair what had been destroyed.",
            '"I knew that you would look for me," {name2} said.',
        ),
    ),
    "wrong judgement": (
        (
            "Nobody liked {name2}, who lived alone and never greeted anyone.",
            "People told bad stories about {name2}: that {he2} was mean, that {he2} hated children, that {he2} was "
            "rich.",
        ),
        (
            "{name}, too, crossed the street when {he} saw {him2} coming.",
            "{name} believed the stories, like everyone else.",
        ),
        (
            "{one_day} {name} slipped on the ice and could not get up. The only person who stopped was {name2}.",
            "{one_day} {name} brought {him2} a letter that had been delivered to the wrong house.",
            "{one_day} {name} saw that {name2} was feeding {few} hungry cats.",
        ),
        (
            "{he2.cap} invited {him} in and made tea. The room was full of books.",
            "They began to talk, and {name} found out that {name2} could hardly hear.",
            "{name2} was shy, that was all, and {he2} had lost {his2} family many years before.",
        ),
        (
            "{name} was ashamed of what {he} had thought.",
            "How wrong {he} had been!",
            '"Why did nobody ever ask you?" said {name}. "Why did you never ask?" replied {name2} with a smile.',
        ),
        (
            "After that, {he} visited {him2} every {day}, and they played cards or read aloud.",
            "{name} told everyone the truth, and soon other people came to visit as well.",
            "{he2.cap} turned out to be the best storyteller {where}.",
        ),
    ),
    "borrowed thing": (
        (
            "{one_day} {name} borrowed {adj_thing.a} {breakable} from {name2} and promised to be careful with it.",
            "{name2} owned {adj_thing.a} {breakable} and was very proud of it. {one_day} {he2} lent it to {name}.",
        ),
        (
            "On the way home, {he} stumbled, and it broke.",
            "{he.cap} put it down for a minute {spot}, and when {he} came back it was gone.",
            "{his.cap} little cousin played with it and ruined it.",
        ),
        ("{feel}",),
        (
            "{he.cap} counted {his} money. It was not enough to buy another one.",
            "In the shop, a new one cost more than {he} earned in a month.",
            "{name} went from shop to shop, but nobody sold anything like it.",
        ),
        (
            "So {he} worked for the {helper} every evening and saved every penny.",
            "{he.cap} sold {his} own {tool} in order to pay for it.",
            "In the end, {he} decided to tell {name2} the whole truth.",
        ),
        (
            'When {name2} heard what had happened, {he2} only laughed. "It\'s a thing," {he2} said. "You are my '
            'friend."',
            '{name2} was silent for a while. "Thank you for telling me," {he2} said at last.',
            '"You should have told me at once," said {name2}. "I never really liked it."',
        ),
    ),
    "teach": (
        (
            "{one_day} {name} found out that {name2} could not read.",
            '{one_day} a shy child came to {name} and asked, "Can you teach me how to {task}?"',
            "The {helper} had a secret: nobody had ever taught the {helper} to write. {one_day} {name} noticed it.",
        ),
        (
            "{name} had never taught anyone before and was not sure where to begin.",
            '"It will take time," said {name}, "but we can start today."',
            "At first, {name} was impatient and explained everything much too fast.",
        ),
        (
            "They met every evening {spot} for an hour.",
            "The first weeks were hard, and there were tears.",
            "They began with the easiest things and repeated them again and again.",
        ),
        (
            "Slowly, very slowly, it became easier.",
            "One evening, without any help, the whole thing worked.",
            '"Look!" came the cry one evening. "I did it!"',
        ),
        (
            "{name} noticed that {he} had learned at least as much {himself}.",
            "To teach others, {he} discovered, you have to understand things properly.",
            "The first letter that {name} ever got as a teacher hung above {his} bed for many years.",
        ),
    ),
    "two offers": (
        (
            "{one_day} {name} received two offers on the same day.",
            "{one_day} {name} had to choose between two jobs.",
        ),
        (
            "One was well paid but far away; the other was close to home but poorly paid.",
            "The first promised money, the second promised time.",
            "The one job was safe and dull, the other exciting and uncertain.",
        ),
        (
            "{his.cap} {relative} advised {him} to take the money.",
            '"Follow your heart," said {name2}. "Use your head," said the {helper}.',
            "{name} made a list with two columns, but both became equally long.",
            "{he.cap} asked {number} people and got {number} different answers.",
        ),
        ("{feel}", ""),
        (
            "In the end, {name} tossed a coin. While it was still in the air, {he} knew what {he} was hoping for.",
            "On a long walk, {he} asked {himself} which decision {he} would regret more.",
            "One night, {he} dreamed that {he} had already left, and {he} woke up sad. That was the answer.",
        ),
        (
            "{he.cap} stayed, and never regretted it.",
            "So {he} packed {his} bag and left, and it was the beginning of a better life.",
            "{name} chose the harder way and was surprised how easy it was.",
        ),
    ),
    "thief": (
        (
            "{one_day} something was stolen: {thing.a}.",
            "For {few} weeks, small things had been disappearing: a spoon, a coin, a button.",
        ),
        (
            "{locals.cap} blamed {name2}, because {he2} was new {where}.",
            "Everyone suspected everyone else.",
            '"It must have been {name2}," people whispered.',
        ),
        (
            "{name} did not believe it and decided to find out the truth.",
            "Only {name} asked for proof, and nobody had any.",
        ),
        (
            "{he.cap} put a shiny coin on the windowsill, hid behind the curtain and waited.",
            "{he.cap} wrote down exactly what had been taken, and when, and where.",
            "{he.cap} scattered flour on the floor in the evening and looked for tracks in the morning.",
        ),
        (
            "There was a flutter of wings: the thief was a crow! In its nest they found everything again.",
            "The tracks led straight to the basket of {name}'s own dog.",
            "It turned out that nothing had been stolen at all: the bag had a hole in it.",
        ),
        (
            "{locals.cap} had to apologise to {name2}.",
            '"Thank you for believing me," said {name2}.',
            "Some people went red and said nothing for the rest of the day.",
        ),
    ),
    "saving": (
        (
            "{name} had been saving for {number} months to buy {thing.a}.",
            "In a shop window, {name} had seen {thing.a}, and {he} thought of nothing else.",
        ),
        (
            "{he.cap} walked instead of taking the bus and ate {food} every day.",
            "Every coin went into an old jar on the shelf.",
            "{he.cap} did extra work for the {helper} and never bought anything for {himself}.",
        ),
        (
            "{one_day} the jar was full, and {name} put on {his} coat and set off.",
            "At last, {he} had enough money and walked into town, singing.",
        ),
        (
            "On the way, {he} met {name2}, who was crying. {his2.cap} {relative} was ill, and the medicine was "
            "expensive.",
            "On the way, {he} passed a house that had burned down. A family stood in front of it with nothing left.",
        ),
        (
            "{name} stood there for a while with {his} hand in {his} pocket.",
            "It was not an easy decision.",
            "{he.cap} thought about it for exactly one minute.",
        ),
        (
            "Then {he} gave away everything {he} had and went home with empty hands.",
            'Then {he} said, "Take this. You need it more than I do."',
        ),
        (
            "Weeks later, {he} found a parcel in front of {his} door. In it was exactly what {he} had wanted.",
            "{he.cap} never bought it, and after a while {he} did not even want it any more.",
            "The jar is full again by now, and nobody knows what {name} is saving for.",
        ),
    ),
    "big task": (
        (
            "{one_day} {name} was told to {task}, and there were only {small} days left.",
            "{one_day} the {helper} asked {name} to {task}. It was more work than {he} had ever done.",
        ),
        (
            '"That is impossible," was {his} first thought.',
            "Anyone else would have refused, but {name} could never say no.",
            "{he.cap} began at once and worked until {his} back hurt.",
        ),
        (
            "By the {ordinal} evening, {he} had finished less than a quarter.",
            "Then {his} {tool} broke, and half a day was lost.",
            "{he.cap} was so tired that {he} made one mistake after another.",
        ),
        ("{feel}", "{quote_help}"),
        (
            "{name} divided the work into small parts and wrote them on a list.",
            "{name2} came, rolled up {his2} sleeves and asked where to begin.",
            "One after another, {locals} came to help, without being asked.",
        ),
        (
            "What had seemed impossible was done in {few} hours.",
            "At {clock_late} on the last day, everything was ready.",
            "They finished just in time, with only minutes to spare.",
        ),
        ("{joy}",),
    ),
    "old letter": (
        (
            "{one_day} {name} found a letter behind a cupboard. It was more than {number} years old and had never "
            "been opened.",
            "{one_day} an old envelope fell out of a book that {name} had bought at the market.",
        ),
        (
            "The name on it could hardly be read.",
            "It was addressed to a woman who had once lived in the same street.",
            "The ink was faded, but the writing was beautiful.",
        ),
        (
            "Was it right to open it? {name} thought about it for a whole day.",
            "{name} did not open it, because it was not meant for {him}.",
            "{he.cap} asked {locals} whether anybody remembered the name.",
        ),
        (
            "The {helper} remembered the family and knew where they had gone.",
            "In the library, {he} searched through old newspapers for {few} evenings.",
            "{name} wrote to {number} people, and one of them answered.",
        ),
        (
            "At last, {he} stood in front of a small house and rang the bell. A very old woman opened the door.",
            "The woman was still alive; she was ninety-one and lived in the next town.",
        ),
        (
            'She read the letter twice. "I waited for this all my life," she said quietly.',
            "When she saw the writing, she had to sit down. It was from her brother.",
        ),
        (
            "They drank tea together, and she told {him} the whole story.",
            "{name} left without asking what was in it.",
            "Later, she often wrote to {name}, and {he} always answered on the same day.",
        ),
    ),
    "lost child": (
        (
            "{one_day} a little girl stood {spot} and cried. She had lost her mother.",
            "{one_day} a boy of about four held on to {name}'s sleeve and would not let go.",
        ),
        (
            "The child did not know the name of the street, only that the door was green.",
            '"Where do you live?" asked {name}, but the child only shook its head.',
            "{name} knelt down and asked what the matter was.",
        ),
        (
            "{name} had to {task}, but that could wait.",
            "{he.cap} took the child by the hand, and they began to search.",
            "They asked the {helper}, then {locals}, but nobody knew the child.",
        ),
        (
            "To pass the time, {name} told a story about {animal.a} that could dance.",
            "{name} shared {his} {food} with the child, and the tears stopped.",
        ),
        (
            "{soonc_short} a woman came running, pale with worry.",
            "At the end of a long street, the child suddenly shouted and pointed: there was the green door!",
        ),
        (
            "The mother did not know how to thank {him}.",
            '"You were only gone for an hour," said the mother, "but it felt like a year."',
            "The child waved until {name} had turned the corner.",
        ),
    ),
    "rumour": (
        (
            "{one_day} a rumour went round: {rumour}.",
            "{one_day} somebody told somebody that {rumour}.",
        ),
        (
            "By evening, everyone {where} had heard it, and each time it was repeated, it got bigger.",
            "{locals.cap} talked of nothing else.",
            "Some were afraid, others were angry, and nobody asked whether it was true.",
        ),
        (
            "{name} was worried as well, but {he} wanted to be sure.",
            '"Who told you that?" {name} asked each of them.',
        ),
        (
            "{name} followed the story back from one person to the next until {he} came to {name2}.",
            "It took {him} {few} days to find out where the story had begun.",
        ),
        (
            '"But I said nothing of the kind!" cried {name2}. "I was only talking about a dream I had had."',
            "It turned out that the {helper} had misheard a single word.",
            "{name2} went red. {he2.cap} had only wanted to make a joke.",
        ),
        (
            "People laughed about it later, but they were more careful with stories after that.",
            "When the truth was known, nobody wanted to have believed the rumour.",
        ),
    ),
    "patience": (
        (
            "{name} wanted to learn how to {skill}, and {he} wanted to learn it fast.",
            "{one_day} {name} asked the {helper} to teach {him} how to {skill}.",
        ),
        (
            "For the first month, {he} was only allowed to watch.",
            '"How long will it take?" {he} asked. "Ten years," was the answer.',
            '"And if I work twice as hard?" asked {name}. "Then it will take twenty," said the {helper}.',
        ),
        (
            "{name} was disappointed and thought of leaving.",
            "Every day {he} did the same thing, and every day {he} did it a little better.",
            "{his.cap} first attempts were so bad that {he} hid them.",
        ),
        (
            "Years passed. {he.cap} no longer counted the days.",
            "One {season}, {he} noticed that {he} had stopped thinking about the end.",
        ),
        (
            "{one_day} the {helper} looked at {his} work for a long time and said nothing. It was the greatest praise.",
            "{one_day} people came from far away to see what {he} had made.",
        ),
        (
            "Now {name} has a pupil {himself}, and when the pupil asks how long it will take, {he} smiles.",
            '"Are you a master now?" asked {his} {relative}. "No," said {name}. "Now I can begin."',
        ),
    ),
    "moving away": (
        (
            "{one_day} {name2} told {name} that {he2} was going to move away.",
            "{one_day} {name} heard that {name2}, {his} best friend, was leaving for good.",
        ),
        (
            "{name} pretended to be glad for {him2}, but {he} was not.",
            "They had seen each other every day for {number} years.",
            '"When?" asked {name}. "In {few} weeks," said {name2}.',
        ),
        (
            "They did everything they had always wanted to do together.",
            "They made a list of all the places they wanted to see once more.",
            "On the last evening, they sat {spot} and hardly spoke.",
        ),
        (
            "When they said goodbye, {name2} gave {him} {thing.a}.",
            '"I\'ll write to you," {name2} promised, and then {he2} was gone.',
        ),
        (
            "The first weeks were empty and long.",
            "{name} often walked past the house, where other people were living now.",
            "At first, a letter came every week, then every month.",
        ),
        (
            "But when {name2} came back for a visit a year later, it was as if {he2} had never been away.",
            "Slowly, {name} made new friends, but {he} kept a place free for the old one.",
            "{soonc_short} {name} bought a ticket and set off to visit {him2}.",
        ),
    ),
}

# Plots that belong to one setting.
_LOCAL_PLOTS: dict[str, tuple[tuple[tuple[str, ...], ...], ...]] = {
    "laboratory": (
        (
            (
                "The experiment had already failed {number} times.",
                "{name} was looking for a material that was as light as paper and as strong as steel.",
                "According to the theory, the liquid should have turned blue, but it never did.",
            ),
            (
                "{his.cap} money would last for only {small} more months.",
                "The head of the institute wanted results, and he wanted them soon.",
                "{he.cap} checked the temperature, the pressure and every single number again.",
            ),
            (
                "{one_day} {name} forgot a dish by the window and went home.",
                "{one_day} {name} was so tired that {he} mixed up two bottles.",
                "{one_day} the heating broke down, and it became bitterly cold in the room.",
            ),
            (
                "When {he} came back, something had changed: the surface was covered with tiny crystals.",
                "The next morning, the mixture had a colour that {he} had never seen before.",
                '"This can\'t be right," {he} murmured, and measured again.',
            ),
            (
                "{he.cap} repeated the test {times}, and each time the result was the same.",
                "{name} wrote down every step, so that others could test it.",
                "A chance had solved what years of planning had not.",
            ),
            ("{joy}", "A year later, the discovery was used in hospitals all over the world."),
        ),
        (
            (
                "{name} had built a robot that was supposed to sort samples.",
                "After {number} months of work, {name}'s machine was ready.",
            ),
            (
                "On the first test, it put everything into the wrong box.",
                "It worked perfectly, as long as nobody was watching.",
                "As soon as {he} pressed the button, all the lights in the building went out.",
            ),
            (
                "{name} read through thousands of lines of code and found nothing.",
                "{his.cap} colleagues smiled politely and went to lunch.",
                "{name2}, who worked next door, offered to help.",
            ),
            (
                "Finally {he} discovered that a cable was loose.",
                "The mistake was a single missing comma.",
                '"Have you tried turning it the other way round?" asked the cleaner. That was it.',
            ),
            ("This time, every sample landed in the right place.", "The machine hummed, and the first box was sorted."),
            ("{joy}",),
        ),
    ),
    "school": (
        (
            (
                "{one_day} the teacher announced a test, and {name} had not understood anything.",
                "{name} was bad at maths, or at least {he} believed so.",
            ),
            (
                "{he.cap} was too ashamed to ask.",
                "{name2}, who sat next to {him}, was the best in the class.",
                "The night before, {he} stared at the page until the numbers began to dance.",
            ),
            (
                "In the middle of the test, {he} could have copied from {name2}, but {he} did not.",
                "{name} failed, and it was not even close.",
                "{he.cap} handed in an almost empty sheet of paper.",
            ),
            (
                'After the lesson, the teacher asked {him} to stay. "Tell me where you got lost," she said.',
                '"We could practise together," said {name2}. "And you could help me with my drawing."',
            ),
            (
                "It turned out that {he} had missed one simple thing two years earlier.",
                "Every afternoon they sat together in the library and worked through the book.",
            ),
            (
                "In the next test, {name} got nearly everything right.",
                "{he.cap} was not the best in the class, but {he} was no longer afraid.",
            ),
        ),
        (
            (
                "The class was going to perform a play, and {name} wanted the main part.",
                "{name} was given a part in the school play with exactly one sentence.",
            ),
            (
                "{he.cap} practised it in the bath, on the bus and in {his} sleep.",
                "{name2} got the part instead, and {name} was asked to paint the scenery.",
            ),
            (
                "On the evening of the performance, {number} parents sat in the hall.",
                "Just before the curtain went up, {name2} lost {his2} voice.",
            ),
            (
                "Someone had to step in, and only {name} knew all the words.",
                "On stage, everyone suddenly forgot what came next. There was a terrible silence.",
            ),
            (
                "{name} took a step forward and began to speak.",
                "Without thinking, {name} made up a new line, and the audience laughed.",
            ),
            ("The applause lasted for minutes.", '"You saved us," whispered {name2}.', "{joy}"),
        ),
    ),
    "farm": (
        (
            (
                "{one_day} one of the lambs was missing.",
                "{one_day} the best cow broke through the fence and ran away.",
            ),
            (
                "{name} followed the tracks across the wet fields.",
                "The sun was going down, and a fox had been seen nearby.",
                "{he.cap} whistled and called, but there was no answer.",
            ),
            (
                "Beyond the stream, {he} heard a weak cry.",
                "The dog stopped, raised its head and ran off to the left.",
            ),
            (
                "The animal had fallen into a ditch and could not get out by itself.",
                "It was standing in the middle of a neighbour's cabbages, eating happily.",
            ),
            (
                "With a rope and a good deal of patience, {name} brought it home.",
                "The neighbour was not pleased, and {name} paid for the damage with ten litres of milk.",
            ),
            ("{joy}", "The next morning, {he} mended the fence properly."),
        ),
        (
            (
                "That year, the harvest was poor, and {name} could not pay the bank.",
                "Prices had fallen, and the old tractor needed a new engine.",
            ),
            (
                "{he.cap} sat over the bills until late at night.",
                '"Sell the land," advised the grain dealer.',
            ),
            (
                "Then {name2} had an idea: why not make cheese and sell it in town?",
                "Then {name} found {his} grandmother's recipe for apple juice.",
            ),
            (
                "The first attempts tasted terrible, and even the pigs refused them.",
                "They borrowed a small van and drove to the market every Saturday.",
            ),
            (
                "On the first day, they sold almost nothing; by the end of the summer, people were queuing.",
                "A restaurant ordered {number} bottles, then a hundred.",
            ),
            ("By {month}, the debt was paid.", "The farm was saved, and the old tractor got its engine."),
        ),
    ),
    "hospital": (
        (
            (
                "In room {number} lay an old man who refused to speak.",
                "A girl with a broken leg was the most difficult patient on the ward.",
            ),
            (
                "Nobody ever came to visit, and the food was sent back untouched.",
                "The doctors were at a loss, because the wound was healing well.",
            ),
            (
                "{name} began to sit by the bed for ten minutes after every shift.",
                "{name} did not ask any questions; {he} simply read aloud from the newspaper.",
                "{one_day} {name} brought along a chessboard and made the first move.",
            ),
            (
                "For {few} days, nothing happened.",
                'On the {ordinal_late} evening, a quiet voice said, "You have skipped a line."',
                "One evening, a hand reached out and moved a piece.",
            ),
            (
                "From then on, they talked every evening, about music, about food and about home.",
                "It turned out that the patient had simply been homesick.",
            ),
            (
                "When the day of departure came, neither of them liked to say goodbye.",
                "A month later, a parcel arrived at the ward, with a chessboard made of fine wood.",
            ),
        ),
        (
            (
                "In the middle of the night, the power failed.",
                "{one_day} there was an accident on the main road, and {number} injured people arrived at once.",
            ),
            (
                "For a second, nobody moved. Then everyone ran.",
                "{name} had been on {his} feet for {number} hours, but there was no time to rest.",
            ),
            (
                "{name} gave clear orders, and nobody asked questions.",
                "{he.cap} went from bed to bed with a torch in {his} hand.",
                "Those who were badly hurt were treated first, and the others had to wait.",
            ),
            (
                "One of the patients was {name2}, an old friend from school.",
                "A young woman held {his} hand and would not let go.",
            ),
            ("By dawn, the worst was over.", "Nobody died that night."),
            ("{joy}", "{name} washed {his} face, drank a glass of water and went home on foot."),
        ),
    ),
    "office": (
        (
            (
                "{one_day} {name} sent an angry e-mail to the wrong person: {his} boss.",
                "{one_day} {name} pressed the wrong key, and the work of {few} weeks was gone.",
                "{one_day} {name} discovered a mistake in the accounts, and it was {his} own.",
            ),
            ("{feel}",),
            (
                "{he.cap} could say that the computer was to blame, or {he} could tell the truth.",
                "Nobody had noticed it yet.",
                "{his.cap} colleague {name2} saw {his} pale face and brought {him} a cup of tea.",
            ),
            (
                "{name} knocked at the boss's door and explained everything.",
                "Together they stayed until midnight and tried to put it right.",
            ),
            (
                'To {his} surprise, the boss began to laugh. "I once did something much worse," she said.',
                '"At least you came to me yourself," said the boss.',
            ),
            (
                "A copy was found on an old computer, and only one day of work was lost.",
                "The customer got an apology and a discount, and that was that.",
            ),
        ),
    ),
    "mountains": (
        (
            (
                "{one_day} {few} hikers arrived who wanted to climb the highest peak.",
                "{one_day} {name} set out with {name2} to reach the summit.",
            ),
            (
                "The sky was blue, but {name} did not trust it.",
                "They started at four in the morning, while the stars were still out.",
            ),
            (
                "An hour below the top, the wind turned, and clouds came up from the west.",
                "Just before the summit, the snow became soft and dangerous.",
            ),
            (
                '"We have to turn back," said {name}. The others protested: they were so close!',
                "Everybody looked at {him}. It was the hardest decision of the day.",
            ),
            (
                "They turned round, and an hour later an avalanche swept over the place where they had stood.",
                "Hardly had they reached the hut when the storm broke.",
            ),
            (
                "Nobody complained any more.",
                '"The mountain will still be there next year," said {name}.',
            ),
        ),
    ),
    "workshop": (
        (
            (
                "{one_day} a rich customer ordered {breakable.a} and wanted it within {number} days.",
                "{one_day} a customer came with an order that every other workshop had refused.",
            ),
            (
                "It had to be perfect, or he would not pay.",
                '"Can you do it?" he asked. "I can try," said {name}.',
            ),
            (
                "{name} worked day and night, and the lamp in the window was never put out.",
                "The wood was too wet, the glue too old, and the first piece split.",
            ),
            (
                "On the last evening, {he} discovered a tiny fault that nobody else would ever have seen.",
                "When it was almost finished, {he} was not satisfied and began all over again.",
            ),
            (
                'The customer turned it in his hands for a long time. "I have never seen better work," he said.',
                "The customer came, looked, paid and left without a word, but a week later he sent {number} others.",
            ),
            ("{joy}", ""),
        ),
    ),
}

_MORE: dict[str, tuple[str, ...]] = {
    "a_young_animal": ("a young {animal}", "a tiny {animal}", "a hungry {animal}", "a frightened {animal}"),
    "quarrel_topic": (
        *("money", "a game of cards", "an old debt", "who should do the washing-up", "a broken cup", "a silly joke"),
        *("the right way to {task}", "a fence", "something so small that they soon forgot it", "a girl's opinion"),
    ),
    "fear": (
        *("heights", "the dark", "deep water", "dogs", "speaking in front of people", "thunderstorms", "spiders"),
        *("being alone", "crowds", "narrow rooms", "horses", "making mistakes", "flying"),
    ),
    "one_day_low": ("one day", "one morning", "one evening", "that {season}"),
    "contest": (
        *(
            "bake",
            "sing",
            "run",
            "tell a story",
            "play chess",
            "draw",
            "throw",
            "climb",
            "dance",
            "cook",
            "solve riddles",
        ),
    ),
    "prize": (
        *("a silver cup", "a horse", "a week's holiday", "a new bicycle", "a bag of coins", "a barrel of apples"),
        *("dinner for two", "a gold medal", "{number} books"),
    ),
    "clock_late": ("eight o'clock", "nine o'clock", "half past nine", "ten o'clock", "a quarter to eleven"),
    "season_late": ("late summer", "autumn", "August", "the end of July"),
    "ordinal_late": ("third", "fourth", "fifth", "sixth", "seventh", "tenth"),
    "soonc_short": ("After a while,", "Before long,", "Just then,", "In the end,", "Soon afterwards,"),
    "rumour": (
        *("there was gold under the hill", "a dangerous animal had escaped", "everyone would have to move away"),
        *("a new road was going to be built right through the houses", "the water was no longer clean"),
        *("a famous singer was coming", "prices were going to double", "there was going to be no holiday that year"),
    ),
    "small_animal": (
        *(
            "fox",
            "hare",
            "owl",
            "crow",
            "hedgehog",
            "squirrel",
            "kitten",
            "puppy",
            "duck",
            "pigeon",
            "rabbit",
            "badger",
        ),
        *("robin", "lamb", "goose", "sparrow", "hen", "cat", "dog", "raven", "swan", "heron", "goat"),
    ),
    "breakable": (
        *("clock", "radio", "music box", "lamp", "chair", "violin", "mirror", "teapot", "vase", "stool", "coffee mill"),
        *("toy train", "sewing machine", "weather house", "rocking horse", "camera", "spinning wheel", "picture frame"),
    ),
    "skill": (
        *("play the violin", "make pots", "carve wood", "bake good bread", "paint", "tame birds", "write well"),
        *("play chess", "cook", "draw", "mend clocks", "sing", "speak in public"),
    ),
}


def write(rng: random.Random) -> str:
    """Return one story of 60 to 220 words."""
    while True:
        text = _story(rng)
        if 60 <= len(text.split()) <= 220:
            return text


def _story(rng: random.Random) -> str:
    setting = rng.choice(tuple(_SETTINGS))
    rules = words.COMMON | _RULES | _MORE | _SETTINGS[setting]
    bound = words.pair(rng)
    for symbol in _FIXED:
        bound[symbol] = expand(rng, rules, rng.choice(rules[symbol]), **bound)
    rules["spot"], rules["spot_b"] = _halves(rng, rules["spot"])
    bound["animal"] = rng.choice(rules["small_animal"])
    bound["thing"] = expand(rng, rules, "{thing}")
    bound["food"] = rng.choice(words.FOODS)

    local = _LOCAL_PLOTS.get(setting, ())
    plot = rng.choice(local) if local and rng.random() < 0.35 else rng.choice(tuple(_PLOTS.values()))
    scene = [rng.choice(rules["opening"])]
    extras = ["{trait_sentence}", "{detail}", "{weather_past}"]
    rng.shuffle(extras)
    scene += extras[: rng.choice((0, 1, 1, 2, 2, 3))]
    if scene[-1] != "{trait_sentence}" and rng.random() < 0.15:
        scene.insert(0, scene.pop())
    beats = [rng.choice(alternatives) for alternatives in plot]
    beats = [beat for beat in beats if beat]
    paragraphs = [scene, *_paragraphs(rng, beats)]
    paragraphs[-1].append("{moral}")
    if rng.random() < 0.25:
        paragraphs = [[sentence for paragraph in paragraphs for sentence in paragraph]]
    done = [words.join(expand(rng, rules, sentence, **bound) for sentence in part) for part in paragraphs]
    return "\n\n".join(part for part in done if part)


def _halves(rng: random.Random, spots: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return `spots` in two parts at random, so that one sentence can name two different ones."""
    mixed = rng.sample(spots, len(spots))
    return tuple(mixed[:2]), tuple(mixed[2:])


def _paragraphs(rng: random.Random, beats: list[str]) -> list[list[str]]:
    """Return `beats` in one to three runs."""
    cuts = sorted(rng.sample(range(1, len(beats)), rng.choice((0, 1, 1, 2))))
    return [beats[start:end] for start, end in zip([0, *cuts], [*cuts, len(beats)], strict=True)]
