"""Diary entries in the first person: what happened today, what I thought of it and what I mean to do."""

import random

from starter.genres import words
from starter.grammar import expand

# A topic is a row of beats; each beat offers alternatives. "" leaves the beat out.
_TOPICS: tuple[tuple[tuple[str, ...], ...], ...] = (
    (
        (
            "I overslept this morning and missed the bus.",
            "My alarm clock did not ring, so I woke up at {clock_late}.",
            "I woke up far too early and could not get back to sleep.",
            "This morning I was already awake when the birds began to sing.",
        ),
        (
            "I had to {rush} without having breakfast.",
            "For breakfast I had {food}, standing up.",
            "I made coffee, spilled half of it and had to change my shirt.",
            "At least there was time for {food} and a second cup of tea.",
        ),
        ("Nobody seemed to notice.", "By {clock_late} I felt better.", "It could have been worse.", ""),
    ),
    (
        (
            "{name} came to see me this {part_of_day}.",
            "I met {name} at {place_the} {by_chance}.",
            "I met {name} at {place_the}.",
            "{name} rang me up and talked for an hour.",
            "After {months} without a word, {name} suddenly stood at my door.",
        ),
        (
            "{he.cap} has {change}, and I almost did not recognise {him}.",
            "{he.cap} told me about {his} {news}.",
            "We talked about {talk}, and about how fast time passes.",
            "I had forgotten how much {he} makes me laugh.",
            "{he.cap} looked {feeling}, although {he} said that everything was fine.",
        ),
        (
            "We have promised to meet more often.",
            "Before {he} left, {he} gave me {thing.a}.",
            "I wish {he} lived nearer.",
            "When {he} had gone, the flat seemed very quiet.",
            "I did not tell {him} what I really think. Perhaps I should have.",
        ),
    ),
    (
        (
            "I had an argument with {name} today.",
            "{name} and I have quarrelled again.",
            "Something is wrong between {name} and me.",
        ),
        (
            "It was about {quarrel}, of all things.",
            "{he.cap} thinks that I {accuse}, which is not true.",
            "{he.cap} accused me of being {bad_trait}, and I said that {he} was even worse.",
            "I said things that I did not mean, and so did {he}.",
        ),
        (
            "Now I feel {feeling_bad}.",
            "Who is right? I honestly don't know.",
            "Maybe I was unfair. I will ring {him} tomorrow and say so.",
            "If {he} does not apologise, I won't either. At least not before {day}.",
            'Ten minutes later {he} sent me a message: "Sorry. Coffee?"',
        ),
    ),
    (
        (
            "At work, everything went wrong.",
            "Work was {work_adj} today.",
            "We had {number} customers before noon.",
            "My boss was in {mood.a} mood.",
            "I am still not used to being {job.a}.",
        ),
        (
            "The {machine} broke down just when we needed it most.",
            "I was asked to {work_task}, although I had not finished yesterday's work.",
            "I made a mistake, but luckily I noticed it before anyone else did.",
            "For three hours I did nothing but {work_task}.",
            "A customer shouted at me because {complaint}.",
        ),
        (
            "I stayed calm, and I am rather proud of it.",
            "My colleague {name2} helped me, as {he2} always does.",
            "Sometimes I wonder whether I should look for another job.",
            "In the end, it all got done.",
            '"Well done," said the boss. I could hardly believe my ears.',
        ),
    ),
    (
        (
            "I tried to cook {food} for the first time.",
            "{name} was coming to dinner, so I decided to make {food}.",
            "I have finally baked the cake that {name2} told me about.",
        ),
        (
            "The recipe said that it was easy.",
            "I used {number} eggs and far too much salt.",
            "I forgot to turn on the oven.",
            "Halfway through, I noticed that there was no butter in the house.",
        ),
        (
            "It tasted like cardboard, but we ate it all.",
            "The kitchen looked as if a bomb had gone off.",
            "To my surprise, it was delicious.",
            "Next time I will order a pizza.",
        ),
    ),
    (
        (
            "I went for a long walk along the river.",
            "After lunch I walked up the hill behind the houses.",
            "Since the weather was so {weather_adj}, I went for a walk in the park.",
            "I rode my bicycle as far as the old mill.",
        ),
        (
            "On the way, I saw {animal.a}, which stood quite still and looked at me.",
            "There was nobody about except an old man who was feeding the ducks.",
            "The trees are {tree_state} now, and everything smells of {smell}.",
            "A little girl asked me why the sky is blue, and I could not explain it properly.",
            "My shoes got wet, but I did not mind.",
        ),
        (
            "I came back with red cheeks and a clear head.",
            "I ought to do this more often.",
            "For an hour, I did not think of work at all.",
            "On the way home it began to rain.",
        ),
    ),
    (
        (
            "I could not find my {object_small} anywhere.",
            "Today I lost my {object_small}.",
            "Where on earth is my {object_small}?",
        ),
        (
            "I looked under the bed, in every drawer and even in the fridge.",
            "I turned the whole flat upside down.",
            "I was sure that I had left it at {place_the}.",
        ),
        (
            "It was in my coat pocket all the time.",
            "I still have not found it. It will turn up when I no longer need it.",
            "A stranger had found it and brought it back. There are good people in the world.",
            "The {pet} was lying on it.",
        ),
    ),
    (
        (
            "My {pet} has been behaving strangely.",
            "The {pet} kept me awake half the night.",
            "We have a new member of the family: {pet.a} called {pet_name}.",
        ),
        (
            "It has hidden {few} of my socks behind the sofa.",
            "It refuses to eat anything but {food}.",
            "The vet says that there is nothing wrong with it.",
            "It sits by the window for hours and stares at the pigeons.",
        ),
        (
            "I can never be angry with it for long.",
            "Now it is asleep on my feet while I am writing this.",
            "What would I do without it?",
        ),
    ),
    (
        (
            "I have begun to learn {learn_how}.",
            "For {number} weeks now, I have been learning {learn_how}.",
            "My {learn} lesson was at {clock_late}.",
        ),
        (
            "It is harder than I thought.",
            "My teacher is {trait} and never loses patience.",
            "I practise for twenty minutes every day, or at least I try to.",
            "The others in the group are all younger than I am.",
        ),
        (
            "Today, for the first time, it felt almost easy.",
            "If I keep going, I might be quite good at it in ten years.",
            "The neighbours have not complained so far.",
            "I am bad at it, but I enjoy it.",
        ),
    ),
    (
        (
            "I have a cold and spent most of the day in bed.",
            "My head hurts, and my throat is sore.",
            "I went to the doctor because of my {body}.",
            "I had to go to the dentist, which I had been putting off for months.",
        ),
        (
            "I drank {number} cups of tea and slept a lot.",
            "The waiting room was full, and I read the same magazine twice.",
            '"You need rest," said the doctor. As if I didn\'t know that!',
            "It hurt less than I had feared.",
        ),
        (
            "{name} brought me some soup.",
            "I hope I will be better by {day}.",
            "One should not complain, but I do.",
            "I have to go back in {few} weeks.",
        ),
    ),
    (
        (
            "I had a strange dream last night.",
            "Last night I dreamed of {dream}.",
            "The same dream again: {dream}.",
        ),
        (
            "I could fly, but only backwards.",
            "Everyone spoke a language that I did not understand.",
            "I was back at school and had to take a test without a pencil.",
            "My {elder} was there, too, and smiled.",
        ),
        (
            "When I woke up, I did not know where I was.",
            "What could it mean? Probably nothing.",
            "I wrote it down at once, before I could forget it.",
        ),
    ),
    (
        (
            "I spent the whole {part_of_day} tidying up.",
            "Today I finally cleaned out the {room}.",
            "While I was looking for something else, I came across an old box in the {room}.",
        ),
        (
            "I found {few} letters, a broken {object_small} and a photograph of {name}.",
            "There was dust everywhere, and I could not stop sneezing.",
            "Why do I keep all these things?",
            "I filled {number} bags with things that nobody needs.",
        ),
        (
            "In the photograph we are both {number_young} years old and look terribly serious.",
            "I threw away more than I kept.",
            "I put everything back exactly as it had been.",
            "Now I can see the floor again.",
        ),
    ),
    (
        (
            "I went shopping because the fridge was empty.",
            "I only wanted to buy bread, but I came home with {few} bags.",
            "The market was crowded today.",
        ),
        (
            "Everything has become more expensive.",
            "A woman in front of me paid with nothing but small coins.",
            "I bought apples, onions, rice, and, of course, chocolate.",
            "I tried on {number} pairs of trousers, and none of them fitted.",
        ),
        (
            "I forgot the milk.",
            "When I got home, I noticed that I had been given too much change. I will take it back tomorrow.",
            "Next week I must spend less.",
        ),
    ),
    (
        (
            "The new neighbours have moved in.",
            "The people upstairs were having a party until two in the morning.",
            "I finally spoke to the {man} who lives across the hall.",
        ),
        (
            "They have {few} children and a piano.",
            "The walls are so thin that I can hear every word.",
            "They seem {trait}, but one never knows.",
        ),
        (
            "I thought about knocking, but I did not dare.",
            "They invited me to come round on {day}.",
            "It is nice to hear voices in the house again.",
            "I will give them a week before I judge them.",
        ),
    ),
    (
        (
            "I finished the book that {name} had lent me.",
            "I have been reading all day.",
            "In the evening we went to the cinema.",
            "{name} had two tickets for a concert, and we went together.",
        ),
        (
            "It was {art_adj}, especially the ending.",
            "I must admit that I fell asleep in the middle.",
            "I have not been so moved for a long time.",
            "There were moments when I held my breath.",
        ),
        (
            "{name2} would have hated it.",
            "I can't stop thinking about it.",
            "I might read it again one day.",
            "Afterwards, I walked home slowly so that the feeling would last.",
            "",
        ),
    ),
    (
        (
            "A letter came from {name}.",
            "There was a parcel for me today.",
            "I got an answer at last.",
        ),
        (
            "My hands shook when I opened it.",
            "I read it {times} before I understood it.",
            "I did not open it until the evening.",
        ),
        (
            "It was good news: I have got the job!",
            "They don't want me, but they wish me all the best.",
            "{name} is going to get married. I am happy for {him}, really.",
            'It contained {thing.a} and a card with only one sentence: "I have not forgotten."',
        ),
    ),
    (
        (
            "It is {name}'s birthday tomorrow, and I still have no present.",
            "Today was my birthday.",
            "We celebrated {name}'s birthday at {place_the}.",
        ),
        (
            "I am {age} now, which sounds older than I feel.",
            "There were {number} guests and only {small} chairs.",
            "Everybody brought something to eat.",
        ),
        (
            "We sang, rather badly, and danced until midnight.",
            "I am not fond of parties, but this one was different.",
            "What do you give to someone who has everything?",
        ),
    ),
    (
        (
            "Mother rang up in the evening.",
            "I visited my {elder} in the home.",
            "I spent the day with my {elder}.",
        ),
        (
            "She asked whether I was eating enough. She always does.",
            "We looked at old pictures, and I heard stories that I already knew.",
            "We did not talk much; we did not have to.",
        ),
        (
            "It makes me sad that time goes by so quickly.",
            "I should ask more questions while I still can.",
            "On the way home I decided to go there every {day}.",
        ),
    ),
    (
        (
            "The train was late again, this time by {number} minutes.",
            "I got on the wrong train and only noticed it {few} stops later.",
            "I was stuck in traffic for an hour.",
        ),
        (
            "Opposite me sat a man who was talking to his {pet}.",
            "I listened to {few} people arguing about {quarrel}.",
            "Everyone was staring at a phone, and so was I.",
        ),
        (
            "A child offered me half of its biscuit, and the day was saved.",
            "By the time I arrived, the meeting was over.",
            "If I had left ten minutes earlier, nothing would have happened.",
            "There are worse things than having time to think.",
        ),
    ),
    (
        (
            "I have been thinking about {think}.",
            "For days, I have not been able to stop thinking about {think}.",
            "Sometimes I lie awake and think about {think}.",
        ),
        (
            "A year ago, I would not have believed it.",
            "Everybody gives me advice, but nobody has to live with the result except me.",
            "On the one hand, I would like to stay as I am; on the other hand, I long for something new.",
            "When I was a child, I thought that adults knew everything.",
        ),
        (
            "I don't have to decide today.",
            "Perhaps it is enough to take one step at a time.",
            "I will make a list. Lists help.",
            "Whatever happens, I will manage.",
        ),
    ),
    (
        (
            "I worked in the garden until my back hurt.",
            "I planted {number} bulbs today.",
            "The tomatoes on my balcony are ripe at last.",
        ),
        (
            "The soil was still wet, and my boots got heavy.",
            "A robin sat on the fence and watched me.",
            "The slugs have eaten nearly all the lettuce.",
        ),
        (
            "There is dirt under my nails, and I am happy.",
            "With a bit of luck, everything will bloom in {season}.",
            "I gave some to {name}, who was delighted.",
        ),
    ),
    (
        (
            "We had a class test today.",
            "I had to give a talk in front of {number} people.",
            "I passed the exam!",
            "The results will be announced on {day}.",
        ),
        (
            "My mouth was dry, and I forgot what I was going to say.",
            "I had studied so much that I could hardly sleep.",
            "The first question was easy, the second was not, and the third I did not understand at all.",
        ),
        (
            "{name} says that it went well, but {he} always says that.",
            "Now it is over, and that is the main thing.",
            "I will never again begin so late. I say that every time.",
        ),
    ),
)

