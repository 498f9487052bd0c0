"""Conversations between two people: quoted speech, who says it and what they do meanwhile."""

import random

from starter.genres import words
from starter.grammar import expand

# A scene: how it opens, then turns. A turn begins with "1:" or "2:" (who speaks) or "-:" (narration);
# ">>" joins turns that belong together, "|" separates alternatives.
_SCENES: tuple[tuple[tuple[str, ...], ...], ...] = (
    (
        (
            "-:{name} was sitting {where} when {name2} came in.",
            "-:{name2} found {name} {where}, staring at nothing.",
            "-:It was {clock}, and {name} had not said a word for an hour.",
        ),
        ("2:What is the matter?|2:You look {feeling_bad}. What happened?|2:Is everything all right?",),
        ("1:I have lost {lost}.|1:I can't find {lost} anywhere.|1:{lost.cap} is gone.",),
        ("2:When did you last have it?|2:Where did you last see it?",),
        (
            "1:I had it this morning, when I was {doing}.|1:If I knew that, I would not be looking for it.|"
            "1:Yesterday, I think. I have looked everywhere, even {look}.|1:An hour ago. At least I thought so until "
            "you asked.",
        ),
        (
            "2:Then let's look together.|2:Two people see more than one.|2:Sit down and think. Where did you go after "
            "that?",
        ),
        (
            "-:They searched for {few} minutes.|-:{name2} knelt down and looked under the cupboard.|"
            "-:{name} emptied {his} bag on the table.",
        ),
        (
            "2:Is this what you are looking for?|2:What is this in your coat pocket?|2:Here it is, right in front of "
            "you!",
        ),
        (
            "1:I don't believe it!|1:I feel like a fool.|1:What would I do without you?|1:It wasn't there before, I "
            "swear.",
        ),
        ("-:{name2} laughed.|2:You're welcome.|2:Next time, look there first.|-:They both laughed.",),
    ),
    (
        (
            "-:The shop was empty except for {name}, who stood behind the counter.|"
            "-:{name2} pushed open the door of the little shop. A bell rang.",
        ),
        ("1:Good {part}. How can I help you?|1:Can I help you?|1:Good {part}! What are you looking for?",),
        (
            "2:I am looking for {object.a}. It is a present for my {relative}.|2:I need {object.a}, but not an "
            "expensive one.|"
            "2:Do you sell old things, for example {object.a}?",
        ),
        (
            "1:We have {few} of them. Would you prefer {colour.a} one or {colour_b.a} one?|"
            "1:You are lucky. This is the last one.|1:I'm afraid we have only this one left.",
        ),
        ("-:{name2} took it in {his2} hands and turned it over.|-:{name2} thought about it for a moment.|",),
        ("2:How much is it?|2:What does it cost?|2:It is beautiful. How much do you want for it?",),
        ("1:{number_price.cap}.|1:It costs {number_price}.|1:For you, {number_price}.",),
        (
            "2:That is too much for me.|2:That is more than I wanted to spend.|2:Couldn't you make it a little "
            "cheaper?|"
            "2:Isn't there anything cheaper?",
        ),
        (
            "1:I could let you have it for half, because it has a scratch.|1:If you take two, the second one is free.|"
            "1:Good work has its price. But all right, I will take off ten per cent.|1:I'm sorry, but I can't go any "
            "lower.",
        ),
        (
            "2:Then I'll take it.|2:I will think it over and come back tomorrow.|2:Agreed. Could you wrap it up for "
            "me, please?",
        ),
        (
            "-:{name} wrapped it in {colour} paper and tied a ribbon round it.|1:It was a pleasure.|"
            "1:Thank you, and give my regards to your {relative_b}.|",
        ),
    ),
    (
        (
            '-:"Excuse me," said {man2.a} with a large bag. {his2.cap} name, as it turned out, was {name2}.|'
            "-:{name} was waiting for the bus when {name2}, whom {he} had never seen before, spoke to {him}.|"
            "-:{name2} had been walking in circles for an hour. At last {he2} stopped in front of {name}.",
        ),
        (
            "2:Could you tell me the way to {place}?|2:How do I get to {place} from here?|"
            "2:I think I am lost. Is this the right way to {place}?",
        ),
        (
            "1:It is quite far. Are you on foot?|1:That is easy. Go straight on and take the {ordinal} street on the "
            "left.|"
            "1:You are going in the wrong direction.",
        ),
        (
            "2:Is there a bus as well?|2:How long does it take?|2:I don't mind walking.|2:I was told that it was just "
            "round the corner.",
        ),
        (
            "1:There is one every {number_ten} minutes.|1:If you walk fast, about {number_ten} minutes.|"
            "1:Turn right at the traffic lights, cross the bridge, and you will see it in front of you.",
        ),
        (
            "-:{name} drew a map on the back of an old ticket.|-:{name} pointed down the street.|"
            "1:Do you know what? I am going there myself. Come with me.",
        ),
        ("2:That is very kind of you.|2:I hope I can remember all that.|2:Thank you. I would never have found it.",),
        ("1:Are you here on holiday?|1:What brings you to our town?|1:Have you come far?",),
        (
            "2:I am visiting my {relative}, whom I have not seen for {number} years.|2:I have a job interview at "
            "{clock}.|"
            "2:I used to live here as a child, but everything has changed.",
        ),
        (
            "1:Then I wish you good luck!|1:I hope you will like it here.|1:The world is small.|1:Then you had better "
            "hurry.",
        ),
    ),
    (
        (
            "-:{name} and {name2} were sitting {where}, as they did every {day}.|"
            "-:It was late. {name} had made tea, and {name2} was looking out of the window.",
        ),
        (
            "1:May I ask you something?|1:I have to tell you something.|1:There is something I have been meaning to "
            "tell you.",
        ),
        ("2:Of course.|2:That sounds serious.|2:Go ahead. I'm listening.|2:You're making me nervous.",),
        (
            "1:I have been offered a job in another town.|1:I am going to leave the company.|1:I want to get married.|"
            "1:I've decided to go back to school.|1:I am thinking of selling the house.",
        ),
        ("-:There was a long pause.|-:{name2} put down {his2} cup.|-:For a while, only the clock could be heard.|",),
        (
            "2:Since when have you known this?|2:Are you sure that this is what you want?|2:Why didn't you tell me "
            "earlier?",
        ),
        (
            "1:I have thought about nothing else for {number} days.|1:I only made up my mind last night.|"
            "1:I was afraid of what you would say.",
        ),
        (
            "2:I can't pretend that I'm happy about it.|2:If you don't try, you will never know.|"
            "2:I would do the same if I were you.|2:I always knew that this day would come.",
        ),
        (
            "1:So you are not angry?>>2:Angry? No. I'm only going to miss our {day}s.",
            "1:Are you angry with me?>>2:A little. But I will get over it.",
            "1:And what about us?>>2:We will still be friends, whatever happens.",
            "1:What would you do in my place?>>2:I would stop asking and begin.",
            "1:Do you think it is a mistake?>>2:Perhaps. But it is your mistake, and you have a right to make it.",
        ),
        ("-:Outside, it had begun to {rain}.|-:{name} poured more tea, and they talked until midnight.|",),
    ),
    (
        (
            '-:"I don\'t feel well," said {name}, and {name2}, who was a doctor, asked {him} to sit down.|'
            "-:{name} had been waiting for an hour when the doctor, whose name was {name2}, finally called {him} in.",
        ),
        ("2:Where does it hurt?|2:How long have you felt like this?|2:Tell me what is wrong.",),
        (
            "1:My {body} hurts, especially {when}.|1:I can't sleep, and I am always tired.|"
            "1:It began {number} days ago. First it was only my {body}, and now it is everything.",
        ),
        (
            "2:Do you smoke?|2:Have you got a temperature?|2:Are you taking any medicine?|2:Do you eat regularly?|"
            "2:Are you under a lot of stress at work?",
        ),
        ("1:No, not really.|1:Only sometimes.|1:Well, yes, to be honest.|1:Not more than other people.",),
        ("-:{name2} listened to {his} heart and looked into {his} throat.|-:{name2} wrote something down.",),
        (
            "2:It is nothing serious. You need rest, that is all.|2:I would like to do a few tests, just to be sure.|"
            "2:You work too much. Stay at home for a week.",
        ),
        ("1:That's impossible. I have far too much to do.|1:Are you sure it's nothing worse?|1:Can I still go {go}?",),
        (
            "2:Your work will wait. Your health won't.|2:If it isn't better by {day}, come back.|"
            "2:Drink plenty of water and go for a walk every day.",
        ),
        (
            "1:Thank you, doctor.|1:My {relative} said exactly the same thing.|-:{name} sighed, but {he} knew it was "
            "true.",
        ),
    ),
    (
        (
            "-:The door flew open, and {name} stormed in.|-:{name} threw {his} bag into a corner.|"
            "-:For the third time that week, {name2} had come home late.",
        ),
        ("1:You have forgotten it again!|1:Do you know what time it is?|1:Where have you been?",),
        ("2:What do you mean?|2:I can explain everything.|2:Please don't shout.|2:I'm sorry. I really am.",),
        (
            "1:You promised to {promise}!|1:You said that you would {promise}.|1:It was your turn to {promise}, not "
            "mine.",
        ),
        (
            "2:I was going to, but then {excuse}.|2:I would have done it if I had had the time. But {excuse}.|"
            "2:Is that all? I thought something terrible had happened.",
        ),
        ("1:There is always some excuse.|1:That's what you said last time.|1:You could at least have called me.",),
        (
            "2:And what about you? Only last week you forgot my birthday.|2:You are right. I should have told you.|"
            "2:I can't do everything by myself.",
        ),
        ("-:Neither of them spoke.|-:{name} turned round and looked out of the window.|-:Somewhere a door banged.",),
        ("1:I didn't mean to shout.|1:I was worried, that's all.|1:I've had an awful day.",),
        (
            "2:I know. Let's forget it.|2:I will do it now, right away.|2:Tell me about it while I make us something "
            "to eat.|"
            "2:Come here. I'll make it up to you.",
        ),
    ),
    (
        (
            '-:"Grandfather," asked {name}, "what was it like when you were young?" {name2} put down the newspaper.|'
            "-:{name}, who was six, asked questions all day long, and {name2} tried to answer them.",
        ),
        ("1:Why {why}?",),
        (
            "2:That is a good question.|2:I have often asked myself the same thing.|2:Well, let me think.|"
            "2:Nobody knows for certain.",
        ),
        ("1:Don't you know it?|1:But you know everything!|1:You always say that.",),
        (
            "2:I know some things. The older I get, the fewer they are.|2:Perhaps because {because}.|"
            "2:When I was your age, people believed that {because}.",
        ),
        ("1:Is that true?|1:I don't believe that.|1:And who told you?|1:That's funny.",),
        ("-:{name2} scratched {his2} head.|-:{name2} smiled.|-:{name} climbed onto the bench beside {him2}.",),
        ("2:What do you think?|2:We could look it up together.|2:And now it's time for bed.",),
        (
            "1:I think it's because {because}.|1:When I grow up, I will find out.|1:One more question, please! Why "
            "{why_b}?",
        ),
        ("2:That is the best answer I have ever heard.|2:If you find out, tell me.|-:{name2} had no answer to that.",),
    ),
    (
        (
            "-:{name2} had come for an interview and was sitting on the edge of the chair.|"
            '-:"Please take a seat," said {name}, who was the head of the company.',
        ),
        (
            "1:Tell me something about yourself.>>2:I have worked as {job.a} for {number} years.",
            "1:Why do you want to work for us?>>2:I like working with people, and I learn quickly.",
            "1:Why do you want this job?>>2:To be honest, I need the money.",
            "1:Have you ever done this kind of work?>>2:No, but I have always been interested in it.",
            "1:Did you find us easily?>>2:I got off at the wrong stop and had to run the last mile.",
        ),
        (
            "1:What are you good at?>>2:I am punctual, and I don't give up easily.",
            "1:What are your strengths?>>2:I can listen, and I notice small things.",
            "1:And what is your greatest weakness?>>2:I talk too much when I'm nervous.",
            "1:Do you have any weaknesses?>>2:Chocolate. And I am not very tidy.",
            "1:Why did you leave your last job?>>2:The company closed down.",
            "1:Why are you leaving your present job?>>2:I want to try something new.",
        ),
        ("-:{name} made a note.|-:{name} leaned back and looked at {him2} for a while.|",),
        (
            "1:Can you work at weekends?>>2:If I have to, yes.",
            "1:What would you do if a customer shouted at you?>>2:I would stay calm and ask what was wrong.",
            "1:When could you start?>>2:Next {day}, if you like.",
            "1:Where do you see yourself in five years?>>2:In your chair, perhaps. I'm only joking.",
            "1:Do you prefer to work alone or in a team?>>2:That depends on the team.",
        ),
        (
            "1:Do you have any questions?>>2:What would I be doing all day?>>1:You would mostly {duty}.",
            "1:Is there anything you would like to know?>>2:How many people work here?>>1:About {number}.",
            "1:Do you have any questions?>>2:What time does the day begin?>>1:At {clock}, and nobody is ever late.",
            "1:Would you like to ask me something?>>2:How much would I earn?>>1:Not a fortune, but enough to live on.",
        ),
        ("1:We will write to you next week.|1:You can start on {day}.|1:I like you. Most people don't ask anything.",),
    ),
    (
        (
            "-:The restaurant was full, and {name2}, the waiter, looked tired.|-:{name} opened the menu and closed it "
            "again.",
        ),
        ("2:Are you ready to order?|2:What would you like?|2:Good evening. Have you chosen?",),
        ("1:What do you recommend?|1:I would like the {food}, please.|1:I was thinking of the {food}.",),
        (
            "2:I'm afraid we have no more of that.|2:The cook is very proud of the {food_b}.|"
            "2:Between you and me, I would take the {food_b}.",
        ),
        ("1:All right. How long will it take?|1:Then I'll have that. Will it take long?",),
        (
            "2:It will take about {number_ten} minutes.|2:Not more than half an hour. And to drink?|2:It will be "
            "ready soon. Would you like something to drink?",
        ),
        ("1:Just a glass of water, please.|1:A cup of tea with lemon.|1:I am not thirsty, thank you.",),
        ("-:After half an hour, {name2} came back with the wrong plate.|-:The food arrived surprisingly quickly.",),
        ("1:Excuse me, but this is not what I ordered.|1:This is cold.|1:This is the best meal I've had for months.",),
        (
            "2:I am very sorry. I'll take it back at once.|2:I will tell the cook.|2:You are not the first to say so "
            "today.",
        ),
        (
            "-:In the end, {name} left a large tip.|1:Could I have the bill, please?|1:Don't worry, it can happen to "
            "anyone.",
        ),
    ),
    (
        ("-:The telephone rang at {clock}. {name} picked it up.|-:{name} let it ring {times} before {he} answered.",),
        ("1:Hello? Who is speaking?|1:Hello?|1:Yes, please?",),
        (
            "2:It's me, {name2}. Have I woken you?|2:This is {name2}. Do you remember me?|2:Thank goodness you are at "
            "home!",
        ),
        (
            "1:{name2}! I haven't heard from you for {number} weeks.|1:Do you know how late it is?|1:No, no, I was "
            "awake anyway.",
        ),
        (
            "2:I'm standing {stand}, and my car has broken down.>>1:Are you all right?>>2:I'm only cold and tired.>>"
            "1:Stay where you are. I'll be there in {number_ten} minutes.",
            "2:I have got wonderful news.>>1:Don't keep me waiting!>>2:I have passed the exam!>>"
            "1:I can't believe it! We must celebrate tomorrow.",
            "2:You won't believe what has just happened to me.>>1:Tell me.>>2:I've won {win}!>>1:You're joking!>>"
            "2:It's true. I wanted you to be the first to know.",
            "2:Can I ask you a favour?>>1:That depends. What is it?>>2:The {animal} has run away, and I can't find "
            "it.>>"
            "1:I'm on my way. Two people see more than one.",
            "2:I missed the last train, and I have no money left.>>1:Where are you?>>2:I'm {stand}.>>"
            "1:Don't move. I'll come and pick you up.",
            "2:I can't sleep. May I talk to you for a while?>>1:Of course. Is it because of the {worry}?>>"
            "2:Yes. I keep thinking about it.>>1:Then come over. I'll put the kettle on.",
            "2:We are going to have a baby.>>1:Say that again!>>2:You heard me. It will be born in {month}.>>"
            "1:Then I wish you all the happiness in the world. Come and see us soon.",
        ),
        (
            "-:{name} put down the phone and sat still for a moment.|2:Thank you. I knew I could count on you.|2:See "
            "you soon, "
            "then.",
        ),
    ),
    (
        (
            '-:"Lesson one," said {name}, and handed {name2} {tool.a}.|'
            "-:{name} had promised to teach {name2} how to {skill}.",
        ),
        ("2:What do I have to do first?|2:It looks complicated.|2:I'll never learn this.",),
        (
            "1:First you watch, and then you try it yourself.|1:Everyone says that at the beginning.|1:It is easier "
            "than it looks.",
        ),
        ("-:{name} showed {him2} slowly, step by step.|-:{name2} tried it, but {his2} hands were too stiff.",),
        ("2:Like this?|2:Am I doing it right?|2:I've done something wrong, haven't I?",),
        (
            "1:Not quite. Hold it a little lower.|1:Almost. Try again, but more slowly.|1:Don't use so much force.|"
            "1:That was better than my first attempt.",
        ),
        ("2:How long did it take you to learn it?|2:And if I break it?|2:I need a break.",),
        (
            "1:{number.cap} years. And I'm still learning.|1:Then we will mend it.|1:You have only been at it for ten "
            "minutes!",
        ),
        ("-:After an hour, something changed.|-:{name2} bit {his2} lip and began again.|-:This time, it worked.",),
        ("2:I did it!|2:Did you see that?|2:Now I understand what you meant.",),
        ("1:I told you so.|1:Very good. Now do it a hundred times more.|1:You see? You can do it.",),
    ),
    (
        ("-:{name} and {name2} were planning their holiday.|-:A map lay on the table between {name} and {name2}.",),
        ("1:I would like to go to {go_place}.|1:What about {go_place}?|1:This year, let's go to {go_place}.",),
        (
            "2:It is too hot there at this time of year.|2:We were there two years ago.|2:That's too expensive.|"
            "2:What would we do there all day?",
        ),
        ("1:Then you make a suggestion.|1:Have you got a better idea?|1:You never like my ideas.",),
        ("2:I'd rather go to {go_place_b}.|2:We could stay at home for once.|2:Why don't we go to {go_place_b}?",),
        (
            "1:And sleep in a tent? Never.|1:It always rains there.|1:That's not a bad idea, actually.|1:Do you "
            "really mean it?",
        ),
        ("2:Think about it. You might even enjoy it.|2:I knew you would say something like that.",),
        ("-:They looked at each other and began to laugh.|-:{name} folded the map.|-:{name2} closed {his2} eyes.",),
        ("1:Let's toss a coin.|1:What if we spent one week there and one week here?|1:All right, you win.",),
        (
            "2:Fine. But next year I decide.|2:As long as we are together, I don't care.|2:Agreed. I'll book the "
            "tickets today.",
        ),
    ),
    (
        (
            "-:{name2} stood at the garden fence and watched {name}, who was digging.|"
            "-:{name} had just planted the last {plant} when {name2}, the neighbour, appeared.",
        ),
        ("2:What are you planting there?|2:You are working too hard.|2:It looks lovely.",),
        ("1:{plant_pl.cap}. They need a lot of sun.|1:Somebody has to do it.|1:Thank you. It is a lot of work.",),
        (
            "2:In my garden, they never grow.|2:My {elder} used to put eggshells round them.|2:Don't you think it's "
            "too early?",
        ),
        (
            "1:The soil must not be too wet.|1:You should water them in the evening, not in the morning.|"
            "1:If there is no more frost, they will be all right.",
        ),
        (
            "2:By the way, your {pet} was in my kitchen again.>>1:Oh dear! I hope there was no damage.>>"
            "2:Only a broken cup. It doesn't matter.",
            "2:By the way, I have got too many {fruit}. Would you like some?>>1:Really? That is very kind of you.",
            "2:There is something else. Your tree takes away all my light.>>1:I had no idea. I'm sorry.>>"
            "2:I don't mind, I only wanted to mention it.>>1:I could cut the branches next week.",
            "2:Could you lend me a {garden_tool}?>>1:Take the one by the door. You can keep it until {day}.",
        ),
        ("1:Come in and have a cup of tea.|1:Wait, I'll give you some {plant_pl}.",),
        ("-:And so they stood there until it got dark.|2:I would love to.|2:That's what I call a good neighbour.",),
    ),
    (
        (
            '-:{name} was the last one in the lab when {name2} looked in.|-:"Come and look at this," called {name} '
            "from the lab.",
        ),
        ("2:Are you still here?|2:What have you found?|2:Have you eaten anything today?",),
        (
            "1:The numbers don't agree.|1:I have measured it {times}, and every time it is different.|1:Look at "
            "this curve.",
        ),
        ("2:Perhaps the device is broken.|2:Did you change anything?|2:Maybe it's a mistake in the program.",),
        (
            "1:I have checked everything twice.|1:That's what I thought at first.|1:Only the temperature, by two "
            "degrees.",
        ),
        ("-:{name2} bent over the screen.|-:{name2} pulled up a chair and sat down.",),
        ("2:What if it isn't a mistake?|2:Wait. What is this small peak here?|2:Do you know what that would mean?",),
        (
            "1:It would mean that we have been wrong all along.|1:Then the theory would have to be changed.|1:I don't "
            "dare to say it.",
        ),
        (
            "2:We have to repeat it tomorrow, from the beginning.|2:Don't tell anyone until we are sure.|2:Write it "
            "down, now!",
        ),
        ("1:I won't sleep tonight.|1:Tomorrow? Why not now?|1:I'll make some coffee.",),
    ),
)

