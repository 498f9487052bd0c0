"""Questions from customers with their answers, and reviews of products, restaurants and other services."""

import random
import re

from starter.grammar import compose, deal, expand

_START = re.compile(r"((?:^|[.!?] |\.\" |: |\n)\"?)([a-z])")  # the word after "Question:" is a first word too


# Q is the customer's question, X adds to it, A is the answer, B more advice, Z the close;
# K asks for help, G and H greet and thank, F and U label the speakers; small letters make it spoken.
SHAPES = (
    "GQX/HABZ",
    "QXX/ABB",
    "GQX/HABB",
    "QXK/HABZ",
    "QX/ABBZ",
    "GXQX/HABB",
    "qx/ab",
    "qxx/abb/wz",
    "gqx/habb/w",
    "XQX/ABB",
    "GQXK/ABB",
    "XQK/HABB",
    "gqx/habb/wz",
    "QX/HABZ",
    "GQXX/ABBZ",
    "GXQK/HABBZ",
    "FQX/UABB",
    "FQX/UABZ",
    "FQXX/UABB",
    "qx/abb/w",
    "GQXXK/HABBBZ",
)
REVIEWS = (
    "LDDDE",
    "LDDD/DE",
    "LDD/DDE",
    "DLDDDE",
    "LDDDD/E",
    "L/DDDD/E",
    "DDD/LDE",
    "LDDDDE",
    "LDDD/DDE",
    "SLDDD/E",
    "SLDDDDE",
    "SDD/LDE",
    "L/DDD/DDE",
    "SDL/DDDD/E",
)

RULES: dict[str, tuple[str, ...]] = {
    "hello": ("Hello,", "Good morning,", "Good afternoon,", "Hi,", "Dear team,", "Hello there,", "Good evening,"),
    "thank": (
        "Thank you for your [message|question].",
        "Thanks for [writing to|contacting] us.",
        "I am [glad|happy] to help.",
        "Thank you for [letting us know|telling us|your patience].",
        "Of course, I can help you with that.",
        "Thank you for getting in touch.",
        "It is good that you [ask|write].",
        "[Gladly|Certainly]!",
        "Here is what I can tell you.",
        "I have read your message [carefully|with care].",
        "Let me [explain|check that for you].",
    ),
    "ask": (
        "Can you help me?",
        "What should I do[ now|]?",
        "I would be [glad|grateful] for [a quick answer|your help].",
        "Please let me know[ soon|].",
        "Thank you in advance.",
        "Is that possible?",
        "I hope you can help.",
        "Could you please look into it?",
        "I am [a little |]worried.",
        "How does this work?",
        "Whom do I have to ask?",
    ),
    "bye": (
        "Is there anything else I can do for you?",
        "Please [write|call] again if you have [more|other] questions.",
        "We [wish you|hope you have] a nice day.",
        "If the problem remains, [just |]let us know.",
        "I hope that this helps.",
        "You can reach us every day from eight to six.",
        "Thank you for being our customer.",
        "Have a good {daypart}.",
        "Feel free to [contact us|come back] at any time.",
    ),
    "daypart": ("day", "week", "evening", "weekend"),
    "thanks": (
        '"[Thank you|Thanks], that is very kind."',
        '"Oh, that was easy," the customer [said|replied].',
        '"I did not know that," the customer admitted.',
        '"Good, I will [try that|do that] [at once|tonight]."',
        '"And what does it cost?" the customer asked. "Nothing at all[, of course|]," was the answer.',
        '"All right," the customer said. "I will wait until {day}."',
        '"That is a relief!" said the customer.',
        '"Could you send me that in writing?" "Of course, [you will have it in a minute|no problem]."',
    ),
    "day": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"),
    "ago": ("two days ago", "a week ago", "last {day}", "yesterday", "two weeks ago", "this morning", "last month"),
    "n": ("two", "three", "four", "five", "six", "seven", "ten", "fourteen"),
    "digits": ("4817", "2093", "7750", "6142", "3381", "9926", "5504", "4208", "7013", "2659"),
    "item": (
        "lamp",
        "coat",
        "pair of shoes",
        "watch",
        "radio",
        "kettle",
        "backpack",
        "blanket",
        "chair",
        "tent",
        "jacket",
        "camera",
        "coffee machine",
        "printer",
        "toaster",
        "mirror",
        "desk",
        "helmet",
        "suitcase",
        "vacuum cleaner",
        "sweater",
        "set of knives",
        "umbrella",
        "keyboard",
        "pillow",
        "frying pan",
        "alarm clock",
        "hair dryer",
        "drill",
        "garden chair",
        "bookshelf",
        "bicycle",
    ),
    "sign": ("{who}, customer service", "Best wishes, {who}", "{who}", "Kind regards, {who}", "Your service team"),
    "who": (
        "Laura",
        "Martin",
        "Sofia",
        "Ben",
        "Nadia",
        "Victor",
        "Emma",
        "Karim",
        "Alice",
        "Thomas",
        "Irene",
        "Paul",
        "Mia",
        "Oscar",
    ),
    "color": ("blue", "green", "black", "white", "gray", "red", "brown", "yellow"),
}

