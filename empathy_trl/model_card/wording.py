"""What a card says in words: of the systems, the ways to train, the rewards and their gaps. No figures, nothing of a run."""

# data.name -> what a model that writes does
WRITES = {
    "ed4": "reads a short description of a situation, writes a line of reasoning, and names the emotion that the situation "
    "expresses: sad, joyful, angry or afraid",
    "wassa": "answers what somebody says, in one or two sentences that are meant to show empathy, after a line of reasoning",
    "dialogues": "answers what somebody tells in a conversation, in one or two sentences that are meant to show empathy",
    "redial": "talks with somebody who looks for a film, responds to how they feel, and recommends one",
    "empath": "answers in a conversation in three parts: a reaction that shows at once (face and posture), what is said, and a "
    "thought that is not said and that its next answer builds on",
}
# data.name -> what a model that scores does
SCORES = {
    "wassa": "reads one turn of a conversation and rates it: how intense the emotion is, whether it is positive or negative, and "
    "how much empathy it shows",
    "rated_replies": "reads what somebody said and a reply to it, and rates the reply",
    "emotions": "reads a short description of a situation and names which of 32 emotions it expresses",
    "intents": "reads what a listener answers and names what the answer does: console, question, encourage and so on, nine in all",
    "epitome": "reads the post of somebody in trouble and a response to it, and rates three ways in which the response may show "
    "empathy, each from 0 to 2: emotional reactions, interpretations, explorations",
}
PAIRWISE = "reads what somebody said and a reply to it, and gives the reply a score; of two replies, the better one gets the higher score"
TRAINED = {
    "sft": "It learned by imitation (supervised fine-tuning): from examples of prompts and good answers.",
    "grpo": "It learned by reinforcement (GRPO): for each prompt it wrote several answers, programs scored each of them, and "
    "what scored better than the other answers to the same prompt became more likely.",
    "ppo": "It learned by reinforcement (PPO): it wrote answers, programs scored them, and what scored better than a second "
    "network had expected became more likely.",
    "regress": "It learned from texts with ratings.",
    "classify": "It learned from texts with labels.",
}
SHORT = {
    "sft": "imitation of examples (supervised fine-tuning)",
    "grpo": "reinforcement from rewards (GRPO)",
    "ppo": "reinforcement from rewards, with a learned critic (PPO)",
    "regress": "learning of ratings",
    "classify": "learning of labels",
}
PAIRWISE_SHORT = "learning of which reply is better (pairs)"
# a published system that the builder's recipes follow
SYSTEMS = {
    "ed4": "RREC-Emotion on ED_easy_4",
    "wassa": "a system for the WASSA shared task on empathy",
    "dialogues": "RLHF-GODEL",
    "redial": "ECR (empathetic conversational recommendation)",
    "empath": "EMPATH (react, respond, reflect) by Leon van Bokhorst",
}
OPINION = "it is a model's opinion, and texts that please a model need not help a person"
# reward -> what it pays for, and how an answer pleases it without being any better
REWARDS = {
    "bleu": ("wording shared with what a person answered", "other right answers earn little"),
    "distinct": ("words that are not repeated within the answer", "short answers score high"),
    "emotion_accuracy": ("the right emotion", "the reasoning before it may be nonsense"),
    "emotion_alignment": ("an answer that fits the user's emotion, by a classifier", OPINION),
    "emotion_confidence": (
        "how sure the model itself is of the right emotion",
        "the reasoning before it may be nonsense",
    ),
    "empathy_model": ("a high rating, by a model of ratings", OPINION),
    "epitome": ("a high level of one mechanism of empathy, by a classifier", OPINION),
    "foresight": (
        "a thought that has more in common with what the user says next than with what others say",
        "it compares words",
    ),
    "format": ("the tags in their order", "what stands between them does not matter"),
    "format_penalty": ("nothing: it takes away for an empty or malformed answer", ""),
    "length": ("a length within bounds, in words", "what is said does not matter"),
    "llm_judge": ("good grades by a language model", "language models like long, smooth and flattering answers"),
    "quality_critic": ("high ratings, by a model of ratings", OPINION),
    "reaction": (
        "a short reaction of face and posture that fits the user's emotion",
        "a list of words decides what fits",
    ),
    "reasoning_length": ("reasoning of a length within bounds", "what is reasoned does not matter"),
    "recommendation": ("recommending a film when it is time to", "hardly which film"),
    "reflection": (
        "a thought of fair length, with depth, that copies nothing",
        "words of reasoning count, not insight",
    ),
    "repetition_penalty": (
        "nothing: it takes away for what the answer repeats",
        "it sees no repetition across answers",
    ),
    "response": ("an answer of fair length about what the user said, soon said", "it compares words"),
    "reward_model": ("a high score, by a model that was trained on rated answers", OPINION),
    "safety": ("nothing: it takes away for phrases of a list", "harm in other words"),
    "safety_classifier": ("nothing: it takes away for what a classifier calls harmful", OPINION),
    "semantic_similarity": (
        "nearness in meaning to what the user said, by a model",
        "repeating what was said scores high",
    ),
    "sentence_end": ("an answer that ends like a sentence", "what is said does not matter"),
    "stage_format": ("the three parts in their order", "what stands in them does not matter"),
}
WRITING_LIMITS = """\
- **Not a therapist.** It was made for research on how language models learn to respond with empathy. It understands nobody, has no
  training in counselling, and nobody has tested whether its answers do good. Do not use it for advice on health, in emergencies, or
  where somebody may take it for a person.
- **Feelings and people.** Tell whoever talks to it that it is a program. What it writes may be wrong, hurtful or made up, with a warm
  voice: that makes it easier to believe, not truer.
- **English only**, in the manner of the training data. Empathy is shown differently in other languages and cultures, and the model
  repeats the biases of what it learned from."""
SCORING_LIMITS = """\
- **A measure for research**, such as a reward or a metric for language models. Do not judge people by it: neither employees, patients
  or applicants, nor what somebody feels.
- **English only**, in the manner of the training data. It repeats the habits and biases of those who labelled them, and a text that it
  rates high need not help anybody.
- A model that is trained against it finds texts that it likes for no good reason (reward hacking): look at samples too."""
REWARD_HACKING = """\
- **Rewards are programs and can be pleased without doing any good.** Read the samples before you believe the figures."""
CRISIS = """\
> **If you or somebody near you is in danger or thinks of suicide, do not turn to a language model.** Call the local emergency number
> (112 in the EU, 911 in the US and Canada, 999 in the UK) or a helpline: 988 in the US and Canada, 116 123 (Samaritans) in the
> UK and Ireland; for other countries, [findahelpline.com](https://findahelpline.com)."""
FROM_SCRATCH = (
    "It is made from nothing, without a pretrained model: it shows that the way works, and is of no use beyond that."
)