_RULES: dict[str, tuple[str, ...]] = {
    "head": (
        "{day}, {date}.",
        "{day}.",
        "{date}.",
        "Dear diary,",
        "{day} evening.",
        "{day} morning, {date}.",
        "{month} {year_day}, late at night.",
        "",
        "",
        "",
    ),
    "date": tuple(f"{day} {{month}}" for day in range(1, 29)),
    "year_day": tuple(str(day) for day in range(1, 29)),
    "opening": (
        "What a day!",
        "What {day_adj.a} day!",
        "Today was {day_adj.a} day.",
        "It has been {day_adj.a} week.",
        "I have not written anything for {number} days.",
        "I am sitting {sit}, and it is {weather_now} outside.",
        "It is {weather_now} again.",
        "I am so {feeling} that I have to write it down.",
        "I hardly know where to begin.",
        "Nothing much happened today, or so I thought.",
        "First the good news.",
        "It is late, but I want to write a few lines before I go to sleep.",
        "I feel {feeling} and do not know why.",
        "Today I have {few} things to report.",
        "{weather_past}",
        "Another {day_adj} day is over.",
        "The first day of the holidays!",
        "I am writing this {sit}.",
        "If every day were like this one, I would {conditional}.",
        "Yesterday I was {feeling}; today I am {feeling_b}.",
        "My new pen writes beautifully, so I have no excuse any more.",
        "I promised myself to write every day, and here I am.",
    ),
    "day_adj": (
        *("long", "strange", "wonderful", "terrible", "quiet", "busy", "perfectly ordinary", "exciting", "dull"),
        *("difficult", "lovely", "tiring", "successful", "mixed", "hectic", "lazy", "unusual"),
    ),
    "sit": (
        *("at the kitchen table", "in bed", "on the balcony", "in the train", "in a café", "by the window"),
        *("under the apple tree", "in the waiting room", "on the stairs", "on the sofa with a blanket"),
    ),
    "weather_now": (
        *("raining", "snowing", "getting dark", "terribly hot", "cold and wet", "bright and sunny", "stormy"),
        *("foggy", "warm", "quite mild", "pouring with rain", "freezing"),
    ),
    "conditional": ("move to the mountains", "need a holiday", "never complain", "be a happy person", "go mad"),
    "feeling_b": ("calm", "cheerful", "hopeful", "tired", "full of energy", "in a bad mood", "much better", "bored"),
    "feeling_bad": ("guilty", "sad", "miserable", "angry", "empty", "silly", "misunderstood", "lonely", "hurt"),
    "clock_late": ("nine o'clock", "half past nine", "ten o'clock", "a quarter to ten", "half past ten", "eleven"),
    "rush": ("run all the way", "leave", "take a taxi", "hurry", "rush out of the house", "cycle through the rain"),
    "part_of_day": ("morning", "afternoon", "evening"),
    "by_chance": ("by chance", "quite unexpectedly", "as planned", "for lunch", "after work", "today"),
    "place_the": (
        *("the market", "the library", "the station", "the bakery", "the park", "the museum", "the hairdresser's"),
        *("the swimming pool", "the bus stop", "the post office", "the supermarket", "the café on the corner"),
    ),
    "months": ("three months", "half a year", "almost a year", "weeks", "two years"),
    "change": (
        *("become thin", "cut {his} hair", "started to wear glasses", "got older", "changed a lot", "learned to smile"),
    ),
    "news": (
        *("new job", "plans for the summer", "divorce", "trip to the mountains", "new flat", "exam", "operation"),
        *("sister's wedding", "trouble with the landlord", "new boss", "little daughter", "accident"),
    ),
    "talk": (
        *("old times", "school", "our parents", "money", "politics", "books", "people we used to know", "the future"),
        *("nothing in particular", "love", "football", "recipes"),
    ),
    "quarrel": (
        *("the washing-up", "money", "a parking space", "the holidays", "a film", "the heating", "an open window"),
        *("who had said what to whom", "the right way to cook rice", "politics", "a forgotten phone call"),
    ),
    "accuse": ("never listen", "am always late", "don't care", "work too much", "have forgotten our plans", "am lazy"),
    "bad_trait": ("selfish", "stubborn", "lazy", "rude", "impatient", "careless", "too serious", "mean", "jealous"),
    "work_adj": ("exhausting", "boring", "surprisingly pleasant", "stressful", "fun", "slow", "endless", "chaotic"),
    "mood": ("good", "bad", "terrible", "strange", "surprisingly good"),
    "machine": ("printer", "computer", "coffee machine", "lift", "telephone", "heating", "cash register", "van"),
    "work_task": (
        *("answer e-mails", "count boxes", "write a report", "clean the storeroom", "train the new colleague"),
        *("sort papers", "stand at the till", "translate a contract", "pack parcels", "make phone calls"),
    ),
    "complaint": ("his soup was cold", "he had to wait", "the price had gone up", "we were closing", "it was raining"),
    "tree_state": ("bare", "green", "yellow and red", "in full bloom", "covered with frost", "heavy with fruit"),
    "smell": ("rain", "earth", "hay", "flowers", "smoke", "wet leaves", "snow"),
    "object_small": (
        *("key", "wallet", "phone", "watch", "umbrella", "purse", "library card", "notebook", "ring", "scarf", "hat"),
        *("passport", "ticket"),
    ),
    "pet": ("cat", "dog", "rabbit", "parrot", "hamster", "tortoise", "kitten", "puppy"),
    "pet_name": ("Button", "Pepper", "Biscuit", "Shadow", "Snowball", "Pickle", "Tiger", "Mouse", "Professor"),
    "learn": (
        *("Italian", "Spanish", "guitar", "piano", "violin", "chess", "Japanese", "yoga", "dancing", "pottery"),
        *("judo", "drawing"),
    ),
    "learn_how": (
        *("Italian", "Spanish", "the guitar", "the piano", "chess", "Japanese", "how to dance", "how to draw", "judo"),
        *("to cook", "to swim", "to type with ten fingers", "the names of the stars"),
    ),
    "trait": ("friendly", "strict", "cheerful", "kind", "quiet", "polite", "funny", "a little strange", "lively"),
    "body": ("knee", "back", "left ear", "shoulder", "stomach", "eyes", "right hand", "cough"),
    "dream": (
        *("a house with a hundred rooms", "a train that never stopped", "an empty city", "my old school"),
        *("a talking {animal}", "a garden under the ground", "falling", "a door without a handle", "a huge library"),
    ),
    "room": ("attic", "cellar", "wardrobe", "garage", "spare room", "kitchen cupboard", "shed"),
    "number_young": ("six", "seven", "ten", "fifteen", "seventeen"),
    "age": ("thirteen", "sixteen", "twenty-one", "twenty-nine", "thirty-three", "forty", "fifty-two", "seventy"),
    "art_adj": (
        *("brilliant", "disappointing", "beautiful", "too long", "strange", "funny", "sad", "exciting", "very loud"),
    ),
    "think": (
        *("the future", "moving to another town", "what {name} said", "my childhood", "changing my job"),
        *("whether I am happy", "money", "the past", "what I really want", "going back to school"),
        *("how little I know", "the people I have lost touch with"),
    ),
    "link": (
        *(
            "Then something else happened.",
            "Otherwise, it was a quiet day.",
            "So much for that.",
            "And then there was this:",
        ),
        *(
            "But that was not all.",
            "Apart from that, there is not much to tell.",
            "What else happened?",
            "Oh yes, one more thing.",
        ),
        *("In the evening I was too tired for anything else.", "Now to something more cheerful.", "", "", "", ""),
        *("Later in the day, things changed.", "As if that were not enough, it went on like this."),
    ),
    "closing": (
        "Tomorrow I will {plan}.",
        "Tomorrow I am going to {plan}, whatever happens.",
        "I must not forget to {plan}.",
        "If I have time, I will {plan} at the weekend.",
        "Before I fall asleep, I want to remember one good thing: {good_thing}.",
        "I am grateful for {good_thing}.",
        "Good night.",
        "Now I am going to bed.",
        "Enough for today.",
        "My eyes are closing. More tomorrow.",
        "I wonder what tomorrow will bring.",
        "It is {clock_night}, and I can hear {night_sound}.",
        "Outside, I can hear {night_sound}. I like that.",
        "Perhaps things will look different in the morning.",
        "I should have gone to bed an hour ago.",
        "All in all, I can't complain.",
        "And yet, when I look back, it was a good day.",
        "I hope that {name} is thinking of me, too.",
        "The tea has gone cold while I was writing.",
        "I have decided to {plan}. There, now it is written down.",
        "Why is it so hard to {plan}?",
        "Only {number} more days until the holidays!",
    ),
    "plan": (
        *(
            "get up earlier",
            "ring my {relative}",
            "tidy my room",
            "go for a run",
            "write to {name}",
            "say what I think",
        ),
        *("pay the bills", "buy a new coat", "be more patient", "take the bus", "begin with the difficult things"),
        *(
            "water the plants",
            "eat less sugar",
            "repair the bicycle",
            "apologise",
            "do nothing at all",
            "drink less coffee",
        ),
        *("return the library books", "book a holiday", "clean the windows", "look for a new flat"),
    ),
    "good_thing": (
        *("the smell of fresh bread", "{name}'s smile", "the light on the roofs", "a kind word from a stranger"),
        *("my warm bed", "the first snow", "the song on the radio", "the old tree in front of my window"),
        *("a whole hour without noise", "the joke that {name} told"),
    ),
    "clock_night": ("almost midnight", "half past eleven", "ten o'clock", "one in the morning", "late"),
    "night_sound": (
        *("the rain on the roof", "a train in the distance", "the neighbour's radio", "the wind in the trees"),
        *("somebody laughing in the street", "an owl", "the clock ticking", "{pet.a} somewhere in the dark"),
    ),
}


def write(rng: random.Random) -> str:
    """Return one diary entry of 60 to 220 words."""
    while True:
        text = _entry(rng)
        if 60 <= len(text.split()) <= 220:
            return text


def _entry(rng: random.Random) -> str:
    rules = words.COMMON | _RULES
    bound = words.pair(rng)
    bound["pet"] = rng.choice(_RULES["pet"])
    head = expand(rng, rules, "{head}", **bound)
    paragraphs: list[list[str]] = [[rng.choice(rules["opening"])] if rng.random() < 0.8 else []]
    for number, topic in enumerate(rng.sample(_TOPICS, rng.choice((1, 2, 2, 3, 3, 4)))):
        sentences = [rng.choice(alternatives) for alternatives in topic]
        if number and rng.random() < 0.5:
            paragraphs.append(sentences)
        else:
            paragraphs[-1] += [rng.choice(rules["link"]), *sentences] if number else sentences
    if rng.random() < 0.4:
        paragraphs.append([])
    paragraphs[-1] += rng.sample(rules["closing"], rng.choice((0, 1, 1, 2)))
    done = [words.join(expand(rng, rules, sentence, **bound) for sentence in part) for part in paragraphs]
    return "\n\n".join(part for part in [head, *done] if part)