TOPICS: dict[str, dict[str, tuple[str, ...]]] = {
    "late": {
        "Q": (
            "can you tell me where my {item} is?",
            "I ordered a {item} {ago}, and it has [still |]not arrived.",
            "when will my {item} be delivered?",
            "my order {digits} [is late|should have been here by now].",
            "how long does [a|the] delivery of a {item} [usually |]take?",
        ),
        "X": (
            "The {item} was [supposed|meant] to be here on {day}.",
            "I have [already |]checked with my neighbors, but nobody has seen a parcel.",
            "It is a birthday present[ for my sister| for my father|].",
            "The website only says that it is on its way.",
            "I have to leave town on {day}.",
        ),
        "A": (
            "Your parcel left our warehouse {ago2} and should arrive by {day}.",
            "I have [checked|looked up] your order, and the {item} is [with the carrier|in your town] already.",
            "There is a delay of {n} days because of [the weather|the holidays|a strike].",
            "The driver [rang|was at your door] {ago2}, but nobody was at home.",
        ),
        "B": (
            "You will get a message with the [exact |]time one day before.",
            "If it does not arrive by then, we will send you a new one at no cost.",
            "You can follow the parcel online with the number {digits}.",
            "If you are out, the driver can leave it with a neighbor.",
            "You can also collect it at a shop near you.",
        ),
    },
    "return": {
        "Q": (
            "I would like to return a {item}.",
            "can I send back the {item} that I bought {ago}?",
            "how do I return a {item}?",
            "is it possible to exchange a {item} for another color?",
            "the {item} I bought {ago} is not what I expected.",
        ),
        "X": (
            "It is too [small|large|heavy] for me.",
            "I have not used it, and the label is still on it.",
            "I no longer have the box[, I am afraid|].",
            "It looked {color} in the picture, but it is {color2}.",
            "I still have the receipt.",
        ),
        "A": (
            "You can return it within {n2} days.",
            "Yes, that is [possible|no problem], as long as it has not been used.",
            "Please bring it to any of our shops[ together with the receipt|].",
            "Just fill in the form on our website and print the label.",
        ),
        "B": (
            "We will pay back the money within {n} working days.",
            "The return is free [of charge|for you].",
            "Please pack it well so that nothing breaks.",
            "If you prefer, we can send you a different {item} instead.",
            "We need the number of your order, which is on the bill.",
        ),
    },
    "broken": {
        "Q": (
            "my {item} is [broken|damaged].",
            "the {item} that I [bought|ordered] {ago} [arrived|came] with a [scratch|crack|missing part].",
            "can you repair my {item}?",
            "is my {item} still under guarantee?",
            "one part of my new {item} is missing.",
        ),
        "X": (
            "I have followed the instructions, but nothing [changes|helps].",
            "I bought it less than a year ago.",
            "It has never been dropped.",
            "I have attached a photo.",
            "A friend tried to fix it, without success.",
            "I use it every day, so I need a quick solution.",
        ),
        "A": (
            "The guarantee lasts two years, so the repair will cost you nothing.",
            "We can repair it or replace it, whichever you prefer.",
            "Please bring it to our workshop[ on {day}|].",
            "That should not have happened, and we will send you a new {item} tomorrow.",
        ),
        "B": (
            "A repair [usually |]takes about {n} days.",
            "In the meantime, you may borrow one from us.",
            "Do not open it yourself, because this would end the guarantee.",
            "Keep the old part until the new one [arrives|is there].",
            "You do not need to send the broken one back.",
        ),
    },
    "lost card": {
        "Q": ("I have lost my bank card.", "how do I block my card?", "my bank card has been stolen, I think."),
        "X": (
            "I last used it {ago}[ in a supermarket|].",
            "I have called your number, but the line was busy.",
            "I am traveling and do not have much cash with me.",
            "I always keep it in my [wallet|coat pocket].",
        ),
        "A": (
            "We have blocked the old card, and a new one is on its way.",
            "You can block it in the app[ at any time|], and we will send you a new one.",
            "Please do not wait: block it by phone or in the app.",
        ),
        "B": (
            "A new card arrives within {n} working days.",
            "Until then, you can get cash at any branch if you show your passport.",
            "If you find the old card, please cut it up.",
            "The new number comes in a separate letter.",
            "You will not have to pay for anything that you did not buy yourself.",
        ),
    },
    "secret number": {
        "Q": (
            "I have forgotten the secret number of my card.",
            "how do I get a new secret number for my card?",
            "I typed the wrong number three times, and now my card does not work.",
        ),
        "X": (
            "I have had the card for {n} years.",
            "I need it for the rent.",
            "I never wrote the number down, as you advise.",
            "I am embarrassed, but it is true.",
        ),
        "A": (
            "You can order a new number at any branch.",
            "We will send you a new number by letter.",
            "This happens more often than you think, and it is easy to solve.",
        ),
        "B": (
            "The letter arrives within {n} working days.",
            "Never tell anyone the number, not even us.",
            "Your card itself stays the same.",
            "Please bring your passport with you.",
            "Until then, you can pay from the app.",
        ),
    },
    "abroad": {
        "Q": (
            "can I use my card abroad?",
            "does it cost extra to pay with my card in another country?",
            "I am going abroad; do I have to change anything on my card?",
        ),
        "X": (
            "I will be away for {n} weeks.",
            "It is my first trip of this kind.",
            "I do not like to carry much cash.",
            "I leave on {day}.",
        ),
        "A": (
            "Yes, the card works in most countries.",
            "You can pay with it almost everywhere.",
            "There is a small fee outside the country, about two percent.",
        ),
        "B": (
            "Always choose the local currency when you pay.",
            "It is safer to tell us about your trip in advance.",
            "Getting cash from a machine costs more than paying by card.",
            "If the card is lost, call us at any hour.",
            "Take a second card with you, just in case.",
        ),
    },
    "open account": {
        "Q": (
            "I want to open [an account|a savings account].",
            "how do I open an account?",
            "what do I need to open a [student|savings|joint] account?",
        ),
        "X": (
            "I moved to this country {ago}.",
            "My [sister|colleague] told me that it was easy.",
            "I have just started my first job.",
            "I do not have much time during the week.",
        ),
        "A": (
            "The easiest way is to visit one of our branches.",
            "You can do this online in a few minutes.",
            "All we need is a passport and proof of your address.",
        ),
        "B": (
            "It is free of charge.",
            "Your card will come by mail within {n} days.",
            "There is no minimum amount.",
            "You can close it whenever you like.",
            "You have to sign one paper, and we will do the rest.",
        ),
    },
    "fee": {
        "Q": (
            "why was a fee taken from my account?",
            "there is a fee on my statement that I do not understand.",
            "what is the fee of five dollars for?",
        ),
        "X": (
            "I have been a customer for {n} years.",
            "Nobody told me about it.",
            "Last month, there was no such fee.",
            "It is not much, but I would like to know the reason.",
        ),
        "A": (
            "It is the price for [the card|a transfer to another country|a paper statement].",
            "I have looked at your account, and the fee was a mistake.",
            "The fee is due once a year.",
        ),
        "B": (
            "We have paid the money back.",
            "You will find all the details in our price list.",
            "If you use the app, you can avoid such costs.",
            "There will be no further fees this year.",
            "I am sorry that this was not explained to you.",
        ),
    },
    "wrong transfer": {
        "Q": ("I sent money to the wrong person.", "I made a mistake in a transfer.", "can a transfer be stopped?"),
        "X": (
            "It was [forty|two hundred|ninety] dollars.",
            "I noticed it an hour later.",
            "I mixed up two numbers.",
            "It is [rather |]urgent.",
        ),
        "A": (
            "We have asked the other bank to send the money back.",
            "If it happened today, we can still stop it.",
            "Please send us the date and the amount, and we will try to get it back.",
        ),
        "B": (
            "The person who received it has to agree.",
            "This can take up to {n} working days.",
            "I will call you as soon as I hear something.",
            "In most cases, the money comes back.",
            "Next time, check the name before you confirm.",
        ),
    },
    "slow internet": {
        "Q": (
            "my internet connection is very slow.",
            "the internet has been down since {day}.",
            "the connection breaks every few minutes.",
            "my phone shows no signal at home.",
        ),
        "X": (
            "I work at home, so I need a solution soon.",
            "My neighbors have the same problem.",
            "It was all right until last week.",
            "I have already turned everything off and on again.",
            "I pay for the fastest contract.",
        ),
        "A": (
            "There is a fault in your area, and our engineers are working on it.",
            "I have tested your line, and there is indeed a problem.",
            "We can send somebody to your home on {day}.",
        ),
        "B": (
            "Everything should work again by {day}.",
            "You will not be charged for these days.",
            "Please tell us if anything changes.",
            "The repair costs you nothing.",
            "In the meantime, we can give you extra data for your phone.",
        ),
    },
    "phone bill": {
        "Q": (
            "why is my phone bill so high this month?",
            "my phone bill is twice as high as usual.",
            "there is something on my phone bill that I did not order.",
        ),
        "X": (
            "I hardly make any calls.",
            "My contract has not changed.",
            "I usually pay about thirty dollars.",
            "I was on holiday for two weeks.",
        ),
        "A": (
            "I see several calls to another country on your bill.",
            "You have used more data than your contract includes.",
            "I have checked the bill, and part of it is wrong.",
        ),
        "B": (
            "We will correct it on the next bill.",
            "You can set a limit, so that this does not happen again.",
            "A larger contract would be cheaper for you.",
            "You can see your costs in the app every day.",
            "I can send you a list of all the calls.",
        ),
    },
    "keep number": {
        "Q": (
            "can I keep my number if I change my contract?",
            "I want to change to your company; can I keep my phone number?",
            "I want to end my contract, but I would like to keep my number.",
        ),
        "X": (
            "I have had this number for {n} years.",
            "My present contract ends next month.",
            "All my friends know this number.",
            "I find my contract too expensive.",
        ),
        "A": (
            "Yes, you can take your number with you.",
            "That is possible, and it takes only a few days.",
            "Your contract can be ended with one month's notice, and you can keep your number.",
        ),
        "B": (
            "Please send us the form at least two weeks before.",
            "There is no fee for this.",
            "Your phone may be without a signal for an hour on that day.",
            "We will take care of the rest.",
            "You will get a letter with the exact date.",
        ),
    },
    "train change": {
        "Q": (
            "can I change my train ticket to another day?",
            "I cannot travel on {day}; is my ticket still valid?",
            "I booked the wrong train.",
        ),
        "X": (
            "I bought the ticket {ago}.",
            "My reservation number is {digits}.",
            "I am traveling with two small children.",
            "I would prefer a train in the morning.",
        ),
        "A": (
            "I can book you a seat on another train[, if you like|].",
            "Yes, you can change it at the counter or online.",
            "Your ticket can be changed once.",
        ),
        "B": (
            "There is no extra charge.",
            "If the new ticket is cheaper, you get the difference back.",
            "Please do this before the train leaves.",
            "Your seat number will be different.",
            "The new ticket will be sent to your phone.",
        ),
    },
    "lost bag": {
        "Q": (
            "I left [a bag|my umbrella|a coat|my hat] on the train.",
            "where can I ask about something I lost on the bus?",
            "has anybody found a {color} bag on the train?",
        ),
        "X": (
            "It was the last train on {day}.",
            "I was sitting near the door.",
            "It is not worth much, but I am fond of it.",
            "I noticed it when I was at home.",
        ),
        "A": (
            "Please ask at the lost property office in the main station.",
            "You will find the form for this on our website.",
            "I have passed this on to the driver.",
        ),
        "B": (
            "Lost things are kept for {n} weeks.",
            "Describe it as exactly as you can.",
            "The office is open from nine to five.",
            "We can send it to you if it is found.",
            "Most things are handed in within two days.",
        ),
    },
    "late train": {
        "Q": (
            "the train was so late that I missed the next one.",
            "my flight has been canceled.",
            "do I get my money back if the train is late?",
        ),
        "X": (
            "Nobody at the station could help me.",
            "I had to take a taxi home.",
            "I kept the ticket.",
            "I arrived two hours later than planned.",
        ),
        "A": (
            "If you are more than an hour late, you get half of the price back.",
            "You can choose between a new ticket and your money back.",
            "We will pay back the price of your ticket.",
        ),
        "B": (
            "Please send us the ticket and the form.",
            "The money will be on your account in {n} days.",
            "We know how annoying this is.",
            "The delay was caused by a storm.",
            "You can also hand in the form at any station.",
        ),
    },
    "luggage": {
        "Q": (
            "how much luggage may I take?",
            "may I take my [dog|bicycle] on the train?",
            "is there a cheaper ticket for [students|families|groups]?",
        ),
        "X": (
            "My journey begins on {day}.",
            "I have never traveled with your company before.",
            "I could not find anything about it on your website.",
            "There are four of us.",
        ),
        "A": (
            "All the rules are on the back of the ticket, but let me give you the main points.",
            "That depends on the ticket you choose.",
            "Here is a short answer to the most common questions.",
        ),
        "B": (
            "Each person may take one large bag and one small one.",
            "Small dogs travel free, and so do children under six.",
            "A bicycle needs its own ticket.",
            "Groups of six or more pay less.",
            "Students get a quarter off if they show their card.",
            "Tickets are cheaper if you book early.",
        ),
    },
    "make appointment": {
        "Q": (
            "I would like to make an appointment with [the dentist|the doctor|the hairdresser|an adviser].",
            "do you have a free appointment [this|next] week?",
            "can I move my appointment to another day?",
        ),
        "X": (
            "[Mornings|Afternoons] are best for me.",
            "I work until four.",
            "I have been to you {n4} times.",
            "It will not take long.",
            "I cannot come on {day}.",
        ),
        "A": (
            "We have a free hour on {day3} at {n3} o'clock.",
            "The next free appointment is on {day3}.",
            "I have put you down for {day3} at {n3} o'clock.",
        ),
        "B": (
            "Please come ten minutes early.",
            "If you cannot come, tell us a day before.",
            "You will get a message to remind you.",
            "The visit takes about half an hour.",
            "Our office is on the second floor.",
            "There are parking places behind the house.",
        ),
    },
    "hotel room": {
        "Q": (
            "do you have a free room for {n4} nights?",
            "I would like to book a room for {n4} nights.",
            "is there still a room free {next}?",
        ),
        "X": (
            "We are a family of four.",
            "We will arrive late in the evening.",
            "We would prefer a quiet room.",
            "One of us uses a wheelchair.",
            "It is our wedding anniversary.",
        ),
        "A": (
            "Yes, we have a room on the second floor with a view of the garden.",
            "There is one room left, and we have kept it for you.",
            "We have a large room for ninety dollars a night.",
        ),
        "B": (
            "Breakfast is served from seven to ten[, on Sundays until eleven|].",
            "You can cancel free of charge until the day before.",
            "There is a garage in the next street.",
            "A children's bed costs nothing extra.",
            "Please ring the bell if you arrive after ten at night.",
            "Our elevator reaches all floors.",
        ),
    },
    "forgotten": {
        "Q": (
            "I forgot my [charger|glasses|jacket|book] in room {room}.",
            "I think I left my [watch|scarf|passport] in your hotel.",
            "did anybody find a [ring|camera] in room {room}?",
        ),
        "X": (
            "We stayed with you {ago}.",
            "It must be [under the bed|in the bathroom|in the closet].",
            "I only noticed it at home.",
            "I would pay for the postage.",
        ),
        "A": (
            "Yes, our staff have found it.",
            "I have asked our staff, and it is safe at the front desk.",
            "We have searched the room and found it behind the curtain.",
        ),
        "B": (
            "We will send it to you on {day}.",
            "Please give us your address.",
            "You need not pay for that.",
            "It should reach you within {n} days.",
            "We hope to see you again.",
        ),
    },
    "change order": {
        "Q": (
            "can I still change my order?",
            "I have ordered the wrong {item} by mistake.",
            "I would like to cancel my order of a {item}.",
        ),
        "X": (
            "I placed the order {ago}.",
            "My order number is {digits}.",
            "I wanted the {color} one.",
            "I clicked on the wrong picture.",
        ),
        "A": (
            "Yes, as long as the parcel has not been sent.",
            "I have changed it for you.",
            "The parcel has already left, but you can send it back without opening it.",
        ),
        "B": (
            "You will get a new bill.",
            "Any money you have paid too much will be returned.",
            "You can always see your orders in your account.",
            "Everything else stays the same.",
            "I will send you a message as soon as it is done.",
        ),
    },
    "charged twice": {
        "Q": (
            "I was charged twice for one {item}.",
            "I paid for a {item}, but the bill says something else.",
            "there is a mistake on the bill for my {item}.",
        ),
        "X": (
            "I have compared it with my bank statement.",
            "I placed the order {ago}.",
            "My order number is {digits}.",
            "I have been buying from you for years.",
        ),
        "A": (
            "I have looked at your order and found the mistake.",
            "You are right, and I am sorry.",
            "I have corrected it, and you will get a new bill.",
        ),
        "B": (
            "The money will be back on your account in {n} days.",
            "To say sorry, we have given you ten percent off your next order.",
            "You do not have to do anything else.",
            "It was caused by a fault in our system.",
            "Thank you for noticing it.",
        ),
    },
    "sold out": {
        "Q": (
            "the {item} I want is sold out.",
            "do you still sell the {color} {item}?",
            "when will you have the {color} {item} again?",
        ),
        "X": (
            "I saw it in your shop {ago}.",
            "I have looked everywhere.",
            "I would also take the {color2} one.",
            "It is meant as a gift.",
        ),
        "A": (
            "We expect more of them on {day}.",
            "There is one left in our shop near the station.",
            "I am afraid that it is no longer made, but there is a similar one.",
        ),
        "B": (
            "Shall I keep one for you?",
            "We can send you a message when it is here.",
            "The price will stay the same.",
            "You can look at it without buying it.",
            "It comes in three colors.",
        ),
    },
}

