"""Local news reports: councils, weather, sport, markets, schools, science, accidents and festivals."""

import random

from starter.grammar import compose, deal, expand

# L opens the report, D adds a detail, Q quotes the speaker in full, R quotes the speaker again, E ends it.
SHAPES = (
    "LD/Q/DDE",
    "LDD/QDE",
    "LDDD/Q/E",
    "L/DD/QR/DE",
    "L/DD/Q/D/E",
    "LD/DD/QE",
    "LDDDD/QR",
    "L/Q/DDDE",
    "LQ/DDD/E",
    "L/QR/DD/E",
    "LDD/QD/RE",
    "LDDDDE",
    "LD/DDD/E",
    "LDD/DD/Q",
    "LQDD/RDE",
    "L/DDQ/DRDE",
    "LDQD/DE",
    "L/DDD/Q/DRE",
    "LDD/QR/DDE",
)

WOMEN = (
    "Anna",
    "Maria",
    "Grace",
    "Helen",
    "Ruth",
    "Laura",
    "Emma",
    "Nina",
    "Rosa",
    "Clara",
    "Amy",
    "Julia",
    "Sarah",
    "Alice",
    "Leila",
    "Kate",
    "Diana",
    "Olivia",
    "Mina",
    "Joan",
)
MEN = (
    "Peter",
    "Daniel",
    "Omar",
    "Thomas",
    "Martin",
    "Simon",
    "David",
    "Paul",
    "Victor",
    "Samuel",
    "Ben",
    "Leo",
    "Adam",
    "Hugo",
    "Mark",
    "Ivan",
    "Oscar",
    "Henry",
    "Carlos",
    "George",
)
LAST = (
    "Baker",
    "Hill",
    "Cooper",
    "Grant",
    "Marsh",
    "Reed",
    "Stone",
    "Carter",
    "Wells",
    "Lane",
    "Fox",
    "Porter",
    "Young",
    "Bell",
    "Khan",
    "Silva",
    "Novak",
    "Walsh",
    "Price",
    "Dunn",
    "Mason",
    "Field",
    "Brook",
    "Ward",
    "Shaw",
)

RULES: dict[str, tuple[str, ...]] = {
    "town": (
        "Ashford",
        "Milton",
        "Westbrook",
        "Oakfield",
        "Greenhill",
        "Northgate",
        "Redbridge",
        "Linden",
        "Hartley",
        "Fairview",
        "Stonebridge",
        "Brookside",
        "Elmwood",
        "Kingston",
        "Maple Hill",
        "Easton",
        "Whitford",
        "Clayton",
    ),
    "street": (
        "Station Road",
        "Mill Lane",
        "Church Street",
        "Park Avenue",
        "Bridge Street",
        "High Street",
        "Garden Road",
        "Market Street",
        "School Lane",
        "Hill Road",
        "Orchard Road",
        "King Street",
        "North Road",
    ),
    "day": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    "month": ("January", "March", "April", "May", "June", "September", "October", "November"),
    "few": ("two", "three", "four", "five", "six", "seven"),
    "some": ("eight", "nine", "ten", "twelve", "fifteen", "twenty", "thirty", "about forty", "nearly fifty"),
    "many": (
        "more than a hundred",
        "about two hundred",
        "almost three hundred",
        "over five hundred",
        "around a thousand",
        "some two thousand",
        "several hundred",
    ),
    "money": (
        "two thousand dollars",
        "five thousand dollars",
        "forty thousand dollars",
        "half a million dollars",
        "two million dollars",
        "ninety thousand dollars",
        "just over a million dollars",
    ),
    "percent": ("three percent", "four percent", "six percent", "eight percent", "ten percent", "twelve percent"),
    "hour": ("six", "seven", "eight", "nine", "ten"),
    "time": (
        "early in the morning",
        "shortly before noon",
        "just after lunch",
        "late in the afternoon",
        "in the evening",
        "soon after midnight",
        "around {hour} in the morning",
        "at about {hour} in the evening",
    ),
    "said": ("said", "said", "said", "explained", "remarked"),
    "people": ("people", "residents", "local people", "neighbors", "families", "visitors"),
}

