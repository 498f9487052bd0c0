"""Letters and e-mails, from a note to a neighbour to a formal complaint."""

import random

from starter.genres import words
from starter.grammar import expand

# A kind of letter: its manner, its subject lines, and its beats ("" leaves a beat out, "/" begins a new paragraph).
_Kind = tuple[str, tuple[str, ...], tuple[tuple[str, ...], ...]]

_KINDS: tuple[_Kind, ...] = (
    (
        "friend",
        ("News from here", "Long time no see", "How are you?", "A few lines from me"),
        (
            ("{chat_open}",),
            ("{my_news}", "{my_news} {my_news_b}", "/{my_news}"),
            ("/{place_news}", "{place_news}", ""),
            ("/{ask}", "{ask}", "/{ask} {ask_b}"),
            ("{chat_close}", "/{chat_close}"),
        ),
    ),
    (
        "friend",
        ("Thank you!", "Many thanks", "Your present"),
        (
            (
                "Thank you very much for the {gift}. How did you know that it was exactly what I wanted?",
                "What a lovely surprise! The {gift} arrived yesterday, and I could hardly wait to open the parcel.",
                "I wanted to thank you for the beautiful {gift} that you gave me.",
                "Many thanks for your present. I have never had such {adj_good.a} {gift}.",
            ),
            (
                "I have already used it {times}.",
                "It now has a place of honour {home_place}.",
                "My {relative} is quite jealous.",
                "Every time I look at it, I will think of you.",
                "The old one broke last month, so it came at just the right time.",
            ),
            ("/{my_news}", "/It was a pity that you could not come to the party. {party}", "{ask}", ""),
            ("{chat_close}", "/Once again, thank you for thinking of me. {chat_close}"),
        ),
    ),
    (
        "friend",
        ("Sorry", "An apology", "About {last_day}"),
        (
            (
                "I owe you an apology. On {day} I {sin}, and I have felt {bad} about it ever since.",
                "I am sorry that I {sin}. It was wrong of me.",
                "This is not an easy letter to write. Last week I {sin}, and you have every right to be angry.",
            ),
            (
                "I had slept badly and was thinking only of myself.",
                "There is no excuse for it. I was simply thoughtless.",
                "I could say that I was tired, but that would only be half the truth.",
                "You were right, and I was too proud to admit it.",
            ),
            (
                "/Our friendship means a lot to me, and I would hate to lose it because of something so silly.",
                "I hope that you can forgive me.",
                "/If there is anything I can do to put it right, please let me know.",
                "/May I invite you to dinner on {day}? I will cook {food}, and I promise to listen this time.",
            ),
            (
                "Please write back, even if it is only one word.",
                "I will understand if you need some time.",
                "{chat_close}",
            ),
        ),
    ),
    (
        "friend",
        ("Invitation", "Party on {day}", "You are invited"),
        (
            (
                "On {date} I am going to celebrate {occasion}, and I would be very happy if you could come.",
                "We are having a small party for {occasion} on {date}. Would you like to come?",
                "It is time for a party! The reason is {occasion}, and the date is {date}.",
            ),
            (
                "We will start at {clock_late} and finish when the last guest falls asleep.",
                "It begins at {clock_late}, but you can come earlier if you like.",
                "There will be music, {food} and, if the weather is good, a fire in the garden.",
                "About {number} people are coming, most of whom you know.",
            ),
            (
                "You do not have to bring anything except good spirits.",
                "If everyone brings something to eat, nobody will go hungry.",
                "Please don't bring any presents; I have more things than I need.",
                "You can sleep on the sofa if you miss the last train.",
            ),
            (
                "/From the station, take the number {bus} bus and get off at {stop}. The house has {colour.a} door.",
                "/If you come by car, you can park behind the house.",
                "",
            ),
            ("/Let me know by {day} whether you can make it.", "/I do hope you can come. {chat_close}", "{chat_close}"),
        ),
    ),
    (
        "friend",
        ("Get well soon", "Thinking of you", "Get well!"),
        (
            (
                "{name2} told me that you are in hospital. I was shocked to hear it.",
                "I have just heard about your accident. How are you feeling?",
                "What have you been up to? {name2} says you have broken your {bone}!",
            ),
            (
                "I hope you are not in too much pain and that the food is better than they say.",
                "The main thing is that nothing worse has happened.",
                "Rest as much as you can, and do as the doctors tell you, for once.",
            ),
            (
                "/Don't worry about your {home_thing}: I have got the key and will look after everything.",
                "/At work, everybody sends their love. Even the boss asked about you.",
                "/I have sent you {few} books, so you won't get bored.",
                "/{my_news}",
            ),
            ("I will visit you on {day}, if I may.", "If you need anything, just call me.", "Get well soon!"),
        ),
    ),
    (
        "friend",
        ("Congratulations!", "Well done!", "Great news"),
        (
            (
                "Congratulations on {success}! I was so happy when I heard the news.",
                "I have just heard about {success}. Well done!",
                "So you have really done it! I mean {success}, of course. The whole street is talking about it.",
            ),
            (
                "Nobody deserves it more than you do.",
                "I still remember how you said that you would never manage it.",
                "You have worked so hard for it, and I am proud of you.",
                "To be honest, I never doubted it for a moment.",
            ),
            (
                "/We must celebrate. Are you free on {day}?",
                "/What are you going to do next?",
                "/{my_news}",
                "I have put a little something in the post for you. Don't open it before {day}.",
            ),
            ("{chat_close}", "I wish you all the best for the future."),
        ),
    ),
    (
        "friend",
        ("Greetings from {where}", "Holiday greetings", "Greetings!"),
        (
            (
                "Greetings from {where}! We arrived {few} days ago, and it is {holiday_adj}.",
                "I am writing to you from {where}, where it has been {weather_adj} all week.",
                "At last I am on holiday in {where}! I am sitting in the sun and thinking of you.",
            ),
            (
                "The hotel is {hotel_adj}, and from our window we can see {view}.",
                "We sleep in a tent, and at night we can hear {night}.",
                "The people are friendly, although I understand hardly a word.",
                "Yesterday we walked for {number} miles, and today I cannot move.",
            ),
            (
                "The food is {food_adj}. I have tried {food_b}, which I would never have eaten at home.",
                "On {day} we visited an old castle, and the guide told us about the people who used to live there.",
                "My suitcase has not arrived yet, so I am wearing my {relative}'s clothes.",
                "I bought {thing.a} at the market, and I have no idea how I am going to get it home.",
                "It has rained only once, and then we played cards.",
            ),
            ("/Tomorrow we are going to {trip}.", "/If it were not for work, I would stay here for ever.", "/{ask}"),
            ("We will be back on {date}.", "See you soon!", "I wish you were here."),
        ),
    ),
    (
        "friend",
        ("A favour", "Can you help me?", "A small request"),
        (
            ("May I ask you a favour?", "I need your help.", "I hope you don't mind my asking, but could you help me?"),
            (
                "I have to go away for {few} days, and somebody has to {favour}.",
                "Next {day} I am moving into a new flat, and I have nobody to help me with the {furniture}.",
                "My {relative} is coming to visit, and I have only one bed. Could you lend me a mattress?",
                "I have to {hard_task}, and you know much more about such things than I do.",
            ),
            (
                "It would not take more than an hour.",
                "Of course, I would do the same for you at any time.",
                "I would ask somebody else, but you are the only one I trust.",
                "In return, I will cook dinner for you or repair your bicycle, whichever you prefer.",
            ),
            (
                "/Please tell me honestly if you have no time. I would not be offended.",
                "/Could you let me know by {day}?",
                "/The key is under the flowerpot, where it has always been.",
            ),
            ("Thank you in advance!", "{chat_close}"),
        ),
    ),
    (
        "family",
        ("From far away", "News from your {child}", "I am fine"),
        (
            (
                "Please don't worry: I am well, I eat properly, and I wear a scarf.",
                "I have been here for {number} weeks now, and I am slowly getting used to it.",
                "Thank you for your letter and for the {gift}, which arrived safely.",
                "I know I should have written earlier, but the days simply fly by.",
            ),
            (
                "My room is small, but it has a view of {view}.",
                "The work is hard, and in the evenings I am so tired that I fall asleep at once.",
                "I share a kitchen with {few} other people, and we take turns to cook. Last night we had {food}.",
                "I have made a new friend. {his2.cap} name is {name2}, and {he2} comes from the same region as we do.",
            ),
            (
                "/Sometimes I miss home, most of all on Sundays.",
                "/Is the {pet} all right? Does it still miss me?",
                "/How is the garden? Are the {fruit} ripe yet?",
                "/I have learned a lot: how to {learn}, for example, and how to live on very little money.",
            ),
            (
                "Could you send me my {winter_thing}? It is getting cold here.",
                "If everything goes well, I will come home in {month}.",
                "In {few} weeks I will have a few days off, and then I will visit you.",
            ),
            ("Give everyone a hug from me.", "I think of you every day.", "Write soon and tell me everything."),
        ),
    ),
    (
        "neighbour",
        ("Your {pet}", "The noise", "A parcel for you", "The garden fence"),
        (
            (
                "A parcel was delivered for you today while you were out. It is at my place, and you can collect it "
                "any time.",
                "Your {pet} has found a hole in the fence and visits me every day. I don't mind, but my {pet_b} does.",
                "We are having a party on {day} and would like to apologise for the noise in advance.",
                "I am afraid the music from your flat is {very} loud, and I have to get up at five in the morning.",
                "While I was parking my car, I scratched yours. I am terribly sorry.",
                "Somebody has left a bicycle in front of the cellar door. Could it be yours?",
            ),
            (
                "I am at home most evenings after {clock_late}.",
                "I rang your bell {times}, but nobody answered.",
                "Perhaps we could talk about it over a cup of tea.",
                "Here is my telephone number, in case you need it.",
            ),
            (
                "I am sure that we will find a solution.",
                "Thank you for your understanding.",
                "By the way, the {fruit} from your tree are delicious.",
                "If there is anything I can do for you, please let me know.",
            ),
        ),
    ),
    (
        "work",
        ("Meeting on {day}", "Our meeting", "Change of date", "Next meeting"),
        (
            (
                "Our meeting on {day} has to be moved to {clock}, because the large room is not free.",
                "This is to remind you that we are meeting on {day} at {clock}.",
                "Could we put off our meeting until {day}? {name2} is ill, and without {him2} we cannot decide "
                "anything.",
                "We have to meet once more before the end of the month. I suggest {day} at {clock}.",
            ),
            (
                "We will talk about {topic} and {topic_b}.",
                "The main question is {topic}, on which we have not yet agreed.",
                "As you know, {topic} has been discussed for {number} weeks, and we need a decision now.",
            ),
            (
                "Please read the attached report before you come.",
                "It would be helpful if each of you could bring {few} ideas.",
                "{name2} has kindly agreed to prepare the figures.",
                "I expect that it will take about an hour.",
            ),
            (
                "/If you are unable to attend, please tell me by {day}.",
                "/There will be coffee, and I will try to keep it short.",
                "/Let me know if you would like to add anything to the list.",
            ),
        ),
    ),
    (
        "work",
        ("The {work_thing}", "A question about the {work_thing}", "Deadline", "Quick question"),
        (
            (
                "I have read your draft of the {work_thing}, and on the whole I like it very much.",
                "The {work_thing} is nearly finished, but I need {few} more days.",
                "I am writing because there seems to be a mistake in the {work_thing}.",
                "Have you had time to look at the {work_thing} yet?",
            ),
            (
                "On page {number}, the two totals do not agree.",
                "The second part is clearer than the first, which is a little too long.",
                "I would shorten the introduction and add an example.",
                "The customer has changed his mind again, and so we have to adapt the plan.",
                "I was not sure whether you wanted the old prices or the new ones.",
            ),
            (
                "Would it be possible to send me the corrected version by {day}?",
                "If you agree, I will send it to the customer tomorrow.",
                "Otherwise, I have nothing to add. Good work!",
                "I could come to your office at {clock} so that we can go through it together.",
                "Should I wait for your answer, or may I go ahead?",
            ),
            ("I am out of the office on {day}, but you can reach me by phone.", "Thanks for your patience.", ""),
        ),
    ),
    (
        "formal",
        ("Complaint about {an_order}", "Faulty goods", "Request for a refund", "My order"),
        (
            (
                "On {date} I ordered {thing.a} from your company. It arrived {number} days late, and it was damaged.",
                "I am writing to complain about {thing.a} which I bought in your shop on {date}.",
                "I was very disappointed with {thing.a} that was delivered to me last week.",
            ),
            (
                "When I opened the box, I found that {fault}.",
                "Although I followed the instructions carefully, I noticed that {fault}.",
                "Already on the first day, I discovered that {fault}.",
            ),
            (
                "I telephoned your office {times}, but nobody was able to help me.",
                "Your assistant told me that this was not her responsibility.",
                "I have not received any answer to my first letter, which I sent {number} days ago.",
            ),
            (
                "/I would therefore ask you to refund the full price.",
                "/Please send me a new one, or return my money within {number_days} days.",
                "/I expect you to collect the goods at your own expense.",
            ),
            (
                "I have enclosed a copy of the receipt.",
                "Until now I have always been satisfied with your service, and I hope that this can be settled "
                "quickly.",
                "Should I not hear from you, I will be forced to seek advice.",
            ),
        ),
    ),
    (
        "formal",
        ("Application as {job.a}", "Application", "Your advertisement"),
        (
            (
                "I would like to apply for the position of {job} which you advertised {ad}.",
                "I was very interested to read {ad} that you are looking for {job.a}.",
                "With this letter I am applying for a job as {job.a} in your company.",
            ),
            (
                "I have worked in this field for {number} years and enjoy it very much.",
                "After leaving school, I was trained as {job.a} and passed my examination with good results.",
                "Although I have little experience so far, I learn fast and am not afraid of hard work.",
                "At present I am employed by a small company, but I am looking for a new challenge.",
            ),
            (
                "I am {quality}, {quality_b} and used to working in a team.",
                "My colleagues describe me as {quality} and {quality_b}.",
                "I speak {few} languages and hold a driving licence.",
            ),
            (
                "/I would be able to start on the first of {month}.",
                "/I would be glad to tell you more about myself in a personal interview.",
                "/You will find my references enclosed.",
            ),
            ("I look forward to hearing from you.", "Thank you for considering my application."),
        ),
    ),
    (
        "formal",
        ("Question about your {course} course", "Request for information", "Enquiry"),
        (
            (
                "I am interested in the {course} course that begins in {month}, and I have {few} questions.",
                "I am planning a visit to your town with a group of {number} people and would like some information.",
                "I would like to book a room for {few} nights from {date}.",
                "Could you please send me your new catalogue and a list of prices?",
            ),
            (
                "First, I would like to know how much it costs and whether there is a reduction for students.",
                "Is breakfast included in the price, and may one bring a dog?",
                "How many people can take part, and how old must one be?",
                "Is there a place where one can leave bicycles?",
            ),
            (
                "One of us uses a wheelchair. Would this be a problem?",
                "As we will be arriving late, we would be grateful if somebody could wait for us.",
                "I am a beginner and have no experience at all.",
                "Unfortunately, I could not find any details on your website.",
            ),
            (
                "/I would be grateful for an early reply.",
                "/Many thanks in advance for your help.",
                "/Please let me know by {day}.",
            ),
        ),
    ),
    (
        "formal",
        ("The heating in flat {number}", "Repairs", "Your letter of {date}"),
        (
            (
                "For {number} days, the heating in my flat has not been working.",
                "I am sorry to tell you that water is coming through the ceiling of my {room}.",
                "The lift in our building has been out of order since {date}.",
                "In your letter of {date} you announced that the rent would be raised.",
            ),
            (
                "I reported this by telephone, but so far nothing has been done.",
                "The situation is especially difficult for the older people who live here.",
                "According to our contract, such matters have to be dealt with at once.",
                "I have taken photographs, which I enclose.",
            ),
            (
                "I must ask you to have this seen to by {day} at the latest.",
                "Would you please send someone as soon as possible?",
                "Unless something is done soon, I will pay only half the rent.",
                "I would suggest that we meet and talk about it.",
            ),
            (
                "/I can be reached at any time after {clock_late}.",
                "/I hope that we can settle this in a friendly way.",
                "",
            ),
        ),
    ),
    (
        "formal",
        ("Resignation", "Notice", "Leaving the company"),
        (
            (
                "I hereby give notice that I will be leaving the company at the end of {month}.",
                "After {number} years, I have decided to leave your company.",
            ),
            (
                "It was not an easy decision, for I have always enjoyed working here.",
                "I have been offered a position that is nearer to my home.",
                "For family reasons, I am moving to another part of the country.",
            ),
            (
                "I have learned a great deal from you and my colleagues, and I am grateful for it.",
                "Of course, I will finish the work that I have begun and help to train my successor.",
                "I still have {number} days of holiday left, which I would like to take in {month}.",
            ),
            (
                "/I would be pleased if you could write me a reference.",
                "/I wish you and the whole team every success.",
                "/Please confirm that you have received this letter.",
            ),
        ),
    ),
    (
        "formal",
        ("The school trip", "Absence of my {child}", "Your {child}'s work at school"),
        (
            (
                "My {child} {name2} has a high temperature and will not be able to come to school before {day}.",
                "I would like to talk to you about my {child} {name2}, who has been rather unhappy at school lately.",
                "Thank you for organising the trip to {place}. My {child} {name2} has talked of nothing else since "
                "then.",
            ),
            (
                "{he2.cap} says that the homework takes {him2} more than three hours every day.",
                "At home, {he2} is cheerful and curious, and {he2} reads a great deal.",
                "{his2.cap} best friend will bring home the exercises.",
                "We have noticed that {he2} can't see the blackboard properly, and {he2} will get glasses soon.",
            ),
            (
                "/Could I come and see you one afternoon next week?",
                "/Please tell us how we can help {him2}.",
                "/We are very grateful for the trouble you take.",
            ),
            ("If you have any questions, you can reach me at work until {clock_late}.", ""),
        ),
    ),
    (
        "formal",
        ("With sympathy", "Our sympathy"),
        (
            (
                "It was with great sadness that we heard of the death of your {elder}.",
                "We were deeply sorry to learn that your {elder} has died.",
            ),
            (
                "We will remember a kind and generous person who always had time for others.",
                "For {number} years we lived next door to each other, and there was never an unfriendly word.",
                "No words can make such a loss easier, but perhaps it helps to know that you are not alone.",
            ),
            (
                "I will never forget the evenings that we spent together, the stories and the laughter.",
                "When I was in trouble, I was given help without a single question.",
                "So many of us have learned something from such a good and patient teacher.",
            ),
            (
                "/If there is anything at all that we can do, please do not hesitate to ask.",
                "/Our thoughts are with you and your family in these difficult days.",
            ),
        ),
    ),
    (
        "formal",
        ("Reply to your complaint", "Your order", "Confirmation"),
        (
            (
                "Thank you for your letter of {date}. We are sorry that your order for {number} {goods} was delayed.",
                "We are pleased to confirm your order for {number} {goods}.",
            ),
            (
                "We value every comment from our customers, and we have taken steps to make sure that it does not "
                "happen again.",
                "The goods will be sent to you within {number_days} days.",
                "We can offer you a reduction of ten per cent on the whole order.",
                "Due to the great demand, there may be a delay of {few} weeks.",
            ),
            (
                "You do not need to do anything; we will inform you as soon as the parcel has been sent.",
                "As a small apology, we enclose a voucher which you can use for your next order.",
                "If you prefer to cancel the order, please inform us in writing.",
            ),
            (
                "/We hope to welcome you again as our customer.",
                "/Should you have any further questions, please do not hesitate to contact us.",
            ),
        ),
    ),
)