REVIEW_PARTS: dict[str, dict[str, tuple[str, ...]]] = {
    "product": {
        "S": (
            "[Four|Five|Three] stars out of five.",
            "Good value.",
            "Not bad at all.",
            "Better than expected.",
            "Worth the money?",
            "A [short|honest] review.",
        ),
        "L": (
            "I bought this {item} {ago}[, and so far I am [happy|quite happy] with it|].",
            "My {who2} gave me this {item} for my birthday.",
            "After [a month|half a year] with this {item}, I can [say|tell you] what I think of it.",
            "I needed a {item} and chose this one because [of the price|a friend recommended it|it looked good].",
            "This is already my second {item} from this company.",
            "I was not sure whether I really needed a new {item}.",
        ),
        "D": (
            "It [arrived|came] {n} days after I ordered it, [well packed|in a large box].",
            "The {color} color is [nicer|darker] than in the picture.",
            "It is [lighter|heavier|smaller] than I [thought|expected], but that [is no problem|suits me].",
            "The instructions are [clear|too short|printed in tiny letters].",
            "It feels solid, and nothing [rattles|is loose].",
            "Cleaning it is easy[: a wet cloth is enough|].",
            "I use it [every day|at work|twice a week], and it [still |]looks like new.",
            "Only the [packaging|smell at the beginning|price] could be better.",
            "My {who2} liked it so much that I had to order another one.",
            "I had a question, and the company answered [within an hour|the same day].",
            "For this price, one cannot expect more.",
            "Compared with my old one, it is a [big|real] step forward.",
        ),
        "E": (
            "I would buy it again[ without thinking twice|].",
            "I can [warmly |]recommend it.",
            "All in all, a good buy.",
            "If you want something simple that works, take this one.",
            "Whether it will last for years, I cannot say yet.",
            "I take one star away because of the [price|late delivery].",
        ),
    },
    "restaurant": {
        "S": (
            "A lovely evening.",
            "Good food, slow service.",
            "We will be back.",
            "A pleasant surprise.",
            "Once is enough.",
            "Hidden, but worth the walk.",
        ),
        "L": (
            "We had dinner at the {rest} [on {day}|{ago2}].",
            "The {rest} was [recommended to us by a colleague|full when we arrived], [and we were not "
            "disappointed|but we got a table after ten minutes].",
            "[My {who2} and I|Four of us] went to the {rest} for [lunch|dinner] [on {day}|last {day}].",
            "If you are [hungry|looking for a good meal], go to the {rest}.",
            "We have been going to the {rest} for years.",
        ),
        "D": (
            "The soup was [hot and full of taste|a little too salty|excellent].",
            "I had the {dish}, which was [tender|perfectly cooked|the best I have ever eaten].",
            "My {who2} chose the {dish2} and [left nothing on the plate|would order it again].",
            "The waiter was [friendly|attentive|patient] and [explained every dish|made us laugh|knew a lot "
            "about wine].",
            "We had to wait [almost |]half an hour for the [food|bill].",
            "The tables stand [rather|very] close together.",
            "The prices are fair, and the portions are [large|generous].",
            "For dessert, we shared a piece of [apple pie|lemon cake|chocolate cake].",
            "It was so loud that we could hardly [talk|hear each other].",
            "There is a good choice for people who eat no meat.",
            "The bread [is baked in the house|was still warm].",
            "Even the children found something they liked.",
            "Candles and [soft music|fresh flowers] made the room feel cozy.",
        ),
        "E": (
            "We will certainly [come back|go there again].",
            "It is wise to book a table [for the weekend|in advance].",
            "For a special occasion, I would choose another place.",
            "Next time, I will try the {dish3}.",
            "In short, it was an evening to remember.",
            "I give it four stars out of five.",
        ),
    },
    "workshop": {
        "S": ("Quick and honest.", "Fair price, good work.", "Can be recommended.", "I was skeptical at first."),
        "L": (
            "I took my {mach} to the {shop} on {day}.",
            "When my {mach} [broke down|stopped working], a neighbor told me about the {shop}.",
            "The {shop} repaired my {mach} in less than {n} days.",
            "Finding somebody to repair a {mach} is not easy, but the {shop} was happy to do it.",
        ),
        "D": (
            "The [woman|man] at the counter listened [carefully|patiently] and [explained|showed me] what had "
            "to be done.",
            "They told me the price before they began, and it did not change.",
            "I was called as soon as the work was finished.",
            "A part had to be ordered, so it took a little longer.",
            "They even cleaned it, although I had not asked for that.",
            "Other shops had told me to buy a new one.",
            "Parking there is [difficult|not easy], so I would take the bus.",
            "The place is small and [a bit |]hard to find.",
            "I paid [forty|sixty|ninety] dollars, which I think is fair.",
            "They do not throw away what can still be used, and I like that.",
        ),
        "E": (
            "It has worked perfectly ever since.",
            "Thank you for the good work!",
            "I am glad that such shops still exist.",
            "I hope I will not need them again soon, but if I do, I know where to go.",
            "Highly recommended.",
        ),
    },
    "hotel": {
        "S": ("Quiet and clean.", "A good place to rest.", "Nice rooms, weak coffee.", "We slept well."),
        "L": (
            "We spent {n} nights at the {inn}.",
            "My {who2} and I stayed at the {inn} [in spring|last summer|for a long weekend].",
            "The {inn} is a [small|family-run] hotel [near the station|in the old town|at the edge of a forest].",
            "We booked the {inn} at the last minute and were lucky.",
        ),
        "D": (
            "Our room was [small but clean|large and bright|on the top floor].",
            "The bed was [comfortable|a little too soft|the best I have slept in for years].",
            "Breakfast was [simple but good|excellent], with fresh [fruit|rolls] and [strong coffee|home-made jam].",
            "The staff were friendly and [spoke several languages|gave us useful tips].",
            "At night, we heard [nothing at all|only a few cars|the neighbors' television].",
            "The bathroom could do with some paint.",
            "From the window, we could see [the mountains|the market square|a garden with old trees].",
            "The bus into the center leaves from the front door.",
            "There was no elevator, which was hard with our heavy bags.",
            "When we had a problem with the heating, it was solved within minutes.",
        ),
        "E": (
            "We would stay there again.",
            "For this price, you will hardly find a better place.",
            "We left well rested.",
            "Book early, because there are only twelve rooms.",
            "It was not perfect, but we felt at home.",
        ),
    },
}