FIXED: dict[str, dict[str, tuple[str, ...]]] = {
    "council": {
        "plan": (
            "a new library",
            "a bus lane on {street}",
            "a playground in the central park",
            "a second bridge",
            "cheaper parking for residents",
            "a larger fire station",
            "free swimming lessons for children",
            "a home for older people",
            "a bicycle path along {street}",
            "solar panels on public buildings",
            "a weekly street market",
            "a sports hall beside the high school",
        ),
        "role": ("the mayor", "a member of the council", "the head of the planning office", "a local shop owner"),
    },
    "weather": {
        "bad": ("heavy rain", "strong winds", "deep snow", "a violent storm", "freezing rain"),
        "role": ("a farmer", "a weather expert at the university", "a spokesperson for the city", "a bus driver"),
    },
    "heat": {
        "deg": ("thirty-four", "thirty-five", "thirty-six", "thirty-seven", "thirty-eight"),
        "role": ("a doctor at the town hospital", "the manager of the swimming pool", "a nurse", "a fruit farmer"),
    },
    "match": {
        "other": ("Oakridge", "Weston", "Longfield", "Marlow", "Southgate", "Newfield"),
        "sport": ("football", "hockey", "handball"),
        "score": ("two to one", "three to one", "three to two", "four to two", "four to one"),
        "role": ("the coach", "who leads the team", "the coach of the home side"),
    },
    "race": {
        "race": ("ten-kilometer race", "half marathon", "charity run", "bicycle race", "cross-country race"),
        "role": ("who won the women's event", "one of the organizers", "who finished second", "a proud parent"),
    },
    "market": {
        "good": ("wheat", "coffee", "milk", "bread", "petrol", "rice", "sugar", "copper", "timber", "butter"),
        "move": ("rose", "fell"),
        "role": ("an economist", "who runs a family bakery", "a trader", "a farmer who sells at the market"),
    },
    "school": {
        "subject": ("music", "science", "cooking", "drama", "computer", "art", "language"),
        "role": ("the head teacher", "a teacher at the school", "the mother of two pupils", "a school inspector"),
    },
    "science": {
        "find": (
            "a simple blood test can detect a common heart disease early",
            "bees remember the color of a flower for several days",
            "short walks after meals help the body to control sugar",
            "trees in a city can lower the temperature of a street",
            "children who read for pleasure sleep better",
            "a new kind of battery can be charged in ten minutes",
            "birds sing earlier in the morning near busy roads",
            "a cheap filter made of sand and clay can clean dirty water",
            "listening to quiet music can reduce pain after an operation",
            "old newspapers can be turned into strong building material",
        ),
        "role": ("who led the study", "the leader of the team", "who was not part of the team", "a professor"),
    },
    "accident": {
        "thing": ("a truck", "a delivery van", "a school bus", "a small car", "a motorcycle", "a tractor"),
        "role": ("a police officer", "who saw the accident", "who lives nearby", "a spokesperson for the police"),
    },
    "fire": {
        "site": (
            "a furniture factory",
            "an empty warehouse",
            "a block of flats",
            "a farm building",
            "a restaurant",
            "an old cinema",
            "a garage",
            "a paper mill",
            "a family home",
        ),
        "role": ("the fire chief", "a neighbor", "who raised the alarm", "one of the firefighters"),
    },
    "festival": {
        "fest": (
            "music festival",
            "food festival",
            "flower show",
            "book fair",
            "summer carnival",
            "winter fair",
            "film festival",
            "harvest festival",
            "dance festival",
            "science fair",
        ),
        "role": ("the director of the festival", "one of the volunteers", "a visitor", "who has come every year"),
    },
    "business": {
        "shop": (
            "bakery",
            "bookshop",
            "furniture workshop",
            "shoe factory",
            "bicycle shop",
            "hotel",
            "toy shop",
            "cafe",
            "software company",
            "flower shop",
            "repair shop",
            "clothing store",
        ),
        "role": ("the owner", "one of the owners", "who runs the business"),
    },
    "animal": {
        "beast": ("goat", "horse", "parrot", "cow", "fox", "owl", "young deer", "large snake", "tortoise", "monkey"),
        "role": ("a vet", "the owner", "a firefighter", "a worker at the animal shelter"),
    },
    "transport": {
        "line": ("the morning train", "the night bus", "the airport train", "the tram", "the city bus"),
        "role": ("a spokesperson for the transport company", "an angry passenger", "an engineer", "a daily traveler"),
    },
    "help": {
        "cause": (
            "plant trees in the park",
            "paint the old community center",
            "collect food for poor families",
            "clean the river bank",
            "teach older people to use computers",
            "repair broken toys",
            "cook meals for people who live alone",
            "read to children in the hospital",
        ),
        "role": ("who started the group", "a volunteer", "a retired teacher", "a student who joined in spring"),
    },
    "theft": {
        "loot": (
            "paintings",
            "bicycles",
            "garden tools",
            "silver cups",
            "computers",
            "rare books",
            "musical instruments",
        ),
        "role": ("a detective", "a police officer", "the owner of the building", "a witness"),
    },
}