_RULES: dict[str, tuple[str, ...]] = {
    "date": tuple(f"{day} {{month}}" for day in range(1, 29)),
    "last_day": ("last {day}", "the other day", "yesterday", "last night"),
    "chat_open": (
        "How are you? I have not heard from you for {number} weeks, and I hope that everything is all right.",
        "Your letter made me laugh out loud. Thank you!",
        "I am sitting {sit}, it is {weather_adj}, and suddenly I thought of you.",
        "At last I have found a quiet hour to write to you.",
        "Sorry for not answering sooner. So much has happened since your last letter.",
        "Yesterday I met {name2}, and we talked about you, so I decided to write at once.",
        "Do you remember how we used to {used_to}? I dreamed about it last night.",
        "It is {weather_adj} here, and I have nothing to do, which is why you are getting a long letter today.",
        "What a pity that you live so far away! There is so much I would like to tell you.",
        "Thank you for the photographs. You have not changed at all!",
    ),
    "my_news": (
        "I have {big_news}.",
        "You will not believe it, but I have {big_news}.",
        "The most important news first: I have {big_news}.",
        "Not much has changed here, except that I have {big_news}.",
        "For {few} weeks I have been {doing}, and I enjoy every minute of it.",
        "I am still {doing}, although I had planned to stop long ago.",
        "My {relative} has {big_news}, and we are all very excited.",
        "Last {day}, something funny happened to me: {funny}.",
        "I spent the last {few} weeks {doing}.",
    ),
    "my_news_b": (
        "It was not easy at first, but now I would not want it any other way.",
        "Everyone was surprised, most of all me.",
        "I can hardly believe it myself.",
        "You should have seen the look on my boss's face!",
        "If it goes on like this, I will soon need a holiday.",
    ),
    "big_news": (
        *(
            "found a new job",
            "moved to a bigger flat",
            "got a dog",
            "started to learn the piano",
            "passed the driving test",
        ),
        *("given up smoking", "bought an old house", "broken a tooth", "fallen in love", "won a prize", "sold the car"),
        *("become a vegetarian", "taken up running", "had an operation", "joined a choir", "learned to swim"),
        *("finished the first year", "written a short story", "painted the whole kitchen yellow"),
    ),
    "doing": (
        *(
            "working in a bookshop",
            "learning Spanish",
            "building a shed",
            "taking dancing lessons",
            "reading in the garden",
        ),
        *("teaching children to read", "looking after my {elder}", "sorting old photographs", "keeping bees"),
        *("training for a long race", "writing a book", "repairing the roof", "baking my own bread", "sleeping badly"),
    ),
    "funny": (
        "I went to work in my slippers and only noticed it in the bus",
        "I greeted a stranger like an old friend, and he greeted me back",
        "{animal.a} came into the kitchen and would not leave",
        "I was locked in the library for a whole night",
        "I got on the wrong train and spent a wonderful day in a town that I did not know",
        "I found a coin in my soup",
    ),
    "place_news": (
        "The old cinema has been turned into a supermarket.",
        "In our street, a new bakery has opened, and I have put on weight.",
        "The trees in the park have been cut down, and everybody is angry about it.",
        "Here, {weather_noun} has kept us all indoors.",
        "Our team has lost again, as usual.",
        "{name2} sends {his2} regards. {he2.cap} is doing well.",
        "{name2} has moved away, and I miss {him2}.",
        "They are building a new bridge, and the noise begins at seven in the morning.",
        "The summer festival was lovely, although it rained.",
        "The house opposite has been empty for months; it is said to be haunted.",
    ),
    "ask": (
        "And how are you getting on?",
        "Have you finished your exams yet?",
        "Do you still {used_to}?",
        "When are you going to visit me at last?",
        "Is it true that you are going to move?",
        "How is your {relative}?",
        "What are your plans for the summer?",
        "Have you heard anything from the others?",
        "Did you get the parcel that I sent you in {month}?",
    ),
    "aside": (
        "/{place_news}",
        "/{place_news} {place_news_b}",
        "/By the way, have you heard that {heard}?",
        "/Before I forget: {reminder}.",
        "/You asked me about {asked_about}. {answer}",
        "/I often think of the time when we used to {used_to}. Those were good days.",
    ),
    "place_news_b": (
        "Nobody knows yet how it will go on.",
        "You would not recognise the place.",
        "Some people complain about it, but I don't mind.",
        "I will tell you more about it when we meet.",
    ),
    "heard": (
        *("the old school is going to be pulled down", "our former teacher has married again", "the bakery has closed"),
        *("there will be a train to the lakes again", "my boss has resigned", "the twins have been born at last"),
        *("they want to build a road through the park", "the library is looking for books"),
    ),
    "reminder": (
        *("you left your umbrella here", "I still have your book about gardens", "you must try the recipe I gave you"),
        *("my telephone number has changed", "the clocks go back on Sunday", "I owe you some money from last time"),
        *("please send me the address of your dentist", "there is still a box of yours in my cellar"),
    ),
    "asked_about": ("my work", "my health", "the flat", "my plans", "the driving lessons", "the new neighbours"),
    "answer": (
        "All I can say is that it could be worse.",
        "There is not much to tell, except that I am patient.",
        "It is better than last year, and I am content.",
        "Ask me again in a month, and I will know more.",
        "I wish I could say that everything is perfect, but that would be a lie.",
        "So far, so good.",
    ),
    "ask_b": (
        "Tell me everything, even the boring things.",
        "I would love to hear all about it.",
        "You never told me how it ended.",
        "Please be honest.",
    ),
    "chat_close": (
        "I hope to see you soon.",
        "Write back when you have time.",
        "I must stop now, because {must_stop}.",
        "Take care of yourself.",
        "I look forward to your answer.",
        "Give my love to your family.",
        "Let's talk on the phone soon.",
        "Don't work too hard!",
        "If you are ever in the area, my door is always open.",
        "Until then, I wish you all the best.",
        "Keep your fingers crossed for me!",
        "You are always welcome here.",
    ),
    "must_stop": (
        *("the soup is boiling over", "the dog wants to go out", "somebody is at the door", "my train leaves soon"),
        *("my hand hurts", "it is getting late", "the page is full", "the children are home from school"),
    ),
    "sit": (
        *("at the kitchen table", "on the balcony", "in a small café", "under a tree", "by the fire", "in the library"),
        *("on a bench in the sun", "in the train"),
    ),
    "used_to": (
        *("play chess until midnight", "steal apples", "cycle to school", "collect stamps", "sing in the kitchen"),
        *("climb on the roof", "write poems", "go camping", "bake on Sundays", "feed the ducks"),
    ),
    "gift": (
        *("scarf", "book", "teapot", "lamp", "picture", "box of chocolates", "calendar", "pullover", "vase", "clock"),
        *("plant", "game", "blanket", "notebook", "pair of gloves"),
    ),
    "adj_good": ("beautiful", "useful", "elegant", "soft", "unusual", "practical", "fine", "lovely"),
    "home_place": ("on my desk", "in the living room", "beside my bed", "in the hall", "on the kitchen shelf"),
    "party": (
        "There was so much food that we are still eating it.",
        "We missed you and your jokes.",
        "{name2} played the guitar, and everybody danced.",
    ),
    "sin": (
        *("forgot our appointment", "was rude to you", "shouted at you", "laughed at your idea", "told your secret"),
        *("broke my promise", "did not answer your call", "left without saying goodbye", "lost the book you lent me"),
        *("forgot your birthday", "made fun of you in front of the others", "arrived two hours late"),
    ),
    "bad": ("awful", "guilty", "terrible", "ashamed", "miserable"),
    "occasion": (
        *("my birthday", "the end of the exams", "our wedding anniversary", "the new flat", "the beginning of summer"),
        *("my {relative}'s visit", "the harvest", "my first year in the company", "{name2}'s return"),
    ),
    "clock_late": (
        "five o'clock",
        "half past five",
        "six o'clock",
        "seven o'clock",
        "half past seven",
        "eight o'clock",
    ),
    "bus": ("four", "seven", "nine", "twelve", "eighteen"),
    "stop": ("the church", "the third stop", "the hospital", "the old mill", "the town hall", "the last stop"),
    "bone": ("leg", "arm", "foot", "wrist", "ankle", "nose"),
    "home_thing": ("cat", "plants", "garden", "flat", "post", "rabbit"),
    "success": (
        *("your new job", "passing the exam", "the birth of your daughter", "your wedding", "winning the prize"),
        *("your first book", "the new house", "your son's success", "opening your own shop", "your retirement"),
    ),
    "where": ("the mountains", "the south", "the lakes", "a little village", "the capital", "the edge of the desert"),
    "holiday_adj": ("wonderful", "even better than last year", "so quiet that I can hear my own thoughts", "very hot"),
    "hotel_adj": ("small but clean", "a little noisy", "old and full of character", "almost empty", "comfortable"),
    "view": (
        "a green valley",
        "the main square",
        "the river",
        "an old church",
        "the railway",
        "a wall",
        "a chestnut tree",
    ),
    "night": ("owls", "the rain on the canvas", "the river", "cows", "nothing at all", "the neighbours snoring"),
    "food_adj": ("excellent", "unusual", "very hot", "cheap and good", "much too rich"),
    "food_b": ("snails", "goat's cheese", "raw fish", "stuffed peppers", "garlic soup", "fried flowers", "cold soup"),
    "trip": ("climb a mountain", "visit a cave", "rent bicycles", "see a famous garden", "cross the border", "rest"),
    "favour": ("feed the cat", "water my plants", "look after my dog", "collect my post", "keep an eye on the flat"),
    "furniture": ("wardrobe", "piano", "sofa", "washing machine", "bookshelves", "heavy boxes"),
    "hard_task": ("buy a computer", "repair my bicycle", "give a speech", "fill in a form", "choose a present"),
    "child": ("son", "daughter"),
    "pet": ("cat", "dog", "rabbit", "tortoise", "hen"),
    "pet_b": ("parrot", "hamster", "old dog", "goldfish"),
    "fruit": ("apples", "plums", "cherries", "pears", "walnuts"),
    "learn": ("cook rice", "wash a shirt", "mend a tap", "read a map", "speak in front of people", "save electricity"),
    "winter_thing": ("winter coat", "warm blanket", "thick pullover", "woollen hat", "old boots"),
    "topic": (
        *("the budget for next year", "the move to the new building", "the holiday plan", "the new timetable"),
        *("the choice of a new supplier", "the spring catalogue", "the safety rules"),
    ),
    "topic_b": (
        "the summer party",
        "the broken printer",
        "the training week",
        "the latest sales",
        "the open positions",
    ),
    "work_thing": ("report", "contract", "offer", "presentation", "brochure", "price list", "project plan", "invoice"),
    "an_order": ("my last order", "a delivery", "order number {number}", "poor service"),
    "fault": (
        *("one part was missing", "the lid could not be closed", "it did not work at all", "the colour was wrong"),
        *("it had several scratches", "it was much smaller than described", "the handle was broken"),
    ),
    "number_days": ("seven", "ten", "fourteen", "twenty"),
    "ad": ("in the newspaper on {day}", "on your website", "in last week's paper", "at the job centre"),
    "quality": ("reliable", "punctual", "careful", "patient", "friendly", "hard-working", "creative", "flexible"),
    "quality_b": ("honest", "polite", "independent", "well organised", "curious", "practical"),
    "course": ("pottery", "language", "dancing", "cooking", "photography", "first-aid", "computer", "drawing"),
    "room": ("kitchen", "bathroom", "bedroom", "living room"),
    "goods": ("chairs", "notebooks", "lamps", "boxes", "plates", "blankets", "light bulbs", "books"),
    "greeting_friend": ("Dear {to},", "Dear {to},", "Hello {to},", "Hi {to},", "My dear {to},"),
    "greeting_family": ("Dear Mother and Father,", "Dear Grandmother,", "Dear all,", "Dear {to},", "My dear family,"),
    "greeting_neighbour": ("Dear neighbour,", "Dear {title} {surname_to},", "Hello,", "Dear {to},"),
    "greeting_work": ("Dear {to},", "Hi {to},", "Hello {to},"),
    "greeting_formal": ("Dear {title} {surname_to},", "Dear {title} {surname_to},", "Dear Sir or Madam,"),
    "title": ("Mr", "Ms", "Dr"),
    "end_friend": (
        *(
            "Love,",
            "Best wishes,",
            "Yours,",
            "All the best,",
            "See you soon,",
            "With love,",
            "Your friend,",
            "Warm wishes,",
        ),
    ),
    "end_family": ("Love,", "With love,", "Your loving {child_me},", "Lots of love,"),
    "child_me": ("child",),
    "end_neighbour": ("Best wishes,", "Kind regards,", "Yours,", "With best wishes from next door,"),
    "end_work": ("Best regards,", "Kind regards,", "Best,", "Many thanks,", "Regards,"),
    "end_formal": ("Yours sincerely,", "Kind regards,", "Yours faithfully,", "With kind regards,"),
}