_RULES: dict[str, tuple[str, ...]] = {
    "where": (
        *("in the kitchen", "on a bench in the park", "at the window", "on the stairs", "in the garden", "in a café"),
        *("by the stove", "on the balcony", "in the waiting room", "at a long table", "under the old tree"),
    ),
    "feeling_bad": ("pale", "tired", "worried", "upset", "sad", "angry", "terrible", "nervous", "unhappy", "exhausted"),
    "lost": (
        *("my key", "my wallet", "my passport", "the letter", "my ring", "my phone", "my watch", "the train ticket"),
        *("my notebook", "my purse", "the shopping list", "my umbrella", "the map", "my library card"),
    ),
    "look": (
        *("under the bed", "in the car", "in the fridge", "behind the sofa", "in your other coat", "on the shelf"),
        *("in the bathroom", "in the rubbish", "between the cushions", "in the drawer"),
    ),
    "doing": ("having breakfast", "getting dressed", "reading the paper", "talking to {relative_my}", "leaving home"),
    "relative_my": ("my sister", "my brother", "the postman", "the neighbour"),
    "relative_b": ("family", "parents", "wife", "children", "mother"),
    "part": ("morning", "afternoon", "evening", "day"),
    "colour_b": ("plain", "striped", "dark", "bigger", "smaller"),
    "number_price": ("twenty", "thirty-five", "eighteen", "forty", "twelve and a half", "sixty", "a hundred and ten"),
    "number_ten": ("ten", "fifteen", "twenty", "twenty-five", "thirty", "forty"),
    "rain": ("rain", "snow", "get dark", "thunder", "drizzle"),
    "body": ("back", "head", "left knee", "stomach", "shoulder", "chest", "right arm", "neck", "throat"),
    "when": ("in the morning", "at night", "after meals", "when I climb stairs", "when the weather changes"),
    "go": ("to work", "swimming", "running", "dancing", "skiing", "to the party"),
    "promise": (
        *(
            "lock the door",
            "buy bread",
            "pay the rent",
            "feed the {pet}",
            "ring your {elder}",
            "wash up",
            "cook dinner",
        ),
        *("take out the rubbish", "post the letter", "repair the lamp", "water the plants", "fetch the children"),
    ),
    "excuse": (
        *(
            "the train was late",
            "the boss called a meeting",
            "I fell asleep",
            "I met an old friend",
            "it began to rain",
        ),
        *("the shop was closed", "I forgot the time", "somebody asked me for help", "my phone was dead"),
    ),
    "why": (
        *("is the sky blue", "do cats hate water", "is the night dark", "do people get old", "is snow white"),
        *("do birds fly away in autumn", "can't we see the wind", "do grown-ups work so much", "is the moon so small"),
        *("do trees lose their leaves", "can't animals talk", "do we dream"),
    ),
    "duty": (
        "answer the phone",
        "talk to customers",
        "pack boxes",
        "write letters",
        "check the orders",
        "drive the van",
    ),
    "worry": ("interview", "move", "money", "exam", "argument", "operation"),
    "garden_tool": ("spade", "rake", "ladder", "hose", "wheelbarrow"),
    "why_b": ("do I have to sleep", "is it so late", "do you have grey hair", "are bananas bent", "do dogs bark"),
    "because": (
        *("everything needs a rest sometimes", "it is far away", "someone painted it like that", "they are afraid"),
        *("it was always like that", "the earth turns", "they are looking for something better", "it is warmer there"),
        *("otherwise we would be bored", "nobody has ever asked them"),
    ),
    "stand": ("at the station", "in front of your house", "in the rain", "at the airport", "outside the cinema"),
    "win": ("the first prize", "a trip to the mountains", "a car", "the race"),
    "pet": ("cat", "dog", "rabbit", "parrot", "tortoise", "hen"),
    "tool": ("hammer", "brush", "guitar", "needle", "chess book", "knife", "violin", "bicycle pump", "rope", "pencil"),
    "skill": (
        *("play the guitar", "bake bread", "ride a horse", "sew on a button", "play chess", "repair a bicycle", "draw"),
        *("drive a car", "knit", "climb", "juggle", "swim", "dance", "take photographs"),
    ),
    "go_place": ("the mountains", "a big city", "the south", "the lakes", "a farm", "my parents", "another country"),
    "go_place_b": ("the north", "the forest", "a little village", "the desert", "an old castle", "my cousins"),
    "plant": ("rose", "cabbage", "onion", "bean", "apple tree", "tulip"),
    "plant_pl": ("carrots", "potatoes", "lettuces", "strawberries", "tomatoes", "sunflowers", "peas"),
    "fruit": ("apples", "plums", "pears", "cherries", "eggs", "lemons", "nuts"),
    "food": ("soup", "chicken", "fish", "mushroom pie", "rice", "roast beef", "vegetable stew", "pasta", "omelette"),
    "food_b": ("salad", "lamb", "onion tart", "pancakes", "potato soup", "dumplings", "grilled cheese"),
    "weather_line": ("{weather_past}",),
}

