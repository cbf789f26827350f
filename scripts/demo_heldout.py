"""100 questions that no training corpus of the `demo` model may hold, each with what a right answer is.

The second column is a topic of `demo_topics.TOPICS`, `story:SUBJECT`, `unknown`, or a sum such as `7 + 5`. They were written
by hand before the first training run; `demo_corpus.turn` skips a question that is equal to one of them after normalising
(lower case; letters, digits and operators only), and `--evaluate` checks that none is in the corpus.
"""

from __future__ import annotations

HELD_OUT: tuple[tuple[str, str], ...] = tuple(
    (question.strip(), right.strip())
    for question, right in (
        line.split(" => ")
        for line in """
Hi, who is there? => hello
Hello my dear demo! => hello
Good evening, little friend. => hello
Hey, are you doing alright today? => mood
Are things going well for you? => mood
Thank you so much, you are great! => thanks
Thanks, that answer was perfect. => thanks
Goodbye, I must go home now. => bye
See you again tomorrow, bye! => bye
Who exactly am I speaking to here? => identity
So what sort of model are you called? => identity
Please tell me about you, demo. => identity
In which things can you help people? => skills
What kind of questions could I ask you? => skills
Who was it that trained you? => maker
Which people are the authors of exo? => maker
What is exo, in a few words? => exo
Could you explain to me what exo does? => exo
I am new here: what is this exo thing? => exo
For what would I use exo-node? => exo
How would I get exo to start on my two laptops? => start
What command do I type to launch a node? => start
What is the way to install exo on my new laptop? => install
How do you set exo up on a fresh computer? => install
Which port is the exo API listening on? => port
I need to know the port number exo uses. => port
How could I make the API use a different port? => port
Does the OpenAI Python library work with exo? => api
What URL should I give my OpenAI client? => api
Which HTTP API do you offer to programs? => api
Explain how the ring in exo really works. => ring
How do several nodes run one model together? => ring
How is the work of a model shared in the ring? => ring
How is it that my machines find each other? => mdns
By what means do nodes discover other nodes? => mdns
What is mDNS good for in exo? => mdns
What engines can I use with exo? => engines
Tell me the names of exo's engines. => engines
Is it possible to mix MLX and tinygrad in one ring? => engines
How do I tell a node to use the tinygrad engine? => choose-engine
Please explain MLX to me. => mlx
What engine will exo use on my MacBook? => mlx
What can you tell me about tinygrad? => tinygrad
Which engine would run on my NVIDIA card? => tinygrad
In which way do the nodes talk with one another? => grpc
What is gRPC used for between the runners? => grpc
What job does the head of a ring have? => head
Which of the runners picks the next token? => head
Could you define a shard for me? => shard
What part of the model does one node load? => shard
In what way are layers split across my nodes? => placement
How does exo decide which node gets how many layers? => placement
What exactly do you mean by a node? => node
Can you say what a cluster is in exo? => cluster
What is the use of a cluster key? => key
How can I keep my cluster safe with a phrase? => key
What does the command exo key show me? => key
How would I add my second laptop to the cluster? => join
What must I do so that another machine joins? => join
How can I ask a model something from my terminal? => run
Which command do I need to run a model? => run
How can I see if all my nodes are up? => status
What will exo status print? => status
Show me all models that exo knows about. => list
How do I get a list of the models? => list
How can I load a model on at least three nodes? => load
Which command would place a model on the cluster? => load
How can I get rid of a loaded model again? => unload
I want to free the memory that a model uses. => unload
How can I keep exo from using all of my RAM? => memory
Is there an option to limit memory? => memory
Explain the word instance. => instance
Where should I place my own model files? => models-dir
How could exo run my own checkpoint from a folder? => models-dir
Which families of language models can exo run? => families
Would exo run Qwen3 or Gemma? => families
How do I get a model from Hugging Face? => download
Can I use exo with no internet connection? => download
What is the adapter there for? => adapter
What is a runner in exo's words? => runner
What are hidden states, please? => hidden
Which version of Python does exo want? => platforms
How can I turn on more log output? => debug
Will my prompts stay private with exo? => privacy
What are all the commands that exo has? => commands
What is the capital city of Spain? => unknown
Who was the first man on the moon? => unknown
Can you write a poem in German? => unknown
Would you please work out 8 + 6 for me? => 8 + 6
Tell me, how much would 12 + 7 be? => 12 + 7
I have to add 9 and 4, what do I get? => 9 + 4
The sum of 15 and 3 equals what? => 15 + 3
What remains when I take 6 away from 14? => 14 - 6
17 - 9 makes what number? => 17 - 9
Do you happen to know what 20 minus 5 gives? => 20 - 5
Could you find out what five plus eleven is? => 5 + 11
My sum today: 31 + 24, the answer please => 31 + 24
Please tell me a really short story now. => story:computer
I would love a story about a little cat. => story:cat
Do you have a story for me about the sea? => story:sea
""".strip().splitlines()
    )
)