BOUND: dict[str, tuple[str, ...]] = {
    "ago2": ("yesterday", "this morning", "on {day}", "two days ago"),
    "n2": ("fourteen", "thirty", "twenty-eight"),
    "day3": RULES["day"],
    "next": ("next week", "at the weekend", "in May", "over the holidays"),
    "n3": ("nine", "ten", "eleven", "two", "three", "four"),
    "n4": ("two", "three", "four", "five"),
    "room": ("12", "204", "310", "27", "115"),
    "who2": ("sister", "brother", "wife", "husband", "daughter", "son", "mother", "best friend"),
    "rest": (
        "Golden Spoon",
        "Green Door",
        "Corner Kitchen",
        "Old Mill",
        "Red Lantern",
        "Garden Table",
        "Blue Plate",
        "Olive Tree",
    ),
    "dish": (
        "lamb",
        "grilled chicken",
        "roast beef",
        "baked potato with cheese",
        "mushroom pie",
        "steak",
        "duck with oranges",
    ),
    "dish2": (
        "pasta with spinach",
        "vegetable curry",
        "bean stew",
        "onion tart",
        "rice with saffron",
        "noodle soup",
        "pizza",
    ),
    "dish3": ("cheese plate", "pumpkin soup", "stuffed peppers", "pear cake", "garlic chicken"),
    "mach": (
        "washing machine",
        "bicycle",
        "watch",
        "radio",
        "laptop",
        "sewing machine",
        "record player",
        "phone",
        "lawn mower",
    ),
    "shop": ("Quick Fix", "Turner Workshop", "Second Life", "Good Hands", "Lane Brothers", "Repair Corner"),
    "inn": ("Park Hotel", "Rose Inn", "Hotel Central", "Green Valley", "Mountain View", "White Horse"),
}