_SAID = (*("said",) * 8, "replied", "answered", "replied", "answered", "murmured")
_ASKED = (*("asked",) * 6, "wanted to know", "inquired")
_CRIED = ("cried", "shouted", "exclaimed", "called", "said")
_HOW = (
    *("quietly", "slowly", "at last", "with a smile", "after a pause", "calmly", "in a low voice", "nervously"),
    *("without looking up", "with a shrug", "impatiently", "gently", "cheerfully", "firmly", "thoughtfully", "softly"),
)
_ACTIONS = (
    *("{name} nodded.", "{name} shook {his} head.", "{name} shrugged.", "{name} frowned.", "{name} smiled."),
    *("{name} hesitated.", "{name} looked up.", "{name} crossed {his} arms.", "{name} took a deep breath."),
    *(
        "{name} raised {his} eyebrows.",
        "{name} cleared {his} throat.",
        "{name} looked at the floor.",
        "{name} laughed.",
    ),
    *("{name} leaned forward.", "{name} rubbed {his} eyes.", "{name} thought for a moment.", "{name} sighed."),
    *("{name} glanced at the clock.", "{name} bit {his} lip.", "{name} blinked.", "{name} looked surprised."),
)


def write(rng: random.Random) -> str:
    """Return one conversation of 60 to 220 words."""
    while True:
        text = _conversation(rng)
        if 60 <= len(text.split()) <= 220:
            return text


