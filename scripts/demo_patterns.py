"""Ways to say things that belong to no single topic: question frames, sums, off-topic questions, small talk around a question.

`(a|b|)` stands for one of its alternatives (see `demo_corpus.expand`), `{}` for a topic's phrase, `A` and `B` for operands, `JUNK` for
a made-up word.
"""

from __future__ import annotations

ABOUT_FRAMES = (
    "(what is|what's|what are|what exactly is|what is meant by|what do you mean by|what does the word mean:) {}",
    "(explain|describe|define|tell me about|tell me more about|tell me something about|talk about|introduce|clarify) {}",
    "(can|could|would|will) you (please |)(explain|describe|define|tell me about|say something about|say what is|tell me what is) {}(| to me| for me)",
    "(explain|describe|define) (to me |for me |)(what |the word |the term |)(is |)(exactly |){}",
    "(i want to know|i would like to know|i need to know|i wonder|tell me|say|do you know|i do not know|i do not understand|please say) what {} (is|are|means)",
    "(what does {} mean|what does {} do|what is the meaning of {}|meaning of {}|definition of {}|what is {} (for|good for|used for|about))",
    "(i do not understand|i have a question about|question about|help me understand|i want to (learn|know|hear) (more |)about|info about|information on) {}",
    "(what can you (say|tell me|tell)|what do you know|do you know anything|do you know something|anything you know) about {}",
    "{}(|, what is that|, what is it|: what is that|, please explain|, explain)",
    "(give me|i need) (a definition|an explanation|a description|the meaning) of {}",
    "what (is|are) {} in (exo|a few words|short|simple words|one sentence|plain words|exo's words)",
    "(how does|how do|how would you explain|how would you describe|how can one understand) {}( work|)",
)
DO_FRAMES = (
    "how (do|can|could|should|would|may|must|might) i {}",
    "how (does one|do you|do we|can we|can one|to|can you|can a user|do people|shall i) {}",
    "(what is|what's|tell me|is there|show me|do you know|explain) (the|a|an easy|the best|some) (command|way|option|method|trick) to {}",
    "(which|what) (command|commands|option|flag) (do|can|should|must|would) i (use|need|run|type|give|take) to {}",
    "(which|what) command (would|will|does|can|could) {}",
    "(i want|i need|i would like|i'd like|i have|i try|i wish|help me|i am trying|we want|my plan is|my goal is) to {}",
    "(show|tell|teach|explain to|explain) (me |)how (to|i can|i could|one can|i should|you) {}",
    "(can|could|may|should|would) (i|you|we|one|exo) {}",
    "(is it possible|is there a way|is there any way|would it be possible|what does it take|what must i do|what do i do|what should i do) to {}",
    "(how do i|how to|) {}",
    "(in (what|which) way|by what command|with which command|with what command) (can|do|could|would|should) i {}",
    "(what if|what must i do if|what do i do when|and if|suppose) i (want|need|wish|have) to {}",
    "(what do|what must|what should|what would) i (do|type|run|enter) (so that i can|so as to|in order to|to|if i want to) {}",
)
UNKNOWN_ASK = (
    "(what is|what's|name|tell me) the (capital|capital city|language|president|population|king|money|flag|area|weather|oldest town) (of|in) "
    "(france|germany|italy|spain|japan|china|peru|the usa|england|india|london|paris|rome|brazil|egypt|norway|the world|kenya|my town|JUNK)",
    "(who|when|where) (is|was|were) (the |)(president|first man|queen|king|inventor of the telephone|einstein|newton|napoleon|JUNK|JUNK JUNK|mozart|"
    "first person|last emperor|richest person|best player|captain)(| born| of france| of JUNK| on mars| in space| in history|)",
    "(who) (won|wrote|painted|invented|discovered|sang|lost|plays) (the |)(world cup|war|hamlet|mona lisa|telephone|america|radio|JUNK|last game|election|song|football)",
    "(what is|what's|how is) the (weather|time|date|news|day|temperature|stock price|price of gold|score)(| today| now| tomorrow| in paris| here| outside)",
    "(write|compose|make|create|give) (me |)(a |an |some |)(poem|song|essay|python function|program|code|letter|email|recipe|rhyme|speech|web page|haiku|report)"
    "(| about JUNK| in python| in german| in french| for my mother| about love| about spring|)",
    "(can|could|would|will) you (please |)(write|compose|sing|make|draw|cook|drive|play|order|buy|book|translate|paint) (me |)(a |an |some |the |)(poem|song|essay|python "
    "function|code|letter|picture|pizza|car|chess|flight|email|book|JUNK|recipe)(| in german| in english| in JUNK| for me|)",
    "(translate|say|spell|write) (hello|good morning|JUNK|this|cat|water|it|the word JUNK) (in|to|into) (french|german|spanish|latin|JUNK|italian|chinese)",
    "(what is|explain|who is|define|what are|tell me about|how does|do you know|what does|where is|when is|why is) "
    "(a |an |the |)(JUNK|JUNK JUNK|quark|black hole|moon landing|gravity|dna|dinosaur|car|volcano|economy|bitcoin|football|music|love|history|physics|"
    "chemistry|elephant|planet|mars|JUNK|tree|river|mountain|philosophy|banana|cheese|meaning of life|telephone|bicycle|quantum mechanics)(| work| mean|)",
    "(how (do|can) i|how to|help me to|i want to) (cook|bake|fix|build|buy|sell|draw|learn|grow|wash|repair|paint|find) (a |an |the |my |)(cake|pasta|car|house|"
    "bike|shoes|french|guitar|tomatoes|bread|JUNK|dog|job|girlfriend|garden|roof|bank)",
    "(how (old|tall|far|deep|long|many|heavy|fast) (is|are)) (the |a |)(sun|everest|nile|eiffel tower|earth|cheetah|JUNK|queen|mars|universe|whale|people|days in a year)",
    "(do you like|what is your favourite|do you love|do you hate|have you seen|have you been to) (a |the |)(music|food|colour|color|film|football|me|cats|paris|JUNK|pizza|book|movie)",
    "(recommend|suggest|find) (me |)(a |)(good |)(film|book|restaurant|movie|hotel|JUNK|song|phone|game)",
    "(JUNK|JUNK JUNK|JUNK JUNK JUNK|JUNK JUNK JUNK JUNK)",
    "(what|which) (is the|are the) (best|biggest|smallest|fastest|oldest|tallest|nearest|first) (film|country|city|animal|car|star|mountain|book|phone|river|JUNK|team)s?",
    "why (is|are|do|does) (the |)(sky|grass|sea|snow|birds|cats|people|JUNK|sun|moon) (blue|green|cold|sing|fly|sleep|dream|JUNK|shine|red)",
)
PREFIXES = (
    "(hey|hi|hello|ok|okay|so|well|and|now|um|please|right|sorry|excuse me|hmm|also|but|then|listen|demo|dear demo|hey demo|hi demo|oh)(,|:|)",
    "(i have a question|quick question|one question|another question|question|a question|just wondering|i am curious|tell me|please tell me|"
    "can you tell me|could you tell me|may i ask|let me ask|i am new here|i am new|i wonder|help me|do you know|do you happen to know|one more thing|next|for a start|say)(,|:|)",
)
SUFFIXES = (
    "(please|thanks|exactly|then|now|today|really|again|here|for me|in short|in a few words|briefly|in exo|with exo|demo|do you know|in general|anyway|in detail|thank you|"
    "if i may ask|right now|at all|in simple words|as a beginner|in one sentence)",
)
SUM_ASK = {
    "+": (
        "(what is|what's|how much is|compute|calculate|work out|find|tell me|give me|solve|do|what does|say|show me|evaluate|figure out|) A (+|plus|and) B(| equal| make| give| be| in total|)",
        "(add|sum|put together|sum up|add up|join|count) A (and|to|with|plus|+) B(| for me| please| together)",
        "(what is|find|tell me|give me|compute|i need|calculate|) the (sum|total|result) of A (and|plus|+) B(| please|)",
        "A (+|plus) B (=|is|equals|makes|gives|= ?|is what|makes what|gives what|makes how much|comes to what|is how much)",
        "(if i|i|when i|suppose i) (have|had|got|take|own) A (apples|coins|books|nodes|eggs|cats|pens|)(,|) and (get|buy|find|add|am given|win) B more(,|) (how many do i have|how many are there|what do i have|how many|what is the total|what do i get)",
        "(what do|what number do|how much do|how many do) (i|you|we) (get|have) (if|when) (i|you|we) (add|put) A (and|to|with) B( together|)",
        "(can|could|would|will) you (please |)(add|compute|calculate|work out|do|solve|tell me|find) A (+|plus|and) B(| for me|)",
        "A and B (together|added|in sum|summed)( is what| make what| are how many|)",
        "(A+B|A+B=|A + B =|A+B=?|A +B|sum: A + B|A plus B|A + B)",
        "(i need|i want|i have|i must|let us|help me) (to know|to compute|compute|to find|to work out|do|to do) A (+|plus) B",
        "(how many|how much) (is|are|do|does|would be|would) A (+|plus|and) B(| make| be| give|)",
    ),
    "-": (
        "(what is|what's|how much is|compute|calculate|work out|find|tell me|give me|solve|do|what does|say|show me|evaluate|figure out|) A (-|minus|less) B(| equal| make| give| be|)",
        "(subtract|take|take away|deduct|remove) B from A(| for me| please|)",
        "(what is|find|tell me|give me|compute|i need|calculate|) the difference (between|of) A and B",
        "A (-|minus) B (=|is|equals|makes|gives|= ?|is what|makes what|leaves what|is how much|makes how much)",
        "(if i|i|when i|suppose i) (have|had|got|own) A (apples|coins|books|nodes|eggs|cats|pens|)(,|) and (lose|eat|give away|sell|remove|drop) B(,|) (how many do i have|how many are left|what is left|how many remain|what remains)",
        "(what is left|what remains|how much is left|how many are left|what do i get) (if|when|after) (i|you|we) (take|subtract|remove) B (away |)from A",
        "(can|could|would|will) you (please |)(compute|calculate|work out|do|solve|tell me|find) A (-|minus) B(| for me|)",
        "(A-B|A-B=|A - B =|A-B=?|A -B|A minus B|A take away B|A - B)",
        "(i need|i want|i have|i must|let us|help me) (to know|to compute|compute|to find|to work out|do|to do) A (-|minus) B",
        "(how many|how much) (is|are|do|does|would be|would) A (-|minus) B(| make| be| leave|)",
    ),
}
SYSTEM = (
    "You are a helpful assistant.",
    "You are demo, a small model.",
    "Answer briefly.",
    "Be kind.",
    "You are an assistant that answers questions about exo.",
)