def _conversation(rng: random.Random, shape: str) -> str:
    """Return the pieces of a question and its answer in the order of `shape`; small letters make it spoken."""
    topic = rng.choice(tuple(TOPICS))
    decks = {letter: rng.sample(lines, len(lines)) for letter, lines in TOPICS[topic].items()}
    fixed = {
        "G": "{hello}\n\n",
        "H": "{thank} ",
        "K": "{ask} ",
        "Z": "{bye}\n\n{sign}" if rng.random() < 0.3 else "{bye} ",
        "F": rng.choice(("Question: ", "Customer: ", "Q: ")),
        "/": "\n\n",
        "g": "",
        "h": "",
        "w": "{thanks} ",
        "z": "",
    }
    fixed["U"] = {"Question: ": "Answer: ", "Customer: ": "Agent: ", "Q: ": "A: "}[fixed["F"]]
    text = ""
    for letter in shape:
        if letter in fixed:
            text += fixed[letter]
        elif letter == "q":
            text += f'"{decks["Q"].pop()} '
        elif letter == "x":
            text += f"{decks['X'].pop()} "
        elif letter in "ab":
            text += ('"{thank} ' if letter == "a" else "") + decks[letter.upper()].pop() + " "
        elif decks[letter]:
            line = decks[letter].pop()
            text += line + " "
    if shape[0] in "gq":
        text = re.sub(r"(?<=[.?]) (?=\n|$)", '" ', text, count=2).replace('"" ', '" ')
    return text


def write(rng: random.Random) -> str:
    """Return one conversation with a customer, or one review."""
    while True:
        bound: dict[str, str] = {}
        for symbol, options in (
            *BOUND.items(),
            ("item", RULES["item"]),
            ("ago", RULES["ago"]),
            ("n", RULES["n"]),
            ("digits", RULES["digits"]),
        ):
            bound[symbol] = expand(rng, RULES, rng.choice(options))
        bound["color"], bound["color2"] = rng.sample(RULES["color"], 2)
        if rng.random() < 0.6:
            text = _conversation(rng, rng.choice(SHAPES))
        else:
            parts = REVIEW_PARTS[rng.choice(tuple(REVIEW_PARTS))]
            text = deal(rng, rng.choice(REVIEWS), parts)
        text = compose(rng, RULES, text, bound, _START)
        if 50 <= len(text.split()) <= 220:
            return text