def _conversation(rng: random.Random) -> str:
    rules = words.COMMON | _RULES
    bound = words.pair(rng)
    bound["object"] = rng.choice(words.OBJECTS)
    bound["relative"] = rng.choice(words.COMMON["relative"])
    speakers = {
        "1": {key: bound[key] for key in ("name", "he", "his")},
        "2": {key: bound[key + "2"] for key in ("name", "he", "his")},
    }
    opening, *beats = rng.choice(_SCENES)
    parts: list[list[str]] = [[rng.choice(_choices(opening))[2:]]]
    if rng.random() < 0.3:
        parts[0].insert(0, "{weather_line}")
    inline = rng.random() < 0.35
    style = 0.0 if inline else rng.random()
    spoken = ""
    turns: list[str] = []
    for beat in beats:
        turns += rng.choice(_choices(beat)).split(">>")
    for turn in turns:
        who, _, line = turn.partition(":")
        if not line:
            continue
        if who == "-":
            parts.append([line])
        else:
            parts.append([_quoted(rng, speakers[who], expand(rng, rules, line, **bound), who not in spoken, style)])
            spoken += who
    if rng.random() < 0.15:
        drop = rng.randrange(len(parts) - 3, len(parts))
        parts = parts[: drop + 1]
    done = [" ".join(expand(rng, rules, line, **bound) for line in part) for part in parts]
    return " ".join(done) if inline else "\n\n".join(done)