def write(rng: random.Random) -> str:
    """Return one letter of 60 to 220 words."""
    while True:
        text = _letter(rng)
        if 60 <= len(text.split()) <= 220:
            return text


def _letter(rng: random.Random) -> str:
    rules = words.COMMON | _RULES
    bound = words.pair(rng)
    bound["to"] = words.person(rng, bound["name"])[0]
    for symbol in ("surname_to", "job", "child", "goods", "pet"):
        bound[symbol] = rng.choice(rules["surname" if symbol == "surname_to" else symbol])
    if bound["child"] == ("son" if bound["he2"] == "she" else "daughter"):
        bound["child"] = "daughter" if bound["he2"] == "she" else "son"
    bound["child_me"] = "son" if bound["he"] == "he" else "daughter"

    manner, subjects, beats = rng.choice(_KINDS)
    body: list[list[str]] = [[]]
    rows = list(beats)
    if subjects[0] not in ("Sorry", "Get well soon") and manner in ("friend", "family") and rng.random() < 0.7:
        rows.insert(-1, rules["aside"])
    for beat in rows:
        sentence = rng.choice(beat)
        if sentence.startswith("/"):
            body.append([])
        body[-1].append(expand(rng, rules, sentence.removeprefix("/"), **bound))
    sender = bound["name"]
    if manner == "formal" or (manner == "neighbour" and rng.random() < 0.5):
        sender += " " + rng.choice(words.SURNAMES)
    greeting = expand(rng, rules, f"{{greeting_{manner}}}", **bound)
    end = expand(rng, rules, f"{{end_{manner}}}", **bound)
    if greeting.startswith("Dear Sir"):
        end = "Yours faithfully,"
    elif end == "Yours faithfully,":
        end = "Yours sincerely,"
    parts = [greeting, *(words.join(part) for part in body if part), f"{end}\n{sender}"]
    if rng.random() < (0.2 if manner == "friend" else 0.5) and manner not in ("family", "neighbour"):
        parts.insert(0, "Subject: " + expand(rng, rules, rng.choice(subjects), **bound))
    elif rng.random() < 0.25:
        parts.insert(0, expand(rng, rules, "{date}", **bound))
    return "\n\n".join(part for part in parts if part)