PARTS: dict[str, dict[str, tuple[str, ...]]] = {
    "council": {
        "L": (
            "The {town} council has [approved|rejected|delayed] a plan for {plan}[ after a long debate|, "
            "ending months of argument|, the mayor's office announced on {day}|].",
            "After [three hours|a long evening] of [debate|discussion], the council of {town} voted on {day} to"
            " [accept|support|postpone] a [controversial |]proposal for {plan}.",
            "Should {town} spend money on {plan}? The town council will [decide|vote] on {day}.",
            "{plan} could soon become a reality in {town}, if the council finds the money.",
            "Plans for {plan} have divided [the people of |]{town}, and a [public |]meeting on {day} did not "
            "settle the [matter|question].",
            "[Residents|Voters] in {town} will be asked what they think about {plan} before the council makes "
            "a decision.",
        ),
        "D": (
            "The project would cost {money}, [most of which|half of which] would come from [local taxes|the state].",
            "Nobody [knows|could say] yet how long the work [will|would] take.",
            "[Supporters|Those in favor] say it would [create jobs|save money in the long run|make daily life easier].",
            "[Critics|Opponents] argue that the money should be spent on [schools|roads|the hospital|clean "
            "water] instead.",
            "A similar [plan|idea] was [dropped|turned down] {few} years ago because it was too expensive.",
            "{many} {people} signed a [petition|letter] [against|in favor of] the idea.",
            "The council also agreed to [repair|replace] the street lights on {street}.",
            "Work [could|is expected to] begin in {month}[ if the weather allows|, provided that a builder is found|].",
            "{few} members of the council [stayed away from|did not take part in] the [debate|discussion].",
            "[The meeting was|It was] the [longest|most crowded] [meeting|public meeting] that the town hall "
            "had seen [this year|for years].",
            "A detailed report will be published [online|on the town's website] next week.",
        ),
        "Q": (
            '"[We|The people of this town] have waited [long enough|for years]," {said} {first} {last}, {role}.',
            '{first} {last}, {role}, {said} that the town "cannot [afford|risk] another mistake".',
            '"I understand both sides," {said} {first} {last}, {role}, "but we have to [choose|look ahead]."',
            "According to {first} {last}, {role}, the [plan|project] has been [badly|poorly|carefully] prepared.",
            '"This is about [our children|the future|fairness]," {said} {first} {last}, {role}.',
        ),
        "R": (
            "{last} [added|went on to say] that nobody would [lose their job|have to pay more] because of the "
            "decision.",
            'Asked about the cost, {last} replied, "[Good things are never free|It will be paid back in ten years]."',
            "{she.cap} also promised to [listen to|answer] every [complaint|question].",
        ),
        "E": (
            "The next meeting will be held on {day}[ and is open to everyone|].",
            "A final decision is expected in {month}.",
            "Until then, everything stays as it is.",
            "Anyone who wants to comment can write to the town hall until the end of the month.",
        ),
    },
    "weather": {
        "L": (
            "{bad} [hit|struck|reached] {town} [on {day}|during the night|overnight], [closing roads|leaving "
            "many homes without power|causing long delays] [in the whole area|across the region].",
            "[Schools were closed|Traffic came to a stop|Hundreds of homes lost power] in {town} on {day} as {bad}"
            " [moved across|covered] the region.",
            "{town} is [recovering|cleaning up] after {bad} [on {day}|earlier this week].",
            "Drivers were [warned|told] to stay at home on {day} [because of|because the forecast promised] {bad}.",
            "Few people in {town} can remember {bad} as [bad|serious] as on {day}.",
        ),
        "D": (
            "{few} trees fell [on|across] {street}, [but nobody was hurt|and one of them damaged a parked car].",
            "[Emergency crews|Workers] [cleared|reopened] the main road [within hours|before the evening|by {day}].",
            "{some} households [spent the night|were] without electricity.",
            "The airport [canceled|delayed] {few} flights, and many passengers had to wait until the next day.",
            "Schools [remained|stayed] closed, [to the delight of many children|and lessons were held online].",
            "The town [opened|has opened] a [sports hall|warm hall] for people who could not [stay in their"
            " homes|get home].",
            "Temperatures [dropped|fell] by {few} degrees in [less than an hour|a single afternoon].",
            "Farmers [fear|are worried] that [the harvest|part of the crop] [may be|has been] lost.",
            "The roof of [the sports center|a supermarket|an old barn] was badly damaged.",
            "Although the worst is over, [some side streets|several paths in the park] are still closed.",
            "The fire service received {many} calls [in one night|within a few hours].",
        ),
        "Q": (
            '"I have never seen anything like it," {said} {first} {last}, {role}.',
            '"We were [lucky|well prepared]," {said} {first} {last}, {role}. "It could have been [much|far] worse."',
            "{first} {last}, {role}, {said} that the warning had come [just in time|too late].",
            '"[People helped each other|Everyone stayed calm], and that [made the difference|was good to '
            'see]," {said} {first} {last}, {role}.',
        ),
        "R": (
            'How long will it take to repair everything? "[Weeks rather than days|A month, perhaps]," {last} said.',
            "{last} advised people to [check|follow] the forecast before they [leave home|travel].",
            "Such weather, {she} added, is [becoming more common|rare at this time of year].",
        ),
        "E": (
            "The forecast for [the weekend|the coming days] is [better|dry and mild|more friendly].",
            "More of the same is expected on {day}.",
            "The sun should return [by|on] {day}, but the nights will stay cold.",
            "People are asked to [report|keep away from] broken power lines.",
        ),
    },
    "heat": {
        "L": (
            "{town} had its hottest day of the year on {day}, when the temperature reached {deg} degrees.",
            "[No rain|Not a drop of rain] has fallen in {town} for {few} weeks, and there is no end in sight.",
            "With {deg} degrees in the shade, {day} was the hottest day in {town} since [measurements|records] began.",
            "A heat wave [is making life hard for|has emptied the streets of] {town}.",
        ),
        "D": (
            "The public pool [sold|counted] {many} tickets, [a record|more than ever before].",
            "Residents [have been asked|are asked] not to water their [gardens|lawns] during the day.",
            "The hospital treated {some} people who had [spent too long in the sun|not drunk enough water].",
            "Shops [ran out of|sold all their] [ice|fans|ice cream|bottled water] by noon.",
            "The level of the river is the lowest [for|in] {few} years.",
            "Nobody may light a fire in the parks and forests.",
            "Schools sent the children home [early|before noon], because the classrooms were too [hot|warm].",
            "Trains ran slowly, since the heat can [bend|damage] the rails.",
            "Older people were [visited|called] by volunteers who made sure that they were well.",
            "Farmers had to bring extra water to their [cows|animals|fields].",
        ),
        "Q": (
            '"Drink water before you feel thirsty," {said} {first} {last}, {role}.',
            '"The nights are the worst part, because nobody can sleep," {said} {first} {last}, {role}.',
            "{first} {last}, {role}, {said} that children and older people were most at risk.",
        ),
        "R": (
            "{last} also warned that [a parked car|an attic room] can become dangerously hot within minutes.",
            '"We need rain, and we need it soon," {she} said.',
            "{she.cap} [suggested|recommended] [closing the curtains|staying indoors] until the evening.",
        ),
        "E": (
            "Thunderstorms may bring some relief on {day}.",
            "According to the forecast, it will stay hot until {day}.",
            "A change in the weather is not expected before the end of the week.",
        ),
    },
    "match": {
        "L": (
            "{town} [beat|defeated] {other} by {score} [on {day}|in front of {many} fans] and [moved up "
            "to|stayed in] {place} place.",
            "[A late goal|A brilliant second half|A mistake by the goalkeeper] gave {town} a "
            "{score} [win|victory] over {other} on {day}.",
            "It was cold and wet, but the fans of {town} did not mind: their {sport} team won {score} against {other}.",
            "For the first time in {few} years, {town} [has won|won] a {sport} match against {other}, and the "
            "result of {score} was deserved.",
            "Nobody expected {town} to win, yet the {sport} team beat {other} by {score} on {day}.",
        ),
        "D": (
            "The [visitors|guests] [started well|had the better start] and [hit the post|missed a good "
            "chance] [in the first few minutes|early on].",
            "The first goal came [after ten minutes|shortly before the break], when the youngest player on "
            "the field [scored from a long way out|found the corner of the net].",
            "After the break, the home side [played with more courage|took control|looked stronger].",
            "The referee had to [stop the game twice|show {few} yellow cards].",
            "The goalkeeper, who [is only eighteen|had been ill all week], [made|produced] several [fine|great] saves.",
            "Both teams [ended the game|finished] with tired legs[ and muddy shirts|].",
            "{other} [missed|wasted] a penalty [in the last minute|just before the end].",
            "One player was [taken to hospital|carried off] with a [knee|shoulder] injury.",
            "[Hundreds of|Many] fans [celebrated|sang] [in the streets|until late at night].",
            "{town} has not lost at home since {month}.",
        ),
        "Q": (
            '"I am [proud of|happy for] the team," {said} {first} {last}, {role}.',
            '"We [never gave up|kept believing], and that is why we won," {said} {first} {last}, {role}.',
            "{first} {last}, {role}, {said} that [patience|hard work|a little luck] had been the key.",
            '"It was not [pretty|our best game], but we take the points," {said} {first} {last}, {role}.',
        ),
        "R": (
            '"Now we have to stay [calm|humble]," {last} added.',
            "{last} refused to speak about [the title|the championship] and said that only the next game mattered.",
            "{she.cap} thanked the fans, who had [cheered from start to finish|made so much noise].",
        ),
        "E": (
            "The next match is on {day}[, away from home|].",
            "Next week, the team [travels to|plays against] the leaders of the league.",
            "Tickets for the final [go on sale|will be sold] on {day}.",
        ),
    },
    "race": {
        "L": (
            "{many} people took part in the {race} in {town} on {day}.",
            "The [annual|popular] {race} in {town} [attracted|drew] {many} people on {day}, [more than "
            "ever|despite the rain|and the sun was shining].",
            "Streets were closed and crowds lined {street} as {town} held its yearly {race}.",
            "A [teacher|nurse|baker|student] from {town} surprised everyone by winning the {race} on {day}.",
        ),
        "D": (
            "The youngest [starter|person at the start] was nine years old, and the oldest was eighty-one.",
            "The winner crossed the line {few} seconds ahead of the favorite.",
            "A dog ran along for a while, [much to the amusement of the crowd|which made everybody laugh].",
            "The route led [through the old town|past the castle], over two bridges and [back to|up to] {street}.",
            "The last climb was [so steep that many had to walk|harder than in other years].",
            "Volunteers handed out [water|bananas|water and fruit] along the way.",
            "{some} people gave up because of the [heat|cold wind].",
            "The event raised {money} for [a children's hospital|the new library|families in need].",
            "Last year's winner could not take part because of an injury.",
            "Every child who [finished|reached the end] was given a medal.",
            "[First-aid teams|Doctors] had little to do, apart from a few [sore feet|scratches].",
        ),
        "Q": (
            '"My legs hurt, but it was worth it," {said} {first} {last} with a smile.',
            '"The crowd carried us [up the hill|to the finish]," {said} {first} {last}, who comes from {town}.',
            "{first} {last}, who helped to organize the day, said that {she} had hardly slept [for a "
            "week|before the start].",
        ),
        "R": (
            "{last} hopes to be back next year.",
            '"Anyone can do it," {she} added. "You only need [good shoes|a plan] and some patience."',
            "{last} had [trained|prepared] for the day since {month}.",
        ),
        "E": (
            "The full results can be found on the town's website.",
            "Next year's race will take place in {month}.",
            "In the evening, everyone met for [a meal|soup and music] in the town hall.",
        ),
    },
    "market": {
        "L": (
            "The price of {good} {move} by {percent} [last week|on {day}|in {month}], [according to new figures|the"
            " statistics office reported|which surprised many experts].",
            "[Traders|Buyers] at the {town} market saw the price of {good} change [sharply|again] on {day}: "
            "it {move} by {percent}.",
            "{good} {move} by {percent} on {day}, [the biggest change for|the largest move in] {few} months.",
            "What is happening to the price of {good}? Within a single week, it {move} by {percent}.",
        ),
        "D": (
            "[Experts|Analysts] [point to|name] the weather, [higher transport costs|changes in demand] and the"
            " [exchange rate|general economy].",
            "Interest rates [remained|stayed] unchanged[, as expected|].",
            "Small [shops|companies] [feel|notice] such changes [first|more than large ones].",
            "Unemployment in the region is at [its lowest level|a low point] for {few} years.",
            "Families [have started|are beginning] to compare prices more carefully[ than before|].",
            "Sales of [cars|furniture|clothes] [hardly changed|were slightly higher] in the same period.",
            "Most [economists|experts] expect [calmer|more stable] [markets|prices] in the second half of the year.",
            "[A year ago|Twelve months ago], the situation was [quite|very] different.",
            "The average wage grew by {percent} over the past year.",
            "The government [does not plan|has no plans] to [act|step in].",
        ),
        "Q": (
            '"[It is too early|This is not the time] to [worry|panic]," {said} {first} {last}, {role}.',
            '"Prices [go up and down|never stand still]; that is [normal|how markets work]," {said} {first} '
            "{last}, {role}.",
            "{first} {last}, {role}, does not believe that the change will last.",
        ),
        "R": (
            "{last} advises [customers|people] not to buy more than they need.",
            '"Ask me again [in a month|next spring]," {she} said.',
            "In the long run, {last} explained, supply and demand will find a balance.",
        ),
        "E": (
            "New figures will be published on {day}.",
            "The next report is due in {month}.",
            "For the moment, both buyers and sellers are waiting.",
        ),
    },
    "school": {
        "L": (
            "[Pupils|Children|Students] at {town} [primary|high] school [showed|presented] the results of a"
            " {subject} project on {day}.",
            "A new {subject} room [was opened|has been opened] at the school on {street} in {town}.",
            "The school on {street} in {town} has won {money} in a national competition for its {subject} program.",
            "From {month}, every pupil in {town} will [have|take] an extra {subject} lesson each week.",
            "When the {subject} teacher retired, the school in {town} could not find a new one. Now parents have"
            " [stepped in|found a solution].",
        ),
        "D": (
            "[Parents|Former pupils] [collected|raised] {money} [by selling cakes|at a summer fair|for the equipment].",
            "{some} children [take part|are involved], and there is a waiting list.",
            "The [classes|lessons] are [free|held after school|taught in small groups].",
            "The younger children [asked|had] many questions.",
            "The school, which is one of the oldest in the region, has [recently|just] been [renovated|painted].",
            "Some parents had [feared|worried] that [there would be more homework|other subjects would suffer].",
            "Test results have [improved|gone up] for {few} years in a row.",
            "A group of pupils [built|designed] [a model|a website] that explains how the project works.",
            "Lunch is cooked at the school by [two cooks|a team of parents] every day.",
            "Last year, the school almost had to close because it had so few pupils.",
        ),
        "Q": (
            '"The children are [proud|excited], and so [am I|are we]," {said} {first} {last}, {role}.',
            '"You cannot learn everything from a book," {said} {first} {last}, {role}.',
            "{first} {last}, {role}, {said} that the pupils had done [nearly everything|most of the work] themselves.",
            '"Some of them did not want to go home," {said} {first} {last}, {role}, laughing.',
        ),
        "R": (
            '"It is good for [their confidence|shy children]," {last} added.',
            "{last} would like other schools to copy the idea.",
            "According to {last}, the real success is that [nobody was left out|everybody worked together].",
        ),
        "E": (
            "An open day for parents will be held on {day}.",
            "The project will continue until {month}.",
            "Other schools have already shown interest.",
        ),
    },
    "science": {
        "L": (
            "[Researchers|Scientists] at the University of {town} [have found|have discovered] that {find}.",
            "[A new study|A study from the University of {town}] [shows|suggests] that {find}.",
            "It sounds [too simple|almost too good] to be true: {find}, [say researchers in {town}|a new "
            "study suggests].",
            "Could it be true that {find}? Researchers in {town} [think so|say yes].",
        ),
        "D": (
            "The [study|work] took {few} years and [was paid for by the state|cost {money}].",
            "The team [repeated|checked] the [experiment|test] {few} times and got the same result.",
            "Earlier studies had [come to|reached] a different conclusion.",
            "The results were published in a [scientific|well-known] journal on {day}.",
            "Not everyone is convinced, and [some|other] scientists want to see more [evidence|data].",
            "The [idea|first hint] came [by accident|from a student], during a completely different "
            "[project|experiment].",
            "Until now, nobody [had tested|had looked into] the question [in detail|carefully].",
            "The researchers [compared|studied] {some} cases [over a long period|from {few} countries].",
            "[A larger study|Further work] is [planned|needed] before the [findings|results] can be used in "
            "daily life.",
            "Several companies have [already|recently] [asked for|shown an interest in] the results.",
        ),
        "Q": (
            '"We did not believe it at first," {said} {first} {last}, a member of the team.',
            '"This is [a small step|only the beginning]," {said} {first} {last}, {role}.',
            "{first} {last}, {role}, called the result [remarkable|surprising|encouraging].",
            '"The answer was [right in front of us|hidden in the numbers]," {said} {first} {last}, a member '
            "of the team.",
        ),
        "R": (
            'What comes next? "[More tests|More questions|A lot of work]," said {last}.',
            "{last} warned against [hoping for too much|expecting quick success].",
            '"Science is [slow|careful]," {she} said, "and that is a good thing."',
        ),
        "E": (
            "The next results are expected in {month}.",
            "A public talk about the study will be given on {day}.",
            "Whether other teams can repeat the result remains to be seen.",
        ),
    },
    "accident": {
        "L": (
            "{few} people were [slightly |]injured when {thing} [hit a wall|left the road|slid on the "
            "ice|crashed into a tree] on {street} in {town} on {day}.",
            "{street} in {town} was closed for {few} hours on {day} after [an accident involving {thing}|{thing}"
            " overturned].",
            "The driver of {thing} [escaped|walked away] without [injury|a scratch] [from|after] an accident "
            "in {town} on {day}.",
            "An accident with {thing} caused [long delays|a traffic jam] in {town} on {day}.",
        ),
        "D": (
            "It happened {time}[, when the road was wet|, when there was little traffic|].",
            "The cause is not [yet known|clear], but the police [do not think|doubt] that anyone was driving too fast.",
            "[Witnesses|People nearby] [called|phoned] for help and [gave first aid|comforted the driver].",
            "An ambulance [arrived|was there] within {few} minutes.",
            "The people nearby were badly frightened, but they stayed calm.",
            "A [street light|fence|bus stop] was [destroyed|badly damaged], and the repairs will cost about "
            "two thousand dollars.",
            "Residents have complained about the [dangerous|narrow] bend for years.",
            "The [vehicle|wreck] was [removed|taken away] [before dark|in the evening|an hour later].",
            "It was the third accident at this spot since {month}.",
            "The driver, a [man|woman] of [thirty|fifty|sixty], was wearing a seat belt.",
        ),
        "Q": (
            '"I heard a loud bang and ran outside," {said} {first} {last}, who lives nearby.',
            '"It looked [worse|much worse] than it was," {said} {first} {last}, {role}.',
            "{first} {last}, {role}, praised the [quick|calm] reaction of the people who were there.",
        ),
        "R": (
            '"Everyone should slow down here," {last} added.',
            "{last} hopes that [something will be done|a traffic light will be installed] before someone is killed.",
        ),
        "E": (
            "Anyone who saw the accident is asked to call the police.",
            "The road was opened again [in the evening|before nightfall].",
            "The council will discuss a lower speed limit next week.",
        ),
    },
    "fire": {
        "L": (
            "Fire [destroyed|damaged] {site} on {street} in {town} [on {day}|during the night].",
            "{some} firefighters [fought|battled] a fire at {site} in {town} [for {few} hours|on {day}].",
            "Smoke could be seen for miles when {site} caught fire in {town} on {day}.",
            "A [neighbor|passing cyclist|taxi driver] [raised the alarm|called for help] when flames came out "
            "of {site} in {town} on {day}.",
        ),
        "D": (
            "Nobody was [hurt|injured], [although|even though] {few} people were [inside|in the building] at the time.",
            "The fire [started|broke out] {time}[ in the kitchen| on the ground floor| in a storage room|].",
            "[A broken heater|An old cable|A candle] may have [caused|started] it.",
            "People who live nearby were told to keep their windows [closed|shut] because of the smoke.",
            "The damage [is thought to be|comes to] about {money}.",
            "A cat was [rescued|carried out] from the [first floor|roof] and given fresh water.",
            "The [building|roof] [cannot be saved|will have to be rebuilt].",
            "Strong wind made the work of the firefighters [difficult|harder].",
            "{few} fire engines from [the whole region|neighboring towns] [arrived|came to help].",
            "By the next morning, only [smoke|black walls] could be seen.",
        ),
        "Q": (
            '"We did everything we could," {said} {first} {last}, one of the firefighters.',
            '"I saw the light and thought it was the sunrise," {said} {first} {last}, who lives across the street.',
            "{first} {last}, {role}, {said} that the flames had [spread|moved] very quickly.",
        ),
        "R": (
            '"Things can be replaced," {she} added. "People cannot."',
            "{last} reminded everyone to [test|check] their smoke alarms [regularly|once a month].",
        ),
        "E": (
            "The police are [looking into|investigating] the cause.",
            "The families who lost their homes are staying with [relatives|friends].",
            "A collection for those affected has already begun.",
        ),
    },
    "festival": {
        "L": (
            "The {town} {fest} [opens|begins] on {day}, and [the organizers|its organizers] expect {many} visitors.",
            "{many} people [came to|visited] the {fest} in {town} [on {day}|over the weekend].",
            "After a break of {few} years, the {fest} [returned|is back] in {town}.",
            "Not even the rain could spoil the {fest} in {town}, which [ended|closed] on {day}.",
            "What do [a brass band|a giant cake], {some} volunteers and a very old bus have in common? They "
            "are all part of the {fest} in {town}.",
        ),
        "D": (
            "[Visitors can|Guests can] [taste|try] [local cheese|food from all over the world|home-made jam].",
            "[Musicians|Artists|Dancers] from {few} countries are [taking part|on the program].",
            "Entry is free [for children|for everyone|on the first day].",
            "{street} [is closed|stays closed] to traffic during the event.",
            "[This year's|The] theme is [the forest|friendship|light|home|travel].",
            "Children can [paint masks|ride ponies|learn to juggle|bake bread] [in the park|behind the town hall].",
            "The festival began in a [small|private] garden {few} years ago and has grown ever since.",
            "More than {few} tons of rubbish were collected last time, so plates and cups are now [washed|used again].",
            "The highlight is a [concert|parade|fireworks display] on the last evening.",
            "Local hotels are [full|booked out], and some visitors sleep in tents.",
            "A prize is given for the [strangest hat|best cake|largest pumpkin].",
        ),
        "Q": (
            '"It is the best [week|time] of the year," {said} {first} {last}, {role}.',
            '"We [could not do it|would be lost] without our volunteers," {said} {first} {last}, who runs the office.',
            "{first} {last}, {role}, {said} that the mood was [wonderful|friendly|better than ever].",
        ),
        "R": (
            '"And the weather is on our side," {last} added.',
            "{last} is already [thinking about|planning for] next year.",
            "Asked for a secret tip, {last} named the [apple pie|late concert|little puppet theater].",
        ),
        "E": (
            "The program can be found at the town hall.",
            "Tickets cost [five|eight|ten] dollars and are sold at the gate.",
            "Extra buses will run until midnight.",
        ),
    },
    "business": {
        "L": (
            "A [small|family-owned|new] {shop} in {town} will [move to a larger building|take on more workers] in "
            "{month}.",
            "After {few} difficult years, a {shop} on {street} in {town} is [hiring again|making money again].",
            "A {shop} in {town} has been named the best [employer|small business] in the region.",
            "When others closed, this {shop} stayed open. Now the business on {street} in {town} is celebrating its"
            " birthday.",
        ),
        "D": (
            "The business employs {some} people, {few} of whom are [still learning|apprentices].",
            "It was [founded|started] by two sisters with [borrowed money|a single idea].",
            "Customers [praise|like] the friendly service and the fair prices.",
            "Sales have [grown|increased] by {percent} since {month}.",
            "The owners want to invest {money} in [new machines|the building|better working conditions].",
            "Most of the [materials|goods] [come from|are made in] the region.",
            "Rents on {street} have [risen|doubled] [in recent years|over the past few years].",
            "[Online shops|Large chains] have made life hard for small companies.",
            "All employees [get|receive] the same bonus at the end of the year.",
            "An old customer lent the owners money when the bank refused.",
        ),
        "Q": (
            '"We treat every customer like a [guest|friend]," {said} {first} {last}, who works there.',
            '"There were nights when I could not sleep," {said} {first} {last}, {role}.',
            "{first} {last}, {role}, {said} that [quality|honesty|patience] was more important than [speed|size].",
        ),
        "R": (
            '"I would do it all again," {she} added.',
            "{last} does not [plan|want] to [retire|stop] [soon|yet].",
            "The biggest problem, according to {last}, is finding [skilled|young] workers.",
        ),
        "E": (
            "The doors are open every day except [Sunday|Monday].",
            "A small party for customers is planned for {day}.",
            "Three new workers will start in {month}.",
        ),
    },
    "animal": {
        "L": (
            "A {beast} [surprised|delighted] [shoppers|drivers|passengers] in {town} on {day} when it "
            "appeared on {street}.",
            "Police in {town} had an unusual task on {day}: they had to catch a {beast}.",
            "A {beast} that had been missing for {few} days has been found [in a garden|behind a supermarket] "
            "in {town}.",
            "Who has lost a {beast}? The animal was found on {street} in {town} on {day}.",
        ),
        "D": (
            "It took {some} people [and a lot of patience |]to [catch|calm] the animal.",
            "Traffic was stopped for {few} minutes[, and many drivers took pictures|].",
            "The {beast} was [hungry|tired] but [healthy|not hurt].",
            "Nobody knows how it [got there|escaped].",
            "Children [gave|have given] the animal a name[ and drew pictures of it|].",
            "At first, the police thought that the call was a joke.",
            "A video of the rescue has been watched thousands of times.",
            "The animal was [examined|checked] by a vet and [given|offered] food and water.",
            "It was not the first time that such a thing had happened in {town}.",
            "A kind voice [finally|in the end] did what ropes and nets could not[ do|].",
        ),
        "Q": (
            '"It looked at me as if I were in the wrong place," {said} {first} {last}, who lives on {street}.',
            '"Please do not try to touch [wild|frightened] animals," {said} {first} {last}, a vet.',
            "{first} {last}, who was the first to see the {beast}, [did not trust|could not believe] {her} eyes.",
        ),
        "R": (
            '"I will never forget it," {last} said.',
            "{last} has [offered|promised] to visit the animal [every week|soon].",
        ),
        "E": (
            "The {beast} is now [resting|safe] in the animal shelter.",
            "If nobody claims it, a new home will be found.",
            "The whole town hopes for a happy ending.",
        ),
    },
    "transport": {
        "L": (
            "Passengers in {town} will have to be patient: {line} [will not run|runs less often] [until "
            "{month}|for {few} weeks].",
            "{line} in {town} was more than [an hour|two hours] late on {day}, [because of a broken "
            "signal|after a power failure].",
            "From {month}, {line} in {town} will run [every ten minutes|twice as often|until midnight].",
            "A ride on {line} in {town} will become [cheaper|more expensive] in {month}.",
        ),
        "D": (
            "[Extra|Replacement] buses will leave from {street}.",
            "{many} people use the service every day.",
            "Repairs to the [track|line|bridge] are [needed|planned], and they cannot wait.",
            "A ticket [costs|will cost] [two|three|four] dollars[, and children travel free|].",
            "[Announcements|Information] at the station [could hardly be heard|came late], passengers complained.",
            "The company has [apologized|said sorry] and [promised|offered] to pay back the price of the ticket.",
            "{few} new drivers [will start soon|are being trained].",
            "Some travelers [missed|nearly missed] their flights.",
            "[Cyclists|People who walk to work] were not affected.",
            "The last large repair was carried out {few} years ago.",
        ),
        "Q": (
            '"I was late for work [again|twice this week]," {said} {first} {last}, a nurse from {town}.',
            '"We know that this is [annoying|not easy]," {said} {first} {last}, a spokesperson for the company.',
            "{first} {last}, who travels to work every day, {said} that {she} was thinking of buying a bicycle.",
        ),
        "R": (
            '"A little more information would have [helped|been enough]," {she} added.',
            "{last} expects that things will be back to normal by {month}.",
        ),
        "E": (
            "The new timetable is valid from {day}.",
            "Details are available at every station.",
            "The work should be finished in {month}, if all goes well.",
        ),
    },
    "help": {
        "L": (
            "[Volunteers|Neighbors] in {town} [meet|come together] every {day} to {cause}.",
            "{some} people [gave up|spent] their free time to {cause} in {town}.",
            "When {first} {last} decided to {cause}, {she} was alone. Today, {many} people in {town} are helping.",
            "Who would {cause} without being paid? In {town}, {many} people do[ so|].",
        ),
        "D": (
            "The group does not [have|need] an office; it meets in [a cafe|a church hall|somebody's kitchen].",
            "Local shops [give|provide] [material|food|tools] for free.",
            "Most of the helpers are [retired|young], but everyone is welcome.",
            "It all started as a small idea {few} years ago.",
            "The mayor [thanked|has thanked] the group [in a letter|with a small party].",
            "[New friendships|Even two marriages] have [grown|come] out of the work.",
            "Money is [short|always a problem], and [donations|gifts] are needed.",
            "Last year alone, the volunteers worked {many} hours.",
            "Other towns have [copied|taken up] the idea.",
            "Nobody is paid, and nobody has to stay longer than they want.",
        ),
        "Q": (
            '"It makes me happy [to see the results|when people smile]," {said} {first} {last}.',
            '"You get more back than you give," {said} {first} {last} after a long day.',
            "For {first} {last}, the reason is simple: somebody has to [begin|do it].",
        ),
        "R": (
            '"I have [learned|laughed] a lot," {she} added.',
            "{last} hopes that more young people will join.",
        ),
        "E": (
            "The next meeting is on {day} at {hour} in the morning.",
            "Anyone who wants to help can simply turn up.",
            "New helpers should bring [gloves|good humor] and a little time.",
        ),
    },
    "theft": {
        "L": (
            "Thieves [stole|took] {some} {loot} from a [building|store room|private house] on {street} in "
            "{town} [on {day}|during the night].",
            "The police in {town} [have found|found] {some} {loot} that had been stolen in {month}.",
            "{some} {loot} [disappeared|vanished] from a [school|club|warehouse] in {town} {few} weeks ago, and "
            "the police [still have no trace of them|are asking for help].",
        ),
        "D": (
            "The thieves [came|must have come] in through a [back door|small window].",
            "A camera [filmed|recorded] {few} people, but their faces [cannot be seen|were covered].",
            "The [stolen goods|{loot}] are worth about {money}.",
            "The alarm [did not ring|had been switched off].",
            "[Two men|A man and a woman] have been [arrested|questioned].",
            "A [dog|neighbor's dog] barked, but nobody [paid attention|looked outside].",
            "One of the {loot} was offered for sale online a few days later.",
            "[A reward|A small reward] of five hundred dollars has been [offered|promised].",
            "The police think that [the thieves knew the building|somebody gave them a key].",
        ),
        "Q": (
            '"They knew [exactly |]what they wanted," {said} {first} {last}, {role}.',
            '"Every [hint|piece of information] can help us," {said} {first} {last}, who leads the investigation.',
            "{first} {last}, {role}, {said} that such cases were rare in this part of the country.",
        ),
        "R": (
            "{last} is [sure|confident] that the case will be solved.",
            '"We will all lock our doors more carefully now," {she} said.',
        ),
        "E": (
            "The investigation continues.",
            "Anyone who has seen something is asked to call the police in {town}.",
            "The trial will begin in {month}.",
        ),
    },
}

ORDINAL = ("first", "second", "third", "fourth", "fifth")


def write(rng: random.Random) -> str:
    """Return one news report."""
    while True:
        kind = rng.choice(tuple(PARTS))
        woman = rng.random() < 0.5
        bound = {
            "first": rng.choice(WOMEN if woman else MEN),
            "last": rng.choice(LAST),
            "she": "she" if woman else "he",
            "her": "her" if woman else "his",
            "place": rng.choice(ORDINAL),
            "town": rng.choice(RULES["town"]),
            "street": rng.choice(RULES["street"]),
        }
        for symbol, options in FIXED[kind].items():
            bound[symbol] = expand(rng, RULES, rng.choice(options), **bound)
        text = compose(rng, RULES, deal(rng, rng.choice(SHAPES), PARTS[kind]), bound)
        if 50 <= len(text.split()) <= 220:
            return text