def _choices(beat: tuple[str, ...]) -> list[str]:
    """Return the alternatives of `beat`, which are separated by bars."""
    return [choice for line in beat for choice in line.split("|")]


def _quoted(rng: random.Random, speaker: dict[str, str], line: str, changed: bool, style: float) -> str:
    """Return `line` in quotation marks, with or without a word about who says it (`style`: how often)."""
    kind = rng.random()
    mark = line[-1]
    end, verb = {
        "?": ("?", rng.choice(_ASKED)),
        "!": ("!", rng.choice(_CRIED)),
    }.get(mark, (",", rng.choice(_SAID)))
    who = speaker["name"] if changed or rng.random() < 0.6 else speaker["he"]
    if changed and verb in ("replied", "answered", "murmured"):
        verb = "said"
    tag = f"{who} {verb}"
    if verb in ("said", "asked", "replied", "answered", "cried", "shouted", "whispered") and who != speaker["he"]:
        tag = f"{verb} {who}" if rng.random() < 0.6 else tag
    if rng.random() < 0.3 and " " not in verb:
        tag += f" {rng.choice(_HOW)}"
    if kind < 0.15 + 0.45 * style or speaker["name"] in line:
        return f'"{line}"'
    if kind < 0.8 and ". " not in line:
        return f'"{line[:-1]}{end}" {tag}.'
    first, dot, rest = line.partition(". ")
    if dot and "?" not in first and "!" not in first:
        return f'"{first}," {who} said. "{rest}"'
    action = expand(rng, {}, rng.choice(_ACTIONS), **speaker)
    return f'{action} "{line}"' if rng.random() < 0.7 else f'"{line}" {action}'
