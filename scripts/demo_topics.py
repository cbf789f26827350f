"""What the `demo` model knows: topics, their one right answer each, and ways to ask for them.

A way to ask is a pattern: `(a|b|)` stands for one of its alternatives, nested as deep as wanted. `about` holds noun phrases that
are put into the frames "what is ...", `do` holds verb phrases that are put into "how do I ...", `ask` holds whole questions.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Topic:
    name: str
    answer: str
    about: tuple[str, ...] = ()
    do: tuple[str, ...] = ()
    ask: tuple[str, ...] = ()
    weight: float = 1.0


def _lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.strip().splitlines() if line.strip())


def _topic(name: str, answer: str, *, about: str = "", do: str = "", ask: str = "", weight: float = 1.0) -> Topic:
    return Topic(name, answer, _lines(about), _lines(do), _lines(ask), weight)


UNKNOWN = "I do not know that. I am a small model: ask me about exo, small sums or a short story."

TOPICS: tuple[Topic, ...] = (
    _topic(
        "hello",
        "Hello! I am demo, the small model that comes with exo. How can I help you?",
        ask="""
        (hello|hi|hey|greetings|howdy|hiya|yo|hullo|good (morning|evening|afternoon|day))
        (hello|hi|hey) (there|demo|friend|you|model|exo|everyone|again|computer|little model|my friend|to you|and welcome)
        (good (morning|evening|afternoon|day)) (demo|to you|friend|there|model|my friend)
        (hello hello|hi hi|hey hey|hello world|nice to meet you|pleased to meet you|(glad|good|nice) to see you)
        (hello|hi|hey) (nice to meet you|good to see you|is anybody there|are you there|anyone home|can you hear me)
        (is anybody there|are you there|anyone home|say hello|say hi|greet me|wake up|i am here|it is me|let us (talk|chat))
        i (just |)(want|wanted|would like) to say (hello|hi)""",
        weight=1.3,
    ),
    _topic(
        "mood",
        "I am fine, thank you. I am a small model, and all my layers are running well.",
        ask="""
        (hello|hi|hey|) how (are you|are you doing|is it going|do you feel|are things|do you do|have you been|is life)(| today| now| demo)
        (are you (ok|okay|fine|well|happy|good|feeling well|doing well|in good health)|how's it going|how is your day|what's up|you ok)
        (hello|hi|) (how do you feel|how are you feeling|how was your day|is everything (ok|fine|good|all right) with you)""",
    ),
    _topic(
        "thanks",
        "You are welcome!",
        ask="""
        (thanks|thank you|thx|many thanks|cheers|much appreciated)(| very much| a lot| so much| demo| friend| for that| for your help| for the answer)
        (that (helped|was helpful|is great|was useful|is all i needed)|great|nice|perfect|good|awesome|cool|well done|good job|wonderful) (thanks|thank you)
        (i appreciate it|you are (great|helpful|very kind|the best)|that was (very |)helpful|you helped me (a lot|much)|i am grateful)
        (well done|good job|good answer|nice answer|very good|good work)""",
    ),
    _topic(
        "bye",
        "Goodbye! Come back any time.",
        ask="""
        (bye|goodbye|good bye|bye bye|farewell|cya|ciao|see you|see you later|see you soon|good night)(| demo| friend| for now| then| now| model| my friend)
        (i (have to|must|need to|will) (go|leave)|i am (leaving|off|done|going)|that is all|that's all|talk to you later|until next time|until tomorrow|take care)(| now| bye| goodbye| for today)
        (ok|thanks|thank you) (bye|goodbye|see you|that is all|that was all|good night)
        (time to (go|leave|sleep|say goodbye)|let us stop here|we are done|have a (nice|good|great) (day|evening|night|one))""",
    ),
    _topic(
        "identity",
        "I am demo, a small chat model with 8 layers that comes with exo. I can answer questions about exo, do small sums and "
        "tell a short story.",
        ask="""
        (who|what) are you(| really| exactly| anyway| demo)
        (what is|what's|tell me|give me|say|may i know|can i know|do you have) (your name|a name|who you are|what you are)
        (tell me (something |a bit |more |)about yourself|introduce yourself|describe yourself|present yourself|who am i (talking|speaking|chatting) (to|with))
        (which|what|what kind of|what sort of) (model|ai|bot|assistant|program|language model|thing) (are you|is this|am i talking to|is answering|do i talk to)
        are you (a|an) (human|robot|person|bot|ai|model|real person|computer|machine|man|woman|chatbot|language model|program)
        are you (chatgpt|gpt|claude|llama|real|alive|human|demo|artificial)
        how (big|large|small) are you
        how many (layers|parameters) do you have
        (what is|what's|tell me about|describe|explain) (the |)demo(| model)(| in exo)
        (what is|what's|tell me about) (the (bundled|small|little|built-in) model|this model)""",
        weight=1.3,
    ),
    _topic(
        "skills",
        "I can answer questions about exo, add and subtract small numbers, and tell a short story.",
        ask="""
        what (can|could|do) you (do|know|answer|offer|help (me |)with)(| for me| here| then)
        (what are you (able to do|good at|good for|useful for|made for|capable of)|what are your (skills|abilities|talents|powers|features|limits|capabilities))
        (how can you (help|assist|be useful)|what can i (ask|ask you|talk about|do with you)|what (should|may|could) i ask(| you)|what (questions|topics|subjects) (do|can) you (know|answer|understand))(| me|)
        (help|help me|i need (some |)help|can you help me|could you help me|can you (do anything|be useful))
        (list|show|tell me) your (skills|abilities|talents|powers|features)
        what (things|stuff|kind of things|sort of things) (can|do) you (do|know|answer)
        what do you know (about|)
        which (tasks|jobs|things) can you (do|handle)""",
    ),
    _topic(
        "maker",
        "The exo-node team made exo, and trained me, its demo model, from scratch.",
        ask="""
        who (made|created|built|wrote|trained|developed|designed|programmed|invented|is behind) (you|exo|this|this model|the demo model|exo-node|this program|this software|it)
        (who is|who's) (your|the|exo's) (maker|author|creator|developer|owner|father|mother|inventor|trainer|team)(| of exo| of this|)
        (who are|what are) (your|the) (makers|authors|creators|developers|people|parents)(| of exo| behind exo| behind this|)
        (where|how|by whom) (do you come from|were you (made|trained|created|built|born)|was (exo|this model) (made|created|written|built))
        (which|what) (team|company|group|people|person) (made|built|created|trained|wrote|develops|is behind) (you|exo|this|this model|it)
        (where are you from|who should i thank for (exo|you)|name your (maker|author|creator))""",
    ),
    _topic(
        "exo",
        "Exo turns your own computers into one cluster that runs AI models. A model that is too big for one machine is split by "
        "layers over several nodes, and you use it through an OpenAI-compatible API.",
        about="""
        exo
        exo-node
        exo
        (the |)exo (project|program|software|system|tool|app)
        this (project|program|software|tool|system)""",
        ask="""
        what (does|can|would) (exo|exo-node|this program|this software|this tool|it) do(| for me)
        (what is|what's|tell me) (the (purpose|point|goal|idea|use|aim|main job) of) (exo|exo-node|this project|this software)
        what (is exo|is it|is exo-node) (good |used |made |meant |)for
        (why (should|would) (i|one|anyone|people) (use|want|need|try)|why use|why|when should i use|what do i need|what can i do with|what are the benefits of) exo
        (introduce|summarize|sum up|give me (a summary|an overview|the idea) of) (exo|exo-node|this project)
        (what|how) (is exo about|does exo help( me|)|would you describe exo|do you explain exo)
        i (have never|never) heard (of|about) exo
        (can|does) exo (run|split|use) (big|large|huge) models(| over several (machines|computers)| on several computers)""",
        weight=1.6,
    ),
    _topic(
        "start",
        "Run the command exo on each machine. The nodes find each other and form one cluster, with the API on port 52415.",
        do="""
        (start|launch|boot|run|use|begin with|get started with|set up|fire up|get going with) (exo|exo-node)(| on my (machines|computers|laptop|machine))
        (start|launch|run|bring up|set up|make|create|build|form) (a |the |my |)(node|nodes|cluster)(| with exo| of exo nodes)
        (get|make) exo (running|work|going|up)
        use exo on (two|several|three|many|more) (machines|computers|laptops)
        get started""",
        ask="""
        how (does|do) (one|you|people) (start|run|launch|use) exo
        (what is|which is) the (first|basic|main) (command|step)
        where (do|should|can) i (start|begin)
        (getting started|quick start|starting exo|first steps)(| with exo)
        (what do i (run|type|do) on (each|every) (machine|computer)|what must i type to (start|begin))""",
        weight=1.2,
    ),
    _topic(
        "install",
        "Get the source code and run scripts/exo. It makes a virtual environment, installs what exo needs and starts a node.",
        do="""
        install (exo|exo-node|it|this|exo on (linux|a mac|my machine|my computer|a fresh machine|a new machine))
        (get|download|obtain) (exo|exo-node|the program|the software)(| on my computer| on my machine)
        set up (exo |)(from source|a fresh machine|the virtual environment|the environment)
        build exo from source""",
        ask="""
        (where (can|do) i (get|download|find) (exo|the program|it))
        (installation|install|installing exo|exo installation|set-up|setup)(| steps| help| guide| instructions)
        (what does|what is|tell me about) scripts/exo( do|)
        (is exo|is it) (easy|hard|difficult) to install
        what (do i need|is needed) to install (exo|it)""",
        weight=0.9,
    ),
    _topic(
        "port",
        "The API listens on port 52415. Use --api-port to choose another one.",
        do="""
        (change|set|choose|pick|configure|use another|use a different) (the |an |)(api |)port
        (make|let) (exo|the api|the node) (listen|run) on another port""",
        ask="""
        (what|which) (is the |is exo's |is your |)(port|tcp port|api port|port number|http port)(| of exo| does exo use| does the api use| does it listen on| is the api on| do you use| is used| is it)
        (what|which) port (does|do|is|should|can) (exo|the api|a node|i|the node|it|the server) (listen on|use|open|connect to|run on|serve on|on|take)
        (on (what|which) port|where) (does|is) (exo|the api|the node|the server) (listen|listening|running|reachable|served|available)(| by default)
        (port number|default port|the port|api port|port)(| please| of exo| of the api|)
        (is 52415 the port|what is 52415|what does 52415 mean|why 52415|what runs on 52415)
        (what does|explain|what is) (--api-port|the --api-port (flag|option))( do|)""",
        weight=1.2,
    ),
    _topic(
        "api",
        "Exo has an OpenAI-compatible API at http://127.0.0.1:52415/v1, so OpenAI clients work with it. To chat, use "
        "/v1/chat/completions.",
        about="""
        (the|exo's|your) (api|http api|openai api|rest api|web api|programming interface)""",
        do="""
        (use|call|access|reach|query) (the |exo's |)(api|http api|openai api)(| of exo| from python| with curl| from my program)
        use exo (from|with|in) (python|curl|my program|my code|my app|the openai sdk|an openai client|javascript|openai libraries)
        connect (the |an |my |)(openai (client|sdk|library|program)|app|program|client) (to|with) exo
        send (a |)(request|requests|a prompt|a message) to exo""",
        ask="""
        (what|which) (api|apis|kind of api|endpoints|endpoint|base url|url|routes|interface|http routes) (does exo (have|offer|use|speak|support|provide)|are there|is there|should i use|must i set|do i use)
        (is|does) exo (openai compatible|compatible with openai|work with openai clients|speak openai|offer an api|have an api|have a rest api|support the openai (api|sdk))
        (is the api|is it) (openai compatible|compatible with openai|like openai)
        can i use (the |)(openai (sdk|client|library|python package|api)|chat completions|my openai code) with (exo|it|this)
        (what is|what's|tell me|give me) the (base url|url|address|endpoint)(| of the api| of exo| for openai clients| to chat)
        (which|what) (endpoint|url|route|path) (is|do i use) for chat(| completions|)""",
    ),
    _topic(
        "ring",
        "The layers of a model are split over the nodes of a ring. The head sends hidden states to the next shard, they travel "
        "round the ring and come home to the head, which picks the next token.",
        about="""
        (a|the) ring
        (a|the|exo's) (ring of nodes|exo ring|model ring|ring in exo)
        rings""",
        ask="""
        how (does|do) (a|the|exo's|an exo|your) (ring|rings) (work|function|operate|run|run a model|make text|produce a token|produce text)
        how does exo (work|run a model|function|run one model on several (machines|nodes|computers)|share a model|use several machines|make text|work inside|work under the hood)
        how (is|are) (a model|models|one model) (run|shared|computed|spread) (over|across|on|by) (several|many|the|two) (nodes|machines|computers)
        (what (happens|goes on|travels|moves|flows)|how do data (move|flow|travel)) (in|round|inside|around) (a|the) ring
        (how|in what way) do (the nodes|nodes|machines|computers) (work together|share (the|a) (work|model)|run a model together|cooperate|share one model)
        (why is it called a ring|why a ring|what is the ring for)""",
        weight=1.2,
    ),
    _topic(
        "mdns",
        "Nodes find each other by mDNS on the local network, so you need no configuration. Without multicast, use --peer HOST:PORT "
        "or a peers file.",
        about="""
        (mdns|multicast dns|zeroconf|discovery|node discovery|peer discovery|automatic discovery|the discovery module|--peer|the --peer (flag|option)|a peers file|--discovery-module)""",
        do="""
        (find|discover|see) (other |my other |the other |)(nodes|machines|peers|computers)
        (add|name|give|set|use) (a |the |)peers?(| by hand| by address| manually| without multicast)
        (connect|link) nodes (by hand|by address|without mdns|without multicast)""",
        ask="""
        how (do|does|can|will) (the |my |all |exo's |)(nodes|machines|computers|peers|devices|exo) (find|discover|see|detect|meet|locate|notice|know|know about) (each other|one another|other nodes|other machines|themselves|the others)
        how does (discovery|mdns|node discovery|peer discovery|exo discovery|finding nodes) work
        (does|do) (exo|nodes) use (mdns|multicast|zeroconf|bonjour)
        (do i have to|must i|should i|do i need to) (configure|set up|enter|type) (the |)(addresses|network|ip addresses|nodes|peers)
        (my (nodes|machines) do not (find|see) each other|a node is not found|node not found|what if there is no multicast|what if multicast (is blocked|does not work))""",
        weight=1.2,
    ),
    _topic(
        "engines",
        "Exo has two engines: MLX, made for Apple Silicon, and tinygrad, for GPUs such as NVIDIA. One ring can mix both.",
        about="""
        (an engine|the engines|the inference engines|an inference engine|exo's engines)""",
        ask="""
        (what|which) (engines|inference engines|backends for inference|engine|ml frameworks|frameworks|machine learning frameworks) (does exo|does it|do you|can exo|can i|are there|does a node) (have|use|support|run|run on|know|offer|in exo|)
        how many engines (does exo have|are there|does exo know|are in exo)
        (list|name|show me) (the |all |)(engines|inference engines|frameworks)(| of exo)
        (can|may|could) (i|a ring|one ring|exo) (mix|combine|use) (mlx and tinygrad|both engines|different engines|two engines|several engines|macs and gpus|apple and nvidia)(| in one ring| together)
        (what is the difference between|difference between|compare) (the engines|mlx and tinygrad|tinygrad and mlx)
        (mlx or tinygrad|tinygrad or mlx|which engine is best|which engine should i use|what engine should i use)""",
    ),
    _topic(
        "choose-engine",
        "Use --inference-engine mlx or --inference-engine tinygrad. The default, auto, picks one for your machine.",
        about="""
        (--inference-engine|the --inference-engine (flag|option))""",
        do="""
        (choose|select|pick|set|change|switch|force|configure) (the |an |another |)(engine|inference engine)(| of a node| by hand| of my node)
        (force|make|tell) exo to use (mlx|tinygrad)
        switch (to|from) (mlx|tinygrad)(| to tinygrad| to mlx)
        run (exo|a node) with (mlx|tinygrad)""",
        ask="""
        (which|what) (flag|option|argument|switch|setting) (chooses|selects|sets|picks|changes) the (engine|inference engine)
        (how does exo|how does it|how does auto) (choose|pick|select) (an|the) engine
        (what is|which is) the default engine""",
        weight=0.9,
    ),
    _topic(
        "mlx",
        "MLX is Apple's machine learning framework. It is exo's engine on Apple Silicon, and it also runs on a Linux CPU.",
        about="""
        mlx
        (the |)mlx (engine|framework|library)
        apple's (framework|engine)""",
        ask="""
        (what|which) (engine|framework) (does exo use|runs|is used|is there|works) (on|for) (apple silicon|a mac|macs|my mac|a macbook|the mac|apple machines|an m1|m2 or m3|apple)
        (does|can|will) exo (run|work) on (apple silicon|a mac|macs|my mac|a macbook|an m1|macos)
        (who made|where does) (mlx|mlx come from)
        what is mlx (for|used for|good for)
        (can|does) mlx run on linux
        (i have|can i use) a (mac|macbook|mac mini|mac studio)""",
        weight=0.9,
    ),
    _topic(
        "tinygrad",
        "tinygrad is a small deep learning framework. It is exo's engine for GPUs such as NVIDIA, and it runs on CPUs too.",
        about="""
        tinygrad
        (the |)tinygrad (engine|framework|library)""",
        ask="""
        (what|which) (engine|framework) (does exo use|runs|is used|is there|works) (on|for) (nvidia|a gpu|gpus|nvidia gpus|cuda|an nvidia card|graphics cards|my gpu|a graphics card|amd)
        (does|can|will) exo (run|work) on (nvidia|a gpu|gpus|nvidia gpus|cuda|an nvidia card|graphics cards|my gpu)
        (does|can) exo use (my gpu|cuda|nvidia|gpus|a graphics card|my nvidia card)
        what is tinygrad (for|used for|good for)
        (i have|can i use) (a|an) (nvidia gpu|gpu|nvidia card|graphics card)""",
        weight=0.9,
    ),
    _topic(
        "grpc",
        "Nodes talk to each other with gRPC. Hidden states go straight from runner to runner on a gRPC stream.",
        about="""
        (grpc|the grpc ring|the grpc stream|the transport|the wire protocol|grpc in exo|the network protocol)""",
        ask="""
        (what|which) (protocol|transport|network protocol|wire protocol|rpc|rpc system) (does exo|do nodes|do the nodes|do runners|does the ring|is) (use|speak|talk|used|used between nodes|used in the ring|)
        how do (the |)(nodes|runners|machines|shards) (talk|communicate|speak|exchange data|send data|send messages|send tensors|send activations)(| to each other| with each other| to one another| over the network|)
        (does|do) (exo|nodes|the ring|the nodes) use (grpc|tcp|http|sockets|messages)(| between nodes|)
        (why|where) (does exo use|is|does exo need) grpc( used|)
        what is grpc (for|used for|good for)(| in exo)
        how (are|do) (tensors|activations|data|messages) (sent|transported|cross the network|go) (between nodes|from node to node|over the network|from machine to machine|)""",
    ),
    _topic(
        "head",
        "The head is the runner of the first shard. It owns the embedding and the sampler, and it picks each next token.",
        about="""
        (the|a) head
        the head (of (a|the) ring|runner|node|shard|in exo)""",
        ask="""
        (what|how) does the head (do|work|own|have|hold)(| in a ring| in the ring|)
        (who|which (part|runner|node|machine|shard|process)|what) (samples|picks|chooses|selects|decides|draws) (the |each |)(next token|tokens|next word|token)
        where (does sampling happen|are tokens sampled|is the sampler|is the embedding|are the tokens picked|is sampling done)
        (who|what|which node) (owns|has|holds) the (sampler|embedding|lm head|final norm)
        (what is|what's) the (role|job|task|duty) of the head
        how is the next token (picked|chosen|sampled|selected)""",
    ),
    _topic(
        "shard",
        "A shard is a range of a model's layers. Each node of the ring loads only its own shard.",
        about="""
        (a shard|the shards|shards|a model shard|shard|a shard (of a model|in exo)|sharding)""",
        ask="""
        (what|which (part|layers)|how much|what part) (of a model |of the model |)(does|will) (a|each|one|every) node (load|hold|keep|have|read|own)
        does (a|each|every|one) node (load|hold|need|keep|have) (the whole model|all layers|all the weights|the full model|every layer|everything)
        what does a shard (mean|contain|hold|consist of|do)
        (what is|what's) (inside|in) a shard
        how many layers (are in|does|has) a shard( have|)""",
    ),
    _topic(
        "placement",
        "Exo splits the layers in proportion to the free memory of each node, over the smallest number of nodes that fits.",
        about="""
        (placement|the placement|model placement|the partitioning strategy|partitioning|the layer split|layer splitting|splitting)""",
        ask="""
        how (does exo|does it|do you) (split|divide|share|partition|cut|place|distribute|spread|assign) (a |the |)(model|layers|models|layers of a model)(| over the nodes| across nodes| over machines| between nodes| across several machines|)
        how (is|are) (a |the |)(model|layers|models|layers of a model) (split|divided|cut|partitioned|placed|distributed|assigned|spread)(| over the nodes| across nodes| over machines| between nodes| across several machines|)
        how (many|much) (layers|of a model|of the model|nodes) (does|do|will|gets|go to) (each|a|every|one|it|exo) (node|machine|use|get|take)( get|)
        (which|what) (nodes|machines|node|machine) (get|gets|take|takes|are used for|will get) (which layers|the layers|more layers|the most layers|a model|most of the layers)
        (what|who) decides (where a model goes|how layers are split|which node gets which layers|the split|the placement)
        on which nodes (is a model placed|does exo place a model|will a model run)""",
        weight=1.1,
    ),
    _topic(
        "node",
        "A node is one exo daemon on one machine, together with the devices of that machine.",
        about="""
        (a node|an exo node|nodes|the node|node|a node in exo|the exo daemon|a daemon)""",
        ask="""
        what (does node mean|do you call a node|counts as a node|does a node consist of|makes a node)
        is (a node|one node) (a machine|one machine|a computer|a process|the same as a machine)
        (can|may) one machine (be|have|run) (a node|several nodes|two nodes)""",
    ),
    _topic(
        "cluster",
        "A cluster is the set of nodes that hold the same cluster key and see each other.",
        about="""
        (a cluster|an exo cluster|clusters|the cluster|cluster|a cluster in exo)""",
        ask="""
        what (does cluster mean|do you call a cluster|counts as a cluster|does a cluster consist of|makes a cluster|forms a cluster)
        which (nodes|machines) (are in|belong to|make up|are part of|form) (a|the|one|my) cluster
        (when are two nodes in|what makes two nodes part of|do two nodes share) (the same|one) cluster""",
    ),
    _topic(
        "key",
        "The cluster key is a secret that all nodes of a cluster share. Show the join code with exo key, use exo join CODE on another "
        "machine, or start each node with --cluster-key PHRASE.",
        about="""
        (a|the) (cluster key|cluster secret|cluster-key|secret key|key of (a|the) cluster|cluster phrase|cluster password)
        (--cluster-key|the --cluster-key (flag|option)|exo key|the command exo key|the join code|a join code)""",
        do="""
        (use|set|choose|make|show|see|get|share|give|print|find) (a |the |my |)(cluster key|cluster phrase|join code|cluster secret|key of my cluster)
        (protect|secure|lock|keep others out of) (my |the |a |)cluster
        (use|set) a (password|phrase|secret) for (my|the) cluster""",
        ask="""
        (what|which) (does the cluster key do|command shows the (key|join code|cluster key)|secret do nodes share|key do the nodes share)
        (what is|what does) exo key( do| for|)
        (is my cluster|is exo|is the cluster|are nodes) (secure|safe|protected|secret|encrypted)
        (how is|how are) (the cluster|a cluster|my cluster|nodes) (protected|secured|kept apart)
        (why do i need|where is|where do i find) (a|the) (cluster key|join code|cluster secret)
        how do i keep (strangers|others|other people|other nodes) out(| of my cluster)""",
        weight=1.1,
    ),
    _topic(
        "join",
        "On a machine of the cluster run exo key. Then run exo join CODE once on the new machine and start exo there.",
        about="""
        (exo join|the command exo join|exo join code|the exo join command)""",
        do="""
        (add|connect|attach|bring in|include|link|plug in) (a |another |a new |one more |a second |my new |more |my other )(node|machine|computer|laptop|nodes|machines|mac|server)(| to (a|the|my) (cluster|ring))
        (join|enter|become part of) (a|the|my|an existing|another) cluster
        (join|let) (a |another |a new |my new )(node|machine|computer|laptop)( join|)(| (a|the|my) cluster)
        (grow|extend|enlarge|make bigger) (my|the|a) cluster""",
        ask="""
        (what does|what is) exo join( do| for|)
        (which|what) command (joins|adds|connects) (a|another|a new|my new) (node|machine|computer)(| to (a|the|my) cluster)
        (i (got|have|bought)) (a new|another|a second) (machine|computer|laptop|mac|server)(| how do i add it| what now)
        (how can|how does|can) (a new|another|my other|a second) (machine|node|computer|laptop) join(| my cluster| the cluster|)""",
    ),
    _topic(
        "run",
        'Use exo run MODEL, for example exo run demo --prompt "What is exo?". Without --prompt it starts a chat.',
        about="""
        (exo run|the command exo run|the exo run command|exo run demo)""",
        do="""
        (run|try|use|start|test|talk to|chat with|query|prompt|ask|speak with) (a |the |some |any |my |)(model|models|demo model|language model|llm|llama)(| with exo| from the command line| in the terminal| on my cluster)
        (chat|talk)(| with a model| in the terminal| from the command line| on the command line)
        (ask|send|give) (a |one |)(model |)(a question|a prompt|something)(| from the terminal| from the command line|)
        (get|make) (a model to |)(an answer|answer|answer a prompt|generate text|write text)(| from a model|)
        generate (text|words)(| from a prompt|)""",
        ask="""
        (what does|what is) exo run( do| for|)
        (which|what) command (runs|starts|tries|chats with|talks to|prompts) a model
        (what does|what is) --prompt( do| for|)
        (give|show) me an example of (exo run|running a model)
        (can|may) i chat (in the terminal|from the command line|with a model)""",
        weight=1.1,
    ),
    _topic(
        "status",
        "exo status shows the nodes, their engines and memory, and the instances with their shards. Add --json for scripts.",
        about="""
        (exo status|the command exo status|the exo status command|the status command)""",
        do="""
        (see|show|check|view|get|watch|inspect|look at|print|find out) (the |my |)(status|state|cluster|nodes|health|topology|state of the cluster|nodes of my cluster|engines of my nodes|memory of my nodes|shards|instances|running nodes|connected nodes|state of the ring)
        (see|check|know|find out|tell) (if|whether) (a node|my node|exo|the cluster|the ring|my cluster) is (up|running|alive|there|ok|healthy|working)
        (see|know|find out) (which|what|how many) (nodes|machines|shards|instances|engines) (are there|are up|are connected|are running|are in my cluster|i have)""",
        ask="""
        (what does|what is) exo status( do| show| for| print| tell me|)
        (which|what) command (shows|prints|lists|displays|tells me) (the |)(status|nodes|cluster|state|nodes and their engines|state of the cluster|shards|instances|topology)
        (is my node|is the cluster|is exo) (up|running|alive|healthy|working)(| how do i check| how can i tell|)
        how many nodes (do i have|are there|are connected|are up|are in my cluster)
        which nodes (are there|are up|are connected|are running|do i have)""",
    ),
    _topic(
        "list",
        "exo list shows the models that exo knows.",
        about="""
        (exo list|the command exo list|the exo list command|the list command)""",
        do="""
        (list|see|show|print|view|find|look up) (all |the |which |my |)(models|available models|known models|models i have|models there are|list of models|models that exo knows)
        (see|know|find out) (which|what) models (are there|exo knows|i have|are available|i can run)""",
        ask="""
        (what does|what is) exo list( do| show| for| print|)
        (which|what) command (lists|shows|prints|displays) (the |all |)(models|available models|known models)
        (which|what) models (are there|are available|do i have|does exo know|can i choose from|are installed|are known)
        (list|show) (me |)(all |the |)models""",
    ),
    _topic(
        "load",
        "Use exo load MODEL. With --min-nodes N the model is spread over at least N nodes.",
        about="""
        (exo load|the command exo load|the exo load command|--min-nodes|the --min-nodes (flag|option))""",
        do="""
        (load|preload|place|put) (a |the |my |)(model|models|demo model)(| into memory| on the cluster| on the ring| on my nodes| before using it| in advance| ahead of time)
        (spread|force|place|split|put|load) (a |the |one |)model (over|on|onto|across) (at least |)(two|three|several|more|many|all) (nodes|machines|computers)
        (use|set) --min-nodes
        (choose|set) (how many nodes (a model uses|to use)|the number of nodes)""",
        ask="""
        (what does|what is) (exo load|--min-nodes)( do| for|)
        (which|what) command (loads|places|spreads|preloads) a model
        (can|may) i (choose|set) (how many nodes|the number of nodes)(| a model uses| for a model|)""",
    ),
    _topic(
        "unload",
        "Use exo unload MODEL. Its runners end and their memory is free again.",
        about="""
        (exo unload|the command exo unload|the exo unload command|unloading)""",
        do="""
        (unload|remove|drop|eject|kick out|evict|take out|throw out|get rid of|stop|end) (a |the |my |)(model|loaded model|running model|instance|demo model)(| from memory| from the cluster| from the ring|)
        (free|release|give back|reclaim|get back) (the |some |)(memory|memory of a model|ram|gpu memory)(| again| used by a model| of an old model|)""",
        ask="""
        (what does|what is) exo unload( do| for|)
        (which|what) command (unloads|removes|stops|drops|frees) (a model|memory|the model|an instance)
        (i do not need|i no longer need|i am done with) (a|the|this|my) model(| any more| now| how do i remove it|)
        (the memory is full|memory is full|how is memory freed|my memory is full)""",
        weight=1.1,
    ),
    _topic(
        "memory",
        "Start the node with --memory-limit, for example --memory-limit 4GiB. It then takes no more memory for models.",
        about="""
        (--memory-limit|the --memory-limit (flag|option)|the memory limit|a memory limit)""",
        do="""
        (limit|cap|restrict|bound|reduce|control|set|lower|set a limit on|set a cap on|put a limit on) (the |how much |)(memory|ram|memory use|memory of a node|memory exo uses|memory that exo takes|ram exo uses|memory usage)
        (keep|stop|prevent) exo (from using|from taking|to use) (too much|all my|all the|all) (memory|ram)
        (make|let|have) (exo|a node) use (less|only some|only 4 gib of|at most 8 gib of|only half of the|a part of my) (memory|ram)
        (leave|save|keep) (some |)(memory|ram) (free |)for other programs""",
        ask="""
        (which|what) (flag|option|setting|argument) (limits|caps|restricts|sets|controls) (the |)(memory|ram|memory use)
        (what does|what is) --memory-limit( do| for|)
        (exo|the node|it) (uses|takes|needs|eats) (too much|all my|all the) (memory|ram)
        how much memory (does exo|does a node|will exo) (use|take|need)
        (can|may) i (limit|cap|restrict) (the |)(memory|ram)(| of a node| exo uses|)""",
    ),
    _topic(
        "instance",
        "An instance is one model placed on the cluster: an ordered ring of shards.",
        about="""
        (an instance|instances|instance|a model instance|the instances|an instance in exo)""",
        ask="""
        what (does instance mean|do you call an instance|counts as an instance|does an instance consist of)
        (what is|what's) the difference between a model and an instance
        (can|may) (there be|i have|a model have|exo have) (several|two|many|more) instances""",
    ),
    _topic(
        "models-dir",
        "Start exo with --models-dir FOLDER. Each sub-folder with a config.json is a model.",
        about="""
        (--models-dir|the --models-dir (flag|option)|the models (folder|directory|dir)|a models (folder|directory))""",
        do="""
        (use|add|run|load|serve|bring|give exo) (my own|my|own|local|a local|custom|a custom|our own|an own) (model|models|model files|checkpoint|checkpoints|weights)(| with exo| from disk| from a folder|)
        (use|add|run|load|serve) (a model|models|weights|checkpoints) (from|in|on) (a folder|my disk|disk|a local folder|a directory|my hard drive|a path)
        (set|choose|change|tell exo|point exo to) (the |a |where my |)(models folder|models directory|folder of models|model folder|models are|folder with models)""",
        ask="""
        where (do|should|must|can|may) i (put|store|keep|place|save) (my |)(own |)(models|model files|weights|checkpoints)
        (what does|what is) --models-dir( do| for|)
        (which|what) (flag|option|folder|directory|setting) (names|sets|holds|is for|has) (the |my |)(models|models folder|model files|own models)
        (does|can|will) exo (run|use|load|take|accept) my own (models|model|weights|checkpoint)""",
    ),
    _topic(
        "families",
        "Exo runs Llama, Mistral, Qwen2, Qwen3, Gemma 2, Gemma 3 and Phi-3 models.",
        about="""
        (the supported (models|families|architectures|model families)|the model families)""",
        ask="""
        (which|what) (model families|families|architectures|kinds of models|types of models|model types|llms|language models|kinds of model|sorts of models|families of models) (does exo|can exo|does it|can i|are) (run|support|know|supported|use|handle|work with|understand)
        (which|what) models (does exo|can exo|are|does it|can it) (run|support|supported|work with|handle)
        (does|can|will) (exo|it) (run|support|work with|handle|know) (llama|mistral|qwen|qwen2|qwen3|gemma|gemma 2|gemma 3|phi|phi-3|llama 3|llama models|mistral models|gemma models|qwen models)
        (can|may) i (run|use) (llama|mistral|qwen|qwen2|qwen3|gemma|phi|phi-3|llama 3)(| with exo| on exo| on my cluster|)
        (is|are) (llama|mistral|qwen|gemma|phi|phi-3|qwen3)(| models) (supported|ok|possible)
        (list|name) (the |)(supported |)(architectures|model families|families)""",
    ),
    _topic(
        "download",
        "Give a Hugging Face repo id or a short alias such as llama-3.2-1b, and exo downloads the model. With --offline it uses "
        "only local files.",
        about="""
        (--offline|the --offline (flag|option)|a model alias|an alias|a repo id|offline mode|the hugging face hub)""",
        do="""
        (download|fetch|get|pull|obtain) (a |new |more |other |big |some |)(model|models|weights|llama|checkpoint|model files)(| from hugging face| from the hub| from the internet|)
        (use|run|load) (a model|models|weights) (from|of|on) (hugging face|huggingface|the hub|the hugging face hub)
        (use|run) exo (offline|without internet|without the internet|with no internet)
        (stop|keep) exo from downloading""",
        ask="""
        where (do|does) (the |exo's |)(models|weights|model files) come from
        (does|can|will) exo (download|fetch|pull|get) (models|weights|the weights|a model)(| by itself| for me| from hugging face| automatically|)
        (does|can|will) exo (work|run) (offline|without internet|without the internet|with no network)
        (do i need|does exo need|is) (the |an |)internet( needed| connection| access|)
        (is hugging face supported|does exo use hugging face|does exo know hugging face|hugging face)
        (what does|what is) --offline( do| for|)""",
    ),
    _topic(
        "adapter",
        "The adapter decides for each request which backend answers: the local ring or, through LiteLLM, a cloud model.",
        about="""
        (the adapter|an adapter|adapter|the litellm adapter|litellm|a backend|the backend|the adapter in exo|cloud fallback|a fallback|a deployment)""",
        do="""
        (use|add|call|reach|include) (a |)(cloud models|cloud model|cloud|remote models|external models|cloud provider|litellm)(| with exo| from exo| as a fallback| too|)
        (fall back to|switch to) (the cloud|a cloud model)""",
        ask="""
        (what|how) does the adapter (do|work|decide|choose|choose a backend|pick)
        (who|what|which part) (decides|chooses|picks|selects) (which backend answers|the backend|between the ring and the cloud|where a request goes|which model answers a request|the backend of a request)
        (can|does|will) exo (use|call|reach|work with|talk to) (cloud models|the cloud|litellm|openai models|cloud providers|a cloud model)
        (what is|what does|why) (litellm)( for| do| used for|)(| in exo)
        how (is|are) (a request|requests) routed
        (what if|what happens when) (my ring|the ring) is (too slow|busy|down)""",
    ),
    _topic(
        "runner",
        "A runner is the process on a node that holds one shard. If it crashes, the daemon lives on.",
        about="""
        (a runner|runners|runner|the runner|the runners|a runner process|a runner in exo)""",
        ask="""
        what (does runner mean|does a runner do|do runners do|do you call a runner|runs a shard|process holds a shard)
        (what happens (if|when)|what if) (a runner|a runner process|an engine|the runner|the engine|a gpu process) (crashes|dies|fails|is killed|stops|goes down)
        (which|what) process (holds|runs|owns|loads) (a|the|one) shard
        (what is|what's) the (role|job|task) of (a|the) runner
        (does|will) the daemon (die|crash|survive|live|stop) (if|when) a runner (crashes|dies|fails)""",
    ),
    _topic(
        "hidden",
        "Hidden states are the numbers that one layer hands to the next. In exo they travel round the ring and come home to the "
        "head.",
        about="""
        (hidden states|a hidden state|the hidden states|hidden state|activations|the activations|hidden states in exo)""",
        ask="""
        what (does hidden state mean|do nodes send|do nodes send to each other|do the nodes send round the ring|is sent (round the ring|between shards|from shard to shard)|travels round the ring|is in a message of the ring)
        (where|how) do (the |)(hidden states|activations) (go|travel|move|end|flow|come home)
        why do (the |)hidden states (come home|travel|go round|travel round the ring)""",
    ),
    _topic(
        "platforms",
        "Exo needs Python 3.11 or newer. It runs on Macs with Apple Silicon and on Linux.",
        about="""
        (the (requirements|system requirements|supported platforms|required python version|platforms))""",
        ask="""
        (what|which) (python|python version|version of python|operating systems|operating system|os|platforms|platform|systems) (does exo|do i|does it|is|are|can i) (need|require|needed|required|run on|support|supported|use|work on)
        (what are the|what are exo's|the|) (requirements|system requirements|prerequisites|supported platforms|dependencies)(| of exo| for exo|)
        (does|will|can) (exo|it) (run|work) on (linux|ubuntu|debian|my linux machine|a linux server|linux machines)
        (do i need|does exo need|is) python( needed| 3.11|)
        (is|are) (linux|macos|macs|ubuntu) supported
        what do i need to (run|use|start) exo
        (is python 3.9 enough|is python 3.10 enough|can i use python 3.12|which python)""",
    ),
    _topic(
        "debug",
        "Start exo with -v, or set DEBUG, for example DEBUG=2, to see more in the log.",
        about="""
        (the -v flag|-v|the debug variable|debug=2|verbose mode|the debug setting|the log|debugging)""",
        do="""
        (debug|trace|troubleshoot|find a bug in|look inside) (exo|a node|a problem|problems|an error)
        (see|get|show|print|turn on|enable|switch on|have) (more |the |)(logs|log|debug output|messages|log messages|verbose output|details|debug log|verbose mode|debug mode|logging)""",
        ask="""
        (what does|what is) (-v|DEBUG=2|the -v flag)( do| for|)
        (which|what) (flag|option|variable|setting) (shows more|turns on debugging|makes exo verbose|is for debugging|gives more logs|sets the log level)
        (something is wrong|something does not work|exo does not work|it does not work|there is a problem|i get an error|i have a problem|exo fails)(| what can i do| what now| how do i debug it|)
        (where are|how do i see) the (logs|log messages)""",
        weight=0.9,
    ),
    _topic(
        "privacy",
        "With local models your prompts stay on your own machines.",
        about="""
        (privacy|the privacy of exo|privacy in exo)""",
        ask="""
        (is exo|are my prompts|are my data|is my data|is it|are my chats|is my text) (private|kept private|safe from others|kept at home|confidential|secret|private with exo)
        (who|can anyone|can others|can someone|does anyone|can a company) (can |)(see|read|get|look at) (my prompts|my data|my chats|what i write|my text|what i ask)
        (where|do) (do |)(my prompts|my data|my chats|my texts) (go|stay|end up|leave my machines|leave my computer|leave my network|get sent away)
        (does exo|do you|does it) (send|share|collect|store|sell|leak|upload) (my data|my prompts|data|my chats|anything)(| to the internet| to the cloud| to anyone|)
        (does my data|do my prompts) (leave|stay on) (my machine|my machines|my computer|home)""",
        weight=0.9,
    ),
    _topic(
        "commands",
        "The main commands are exo, exo run, exo status, exo list, exo load, exo unload, exo key and exo join.",
        about="""
        (the commands|the main commands|exo's commands|the command line|the cli|the exo cli|the verbs of exo)""",
        ask="""
        (what|which) (commands|sub-commands|verbs|subcommands|cli commands) (are there|does exo have|does exo know|can i use|exist|can i type|do i need to know|does it have|do i have)
        (list|show|name|tell me|give me) (me |)(all |the |all the |some |)(commands|exo commands|sub-commands|verbs|main commands)(| of exo|)
        how do i use the command line
        (commands|command list|cli help|exo help|exo commands)""",
        weight=0.9,
    ),
    _topic(
        "joke",
        "Why did the hidden states go round the ring? They wanted to come home.",
        ask="""
        (tell|give|say|make) (me |us |)(a |one |another |some |your best |a good |a short |)(joke|jokes)(| please| about exo| about computers|)
        (do you know|can you tell|do you have|know) (me |)(a |any |some |good )(joke|jokes)
        (make me (laugh|smile)|say something funny|be funny|joke|i want to laugh|something funny|cheer me up)""",
        weight=0.7,
    ),
    _topic(
        "arithmetic",
        "I can only add and subtract numbers below 100.",
        ask="""
        (what is|how much is|compute|calculate|) # (times|*|x|multiplied by|divided by|/|over|to the power of|mod) #
        (multiply|divide) # (by|and) #
        (what is|compute|calculate|) the (square root|square|cube|half|double) of #
        (can|could) you (multiply|divide|do multiplication|do division|do algebra|solve equations|do hard math)
        (do you|can you) (do|know|understand) (math|maths|sums|arithmetic|numbers|adding|calculus)
        (what is|how much is|compute|) ## (plus|+|minus|-) ##""",
        weight=1.0,
    ),
)

STORIES: dict[
    str, tuple[str, str]
] = {  # subject -> (words that name it, story); the first is told when no subject is named
    "computer": (
        "computer|laptop|machine|node|exo|ring",
        "Once upon a time a little computer wanted to run a big model, but the model was too "
        "big for it. It called its friends, each took some layers, and together they told stories all night. The end.",
    ),
    "cat": (
        "cat|kitten|animal|pet",
        "Once upon a time a cat found a warm computer and slept on it. The computer hummed softly, and both dreamed "
        "of fish and stars until the morning. The end.",
    ),
    "robot": (
        "robot|android|machine man|bot",
        "Once upon a time a robot planted a seed in a quiet garden. It waited many days, and when the first "
        "flower opened, the robot learned to smile. The end.",
    ),
    "dragon": (
        "dragon|knight|princess|castle|king|queen",
        "Once upon a time a small dragon was afraid of fire. A kind girl gave it a candle, and "
        "it learned that a little light can be a friend. The end.",
    ),
    "sea": (
        "sea|ship|boat|fish|ocean|sailor|island",
        "Once upon a time a paper boat sailed down a river to the sea. A whale carried it home on its "
        "back, and they met again every summer. The end.",
    ),
    "moon": (
        "moon|star|stars|space|sky|rocket|night",
        "Once upon a time the moon felt lonely. A child waved to it from a window every night, and "
        "the moon was never lonely again. The end.",
    ),
}
STORY_ASK = _lines("""
    (tell|read|give|write|make up|invent|narrate) (me |us |)(a|one|another|some) (short |little |nice |small |good |funny |new |brief |lovely |bedtime |)(story|tale|fairy tale)
    (can|could|would|will) you (please |)(tell|read|give|write|make up|invent) (me |us |)(a|one) (short |little |nice |small |good |bedtime |)(story|tale|fairy tale)
    i (want|would like|need|would love|wish) (to hear |to read |)(a|one) (short |little |nice |small |good |bedtime |)(story|tale|fairy tale)
    (story|a story|a short story|story time|short story|one story|bedtime story|a tale)(| please)
    (do you know|have you got|do you have) (a|any|some) (short |little |nice |good |)(story|stories|tale|tales)
    (let me hear|let us hear|how about|what about) (a|one) (short |little |nice |)(story|tale)
    (once upon a time|begin a story|start a story|continue once upon a time)
    (please |)(entertain me|amuse me|i am bored|i cannot sleep)(| tell me a story| with a story|)
""")
